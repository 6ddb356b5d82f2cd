"""The report of a run, written once more by `tuban export`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tuban.errors import UsageError
from tuban.postprocess.evidence import Evidence, reopened
from tuban.postprocess.export_job import CHANGES
from tuban.postprocess.manifest import FILE_NAME
from tuban.postprocess.report import write_report
from tuban.postprocess.rows import Rows

if TYPE_CHECKING:
    from pathlib import Path

    from tuban.postprocess.export_job import Job


def write_report_of(job: Job, fmt: str, draft: Path) -> tuple[int, list[str]]:
    """Write the report of a run once more, as HTML or PDF, and return its findings and what should be said of it.

    Raises:
        UsageError: there is no `run.json` beside the findings.
    """
    run = job.run()
    if run is None:
        raise UsageError(
            f"no {FILE_NAME} beside {job.source}; the report needs it, so export from the folder of the run"
        )
    judged = run.get("rule_pack") is not None
    findings = job.rows(Rows)
    changes = job.rows(Rows, layer="changes", table=CHANGES)
    # A coarsened export must not show on pictures what it hides elsewhere.
    wanted = job.pictures and job.restriction.geometry and not job.restriction.precision_m
    with contextlib.ExitStack() as stack:
        evidence = Evidence()
        if wanted:
            evidence = job.evidence or stack.enter_context(reopened(run, job.source.parent))
        summary = write_report(
            draft,
            run=run,
            findings=findings.frames() if judged else None,
            changes=changes.frames(),
            pair=evidence.pair,
            zones=evidence.zones,
            lang=job.lang,
            settings=job.report,
            left_out=lambda: (findings if judged else changes).restriction.statements(job.lang),
            fmt="pdf" if fmt == "pdf" else "html",
        )
    notes = [*evidence.notes, *summary.notes]
    if evidence.pair is None:
        notes.append("the report has no before/after pictures")
    if summary.cards < summary.total:
        notes.append(f"{summary.cards} of {summary.total} have a page of their own; raise report.max_cards for more")
    return findings.count if judged else 0, notes
