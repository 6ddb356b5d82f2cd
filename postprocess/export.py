"""`tuban export`: findings as layers, ledger or report, for the programs inspectors use."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tuban.data.vector import layer_names
from tuban.errors import UsageError
from tuban.postprocess.evidence import Evidence, reopened
from tuban.postprocess.fields import FieldTable, fit, load_fields
from tuban.postprocess.fingerprint import fingerprint
from tuban.postprocess.formats import SUFFIXES, VECTOR, refuse_placeless, write_geoparquet, write_vector
from tuban.postprocess.geodatabase import DomainRows, write_geodatabase
from tuban.postprocess.ledger import write_ledger
from tuban.postprocess.manifest import FILE_NAME
from tuban.postprocess.page import LANGUAGES
from tuban.postprocess.postgis import SCHEMES, parse_target, write_postgis
from tuban.postprocess.report import write_pdf, write_report
from tuban.postprocess.restrict import PLACE_COLUMNS, Restriction
from tuban.postprocess.rows import Rows
from tuban.postprocess.shapefile import ShapeRows, write_shapefiles
from tuban.postprocess.streams import output_errors, read_columns, read_info

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.postprocess.fields import Lang
    from tuban.postprocess.report import ReportSettings
    from tuban.postprocess.sources import PixelSource, ZoneSource

logger = logging.getLogger(__name__)

FORMATS = (*SUFFIXES, "postgis")
"""Formats that work."""

_LAYER = "findings"
_REPORTS = ("html", "pdf")
_CHANGES = FieldTable.model_validate(
    {
        "id": "changes",
        "title": {"zh": "变化图斑", "en": "Changes"},
        "further": "keep",
        "fields": [
            {"name": "change_id", "shp": "CHANGE_ID", "zh": "变化图斑编号", "en": "Change", "source": "change_id"}
        ],
    }
)
Kind = TypeVar("Kind", bound=Rows)


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        path: the file or folder (File GDB) to open, or the address of the database without its password.
        files: everything written, in order; nothing for a database.
        rows: findings in it.
        notes: what the format could not hold, and what was left out.
    """

    path: Path | str
    files: tuple[Path, ...]
    rows: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Job:
    """What is exported and how; the same for every format."""

    source: Path
    table: FieldTable
    restriction: Restriction
    lang: Lang
    batch: int
    pictures: bool
    evidence: Evidence | None
    report: ReportSettings | None

    def rows(
        self, kind: type[Kind], *, wgs84: bool = False, layer: str = _LAYER, table: FieldTable | None = None
    ) -> Kind:
        """Return the findings (or another layer) on their way into a file."""
        # Layers beside the findings count for themselves what is left out.
        restriction = self.restriction if layer == _LAYER else dataclasses.replace(self.restriction)
        return kind(
            self.source,
            table or self.table,
            restriction,
            lang=self.lang,
            batch=self.batch,
            wgs84=wgs84,
            layer=layer,
        )

    def run(self) -> dict[str, Any] | None:
        """Return the record of the run beside the findings; None where there is none."""
        record = self.source.parent / FILE_NAME
        if not record.is_file():
            return None
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return found


