"""`tuban export`: findings as layers, ledger or report, for the programs inspectors use."""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuban.data.vector import layer_names
from tuban.errors import UsageError
from tuban.postprocess.evidence import Evidence
from tuban.postprocess.export_files import place, target_of
from tuban.postprocess.export_job import CHANGES, LAYER, Job, write_sidecar
from tuban.postprocess.export_report import write_report_of
from tuban.postprocess.fields import load_fields
from tuban.postprocess.fingerprint import fingerprint
from tuban.postprocess.formats import SUFFIXES, VECTOR, refuse_placeless, write_geoparquet, write_vector
from tuban.postprocess.geodatabase import DomainRows, write_geodatabase
from tuban.postprocess.ledger import write_ledger
from tuban.postprocess.page import LANGUAGES
from tuban.postprocess.postgis import parse_target, write_postgis
from tuban.postprocess.restrict import Restriction
from tuban.postprocess.rows import Rows
from tuban.postprocess.shapefile import ShapeRows, write_shapefiles
from tuban.postprocess.streams import output_errors, read_info

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.postprocess.report import ReportSettings
    from tuban.postprocess.sources import PixelSource, ZoneSource

logger = logging.getLogger(__name__)

FORMATS = (*SUFFIXES, "postgis")
"""Formats that work."""

_REPORTS = ("html", "pdf")


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
    job = Job(
        source, load_fields(profile), restriction, "zh" if lang == "zh" else "en", batch, pictures, evidence, report
    )
    if fmt == "postgis":
        return _to_database(job, str(out))
    target = target_of(out, fmt)
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
                write_sidecar(job, fmt, draft, rows)
            files = place(folder, draft, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    notes += restriction.statements("en")
    if not rows:
        notes.append("there are no findings; the changes are in the layer `changes` of findings.gpkg")
    logger.info("exported %d findings as %s", rows, fmt)
    return ExportResult(files[0], files, rows, tuple(notes))


def _write(job: Job, fmt: str, draft: Path) -> tuple[int, list[str]]:
    """Write the file and return its rows, and what the format could not hold."""
    if fmt in _REPORTS:
        return write_report_of(job, fmt, draft)
    if fmt == "gpkg" and job.table.id == "neutral" and job.source.suffix == ".gpkg" and not job.restriction.active:
        # Nothing is renamed: the whole file with all layers and styles.
        count, _ = read_info(job.source, LAYER)
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


def _to_database(job: Job, url: str) -> ExportResult:
    """Export into PostGIS; the layer `changes` goes with the findings."""
    target = parse_target(url)
    run = job.run()
    run_id = str(run["content_sha256"])[:16] if run is not None else fingerprint(str(job.source)).sha256[:16]
    findings = job.rows(Rows)
    layers = {LAYER: findings}
    if "changes" in layer_names(job.source):
        layers["changes"] = job.rows(Rows, layer="changes", table=CHANGES)
    facts: dict[str, Any] = {"profile": job.table.id, "lang": job.lang, "left_out": job.restriction.intent()}
    facts |= {key: (run or {}).get(key) for key in ("command", "versions", "model", "content_sha256")}
    notes = write_postgis(target, run_id, facts, layers)
    said = [*notes, *job.restriction.statements("en")]
    return ExportResult(target.shown, (), findings.count, tuple(said))
