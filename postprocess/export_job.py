"""What an export reads, and the record of the run it was made from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tuban.postprocess.fields import FieldTable, fit
from tuban.postprocess.fingerprint import fingerprint
from tuban.postprocess.manifest import FILE_NAME
from tuban.postprocess.page import LANGUAGES
from tuban.postprocess.restrict import PLACE_COLUMNS, Restriction
from tuban.postprocess.rows import Rows
from tuban.postprocess.streams import read_columns

if TYPE_CHECKING:
    from pathlib import Path

    from tuban.postprocess.evidence import Evidence
    from tuban.postprocess.fields import Lang
    from tuban.postprocess.report import ReportSettings

LAYER = "findings"
CHANGES = FieldTable.model_validate(
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
class Job:
    """What is exported and how; the same for every format.

    Attributes:
        source: `findings.gpkg`.
        table: the fields.
        restriction: what is left out.
        lang: language of headings and words.
        batch: findings held in memory at a time.
        pictures: whether reports may show any.
        evidence: what they are cut from, where given; else the run's own images.
        report: settings of reports.
    """

    source: Path
    table: FieldTable
    restriction: Restriction
    lang: Lang
    batch: int
    pictures: bool
    evidence: Evidence | None
    report: ReportSettings | None

    def rows(
        self, kind: type[Kind], *, wgs84: bool = False, layer: str = LAYER, table: FieldTable | None = None
    ) -> Kind:
        """Return the findings (or another layer) on their way into a file."""
        # Layers beside the findings count for themselves what is left out.
        restriction = self.restriction if layer == LAYER else dataclasses.replace(self.restriction)
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


def write_sidecar(job: Job, fmt: str, draft: Path, rows: int) -> None:
    """Write what was left out beside a restricted export, with the hash of what it was made from."""
    run = job.run() or {}
    table = fit(job.table, read_columns(job.source, LAYER), without=() if job.restriction.geometry else PLACE_COLUMNS)
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