def export(
    findings_gpkg: str | Path,
    fmt: str,
    out: str | Path,
    *,
    lang: str = "zh",
    profile: str = "neutral",
    clip: str | Path | None = None,
    precision_m: float = 0.0,
    geometry: bool = True,
    pictures: bool = True,
    pair: PixelSource | None = None,
    zones: Sequence[ZoneSource] = (),
    report: ReportSettings | None = None,
    batch: int = 5000,
) -> ExportResult:
    """Write the findings of a run in another format.

    Args:
        findings_gpkg: `findings.gpkg` of a run, or the run's folder.
        fmt: one of `FORMATS`.
        out: the file to write, or an existing folder (then the file is called `findings` plus the format's suffix);
            for `postgis` the address of the database, `postgresql://USER@HOST/DATABASE?schema=tuban`.
        lang: language of headings and words, `zh` or `en`.
        profile: field table, `neutral`, `cn-weipian` or the path of a YAML file (`docs/exports.md`).
        clip: vector file; only what lies in its polygons is exported.
        precision_m: snap outlines and centres to a grid of this many metres; 0 leaves them.
        geometry: False leaves out outlines, coordinates and pictures.
        pictures: whether reports show pictures; the images and plan of the run are opened again, if they are as they
            were.
        pair: pixels for the pictures, instead of those of the run.
        zones: plan layers for the pictures, with `pair`.
        report: sizes and number of cards of reports.
        batch: findings held in memory at a time.

    Returns:
        What was written; `notes` says what the format could not hold.

    Raises:
        UsageError: unknown format, language or field table, an `out` with another format's suffix, or a format that is
            nothing without geometry.
        PairError: `clip` holds no polygon.
        VectorError: the findings cannot be read.
        OutputError: the result cannot be written; nothing is left under its final name.
    """
    if fmt not in FORMATS:
        raise UsageError(f"cannot export to {fmt!r}; the formats that work are: {', '.join(FORMATS)}")
    if lang not in LANGUAGES:
        raise UsageError(f"no headings in language {lang!r}; use one of: {', '.join(LANGUAGES)}")
    restriction = Restriction(None if clip is None else Path(clip), precision_m, geometry)
    if not geometry:
        refuse_placeless(fmt)
    source = Path(findings_gpkg)
    source = source / "findings.gpkg" if source.is_dir() and source.suffix != ".gdb" else source
    evidence = Evidence(pair, tuple(zones)) if pair is not None or zones else None
    job = _Job(
        source, load_fields(profile), restriction, "zh" if lang == "zh" else "en", batch, pictures, evidence, report
    )
    if fmt == "postgis":
        return _to_database(job, str(out))
    target = _target(_file(out), fmt)
    if target.resolve() == source.resolve():
        raise UsageError(f"{target} is the file to export from; give another --out")
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".tuban-", dir=target.parent))
    try:
        draft = folder / target.name
        with output_errors(target):
            rows, notes = _write(job, fmt, draft)
            if restriction.active:
                _sidecar(job, fmt, draft, rows)
            files = _place(folder, draft, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    notes += restriction.statements("en")
    if not rows:
        notes.append("there are no findings; the changes are in the layer `changes` of findings.gpkg")
    logger.info("exported %d findings as %s", rows, fmt)
    return ExportResult(files[0], files, rows, tuple(notes))


def _write(job: _Job, fmt: str, draft: Path) -> tuple[int, list[str]]:
    """Write the file and return its rows, and what the format could not hold."""
    if fmt in _REPORTS:
        return _report(job, fmt, draft)
    if fmt == "gpkg" and job.table.id == "neutral" and job.source.suffix == ".gpkg" and not job.restriction.active:
        # Nothing is renamed: the whole file with all layers and styles.
        count, _ = read_info(job.source, _LAYER)
        shutil.copyfile(job.source, draft)
        return count, []
    if fmt == "shp":
        short = job.rows(ShapeRows)
        _, notes = write_shapefiles(short, draft)
        return short.count, notes
    if fmt == "gdb":
        coded = job.rows(DomainRows)
        notes = write_geodatabase(coded, draft)
        return coded.count, notes
    rows = job.rows(Rows, wgs84=fmt in VECTOR and VECTOR[fmt].wgs84)
    notes = []
    if fmt == "xlsx":
        notes = write_ledger(draft, rows)
    elif fmt == "geoparquet":
        write_geoparquet(rows, draft)
    else:
        write_vector(rows, draft, fmt)
    return rows.count, notes


def _report(job: _Job, fmt: str, draft: Path) -> tuple[int, list[str]]:
    run = job.run()
    if run is None:
        raise UsageError(
            f"no {FILE_NAME} beside {job.source}; the report needs it, so export from the folder of the run"
        )
    judged = run.get("rule_pack") is not None
    findings = job.rows(Rows)
    changes = job.rows(Rows, layer="changes", table=_CHANGES)
    # A coarsened export must not show on pictures what it hides elsewhere.
    wanted = job.pictures and job.restriction.geometry and not job.restriction.precision_m
    with contextlib.ExitStack() as stack:
        evidence = Evidence()
        if wanted:
            evidence = job.evidence or stack.enter_context(reopened(run, job.source.parent))
        write = write_report if fmt == "html" else write_pdf
        summary = write(
            draft,
            run=run,
            findings=findings.frames() if judged else None,
            changes=changes.frames(),
            pair=evidence.pair,
            zones=evidence.zones,
            lang=job.lang,
            settings=job.report,
            left_out=lambda: (findings if judged else changes).restriction.statements(job.lang),
        )
    notes = [*evidence.notes, *summary.notes]
    if evidence.pair is None:
        notes.append("the report has no before/after pictures")
    if summary.cards < summary.total:
        notes.append(f"{summary.cards} of {summary.total} have a page of their own; raise report.max_cards for more")
    return findings.count if judged else 0, notes


def _to_database(job: _Job, url: str) -> ExportResult:
    """Export into PostGIS; the layer `changes` goes with the findings."""
    target = parse_target(url)
    run = job.run()
    run_id = str(run["content_sha256"])[:16] if run is not None else fingerprint(str(job.source)).sha256[:16]
    findings = job.rows(Rows)
    layers = {_LAYER: findings}
    if "changes" in layer_names(job.source):
        layers["changes"] = job.rows(Rows, layer="changes", table=_CHANGES)
    facts: dict[str, Any] = {"profile": job.table.id, "lang": job.lang, "left_out": job.restriction.intent()}
    facts |= {key: (run or {}).get(key) for key in ("command", "versions", "model", "content_sha256")}
    notes = write_postgis(target, run_id, facts, layers)
    said = [*notes, *job.restriction.statements("en")]
    return ExportResult(target.shown, (), findings.count, tuple(said))


def _sidecar(job: _Job, fmt: str, draft: Path, rows: int) -> None:
    """Write what was left out beside a restricted export, with the hash of what it was made from."""
    run = job.run() or {}
    table = fit(job.table, read_columns(job.source, _LAYER), without=() if job.restriction.geometry else PLACE_COLUMNS)
    record = {
        "schema": "tuban-export/1",
        "format": fmt,
        "rows": rows,
        "restriction": job.restriction.facts(),
        "statements": {lang: job.restriction.statements(lang) for lang in LANGUAGES},
        "source": {"name": job.source.name, "sha256": fingerprint(str(job.source), sidecars=False).sha256},
        "run": run.get("content_sha256"),
        "profile": job.table.id,
        "fields": [{"name": f.name, "shp": f.shp, "zh": f.zh, "en": f.en, "source": f.source} for f in table.fields],
    }
    text = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
    draft.with_name(f"{draft.name}.export.json").write_text(text, encoding="utf-8", newline="\n")


def _file(out: str | Path) -> Path:
    if str(out).startswith(tuple(f"{scheme}:" for scheme in SCHEMES)):
        raise UsageError(f"{parse_target(str(out)).shown} is a database; use --format postgis")
    return Path(out)


def _target(out: Path, fmt: str) -> Path:
    suffix = SUFFIXES[fmt]
    if out.is_dir() and out.suffix.lower() != ".gdb":
        return out / f"{_LAYER}{suffix}"
    if out.suffix.lower() == suffix or (fmt == "geojson" and out.suffix.lower() == ".json"):
        return out
    if out.suffix:
        raise UsageError(f"--out {out} does not end in {suffix}, as {fmt} needs; rename it or give a folder")
    return out.with_name(out.name + suffix)


def _place(folder: Path, draft: Path, target: Path) -> tuple[Path, ...]:
    """Give every finished file its final name, the one people open last; return that one first."""
    parts = sorted(folder.iterdir(), key=lambda part: (part == draft, part.name))
    placed = []
    for part in parts:
        final = target.parent / part.name
        if final.is_dir():
            # A folder cannot be replaced in one step: the old one steps aside into the temporary folder.
            final.replace(folder / f"{part.name}.old")
        part.replace(final)
        placed.append(final)
    # A Shapefile that was split has no file of the target's own name.
    first = target if target in placed else next(part for part in placed if part.suffix == target.suffix)
    return (first, *(part for part in placed if part != first))
