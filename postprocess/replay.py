"""Findings judged again from what was recorded of them: the same evidence must come to the same verdict."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuban.errors import RulePackError, VectorError
from tuban.postprocess.rules import load_pack
from tuban.postprocess.verdict import decide, doubts, final_status, least_confidence, severity, total_status

if TYPE_CHECKING:
    import datetime as dt

    from tuban.postprocess.rules import RulePack


@dataclass
class Replay:
    """What replaying a run came to: rows judged again, and those that differ, each as one line."""

    pack: str = ""
    rows: int = 0
    differences: list[str] = field(default_factory=list)


def replay(run: str | Path, rules: str | Path | None = None) -> Replay:
    """Judge every finding of a run again, from `run.json` and the traces alone.

    The pack is the one that `run.json` names; its text must have the recorded hash.

    Args:
        run: the folder of a run, or its `run.json`.
        rules: the pack, where it no longer lies where the run found it.

    Raises:
        VectorError: no `run.json` with a rule pack there, or no findings.
        RulePackError: the pack is not the one of the run.
    """
    from tuban.postprocess.layers import iter_layer

    path = Path(run)
    path = path if path.name == "run.json" else path / "run.json"
    if not path.is_file():
        raise VectorError(f"{path}: no such record; give the folder of a run that judged changes")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    recorded = content.get("rule_pack")
    if not recorded:
        raise VectorError(f"{path}: the run judged nothing (no plan), so there is nothing to replay")
    pack = load_pack(rules or content["parameters"]["rules"])
    if recorded.get("sha256") not in {None, pack.sha256} or recorded["version"] != pack.version:
        raise RulePackError(
            f"{pack.source}: {pack.name} is not the pack of the run ({recorded['id']}@{recorded['version']}, sha256 "
            f"{str(recorded.get('sha256'))[:12]}…); give that file with --rules"
        )
    setting = float(content["parameters"]["settings"]["check"]["min_confidence"])
    result = Replay(pack.name)
    for frame in iter_layer(path.parent / "findings.gpkg", "findings"):
        for row in frame.drop(columns=frame.geometry.name).to_dict("records"):
            result.rows += 1
            again = judge_again(json.loads(row["trace"]), pack, setting)
            for name, value in again.items():
                if row[name] != value:
                    result.differences.append(f"{row['finding_id']} {row['rule_id']}: {name} {row[name]}, now {value}")
    return result


def judge_again(trace: dict[str, Any], pack: RulePack, min_confidence: float = 0.0) -> dict[str, str]:
    """Return `status`, `severity` and `doubt` of a finding from its trace.

    Args:
        trace: the parsed column `trace`.
        pack: the rules.
        min_confidence: the setting of the run.

    Raises:
        RulePackError: the pack has no such rule on the day the finding was judged.
    """
    rule = pack.rule(trace["rule"], _date(trace["judged_on"]))
    if total := trace["total"]:
        limit = rule.total.limits[total["limit"]].min_m2 if rule.total else math.inf
        status = total_status(total["sure_m2"], total["possible_m2"], limit) or "none"
    else:
        status = decide(rule, pack, trace["areas_m2"], missing=bool(trace["missing"]),
                        handed_on=trace["excess_rule"] is not None)  # fmt: skip
    confidence = math.nan if trace["confidence"] is None else float(trace["confidence"])
    least = least_confidence(rule, pack, min_confidence)
    found = doubts(status, confidence, least, downgraded=trace["downgraded"], of_sum=bool(trace["total"]))
    levels = sum(u.levels for name in trace["uplifts"] if (u := pack.rule(name, _date(trace["judged_on"])).uplift))
    raised = (rule.severity_if[index].severity for index in trace["severity_if"])
    return {
        "status": final_status(status, found),
        "severity": severity(rule.severity, raised, levels),
        "doubt": ";".join(found),
    }


def _date(text: str) -> dt.date:
    import datetime as dt

    return dt.date.fromisoformat(text)
