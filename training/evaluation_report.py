"""An evaluation in Markdown and as one HTML page that needs no other file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from tuban.training.curve import Series, plot
from tuban.training.error_map import data_uri

if TYPE_CHECKING:
    from collections.abc import Mapping


def lines(result: Mapping[str, Any]) -> list[str]:
    """Return the measurement as Markdown, one line an element."""
    seen = result["seen_in_training"]
    warning = f"**Trained on {', '.join(seen)}: these numbers are no accuracy of places never seen.**" if seen else ""
    body = _landcover_lines(result) if result.get("task") == "landcover" else _change_lines(result)
    data = result["data"]
    return [
        f"# {result['model']}",
        f"On {data['dataset']} ({data['folder']}), by tuban {data['tuban']}.",
        warning,
        *body,
    ]


def _change_lines(result: Mapping[str, Any]) -> list[str]:
    found = result["objects"]
    low, high = result["f1_95"]
    rows = [
        f"| {name} | {_of_change(p, 'f1')} | {p['precision']} | {_of_change(p, 'recall')} | {false_share(p):.2%} |"
        for name, p in result["places"].items()
    ]
    summary = (
        f"F1 {result['f1']} (95 % over places {low}–{high}), precision {result['precision']}, "
        f"recall {result['recall']}, AUC {result['auc']}, ECE {result['ece']}, at threshold {result['threshold']}."
    )
    return [
        summary,
        f"{_least(found)}: recall {_share(found['recall'])}, precision {_share(found['precision'])}.",
        *(f"Refused: {name}: {reason}" for name, reason in result.get("refused", {}).items()),
        "",
        "| place | F1 | precision | recall | unchanged called changed |",
        "|---|---|---|---|---|",
        *rows,
        *_object_lines(result.get("object_matching", {})),
        *_calibration_lines(result),
        *_seed_lines(result.get("seeds", {})),
        *_cover_lines(result.get("landcover", {})),
        *_robustness_lines(result.get("robustness", {})),
    ]


def _of_change(place: Mapping[str, Any], key: str) -> str:
    """A measure that has no meaning where nothing is labelled changed."""
    return _share(place[key] if place["changed_px"] else None)


def false_share(place: Mapping[str, Any]) -> float:
    """Return the share of a place's unchanged pixels that is called changed."""
    return float(place["false_px"] / max(place["unchanged_px"], 1))


def _least(objects: Mapping[str, Any]) -> str:
    return f"Objects of {objects['min_area_m2']:,.0f} m² and more"


def _share(value: float | None) -> str:
    """A share or a count; a dash where there is nothing to take it of."""
    return "–" if value is None else str(value)


def _object_lines(objects: Mapping[str, Any]) -> list[str]:
    if not objects:
        return []
    limits = {key: "–".join(str(v) for v in objects[f"{key}_95"]) for key in ("recall", "precision")}
    head = (
        f"Rule: {objects['rule']}. {_least(objects)}, with 95 % over places: recall {_share(objects['recall'])} "
        f"({limits['recall']}), precision {_share(objects['precision'])} ({limits['precision']}); "
        f"{objects['split']} labelled objects split, {objects['merge']} called ones merge several."
    )
    columns = ("truth", "found", "recall", "called", "right", "precision")
    return [
        "",
        "## Objects matched one to one",
        "",
        head,
        "",
        "| least IoU | recall | precision | F1 |",
        "|---|---|---|---|",
        *(
            f"| {iou} | {' | '.join(_share(c[k]) for k in ('recall', 'precision', 'f1'))} |"
            for iou, c in objects["by_min_iou"].items()
        ),
        "",
        "| size m² | labelled | found | recall | called | right | precision |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {size} | " + " | ".join(_share(c[k]) for k in columns) + " |"
            for size, c in objects["by_size_m2"].items()
        ),
    ]


def _calibration_lines(result: Mapping[str, Any]) -> list[str]:
    calibration = result.get("calibration")
    if not calibration:
        return []
    temperature, platt = calibration["temperature"], calibration["platt"]
    said = (
        f"ECE {calibration['ece']}. A temperature of {temperature['temperature']} would give "
        f"{temperature['ece_held_out']}, Platt scaling {platt['ece_held_out']} (each place scaled by a fit on the "
        "others)."
    )
    text = ["", "## Calibration", "", said]
    if stated := result.get("at_precision"):
        held_out = stated["held_out"]
        got = (
            f"chosen on the other places it gives precision {held_out['precision']} and recall {held_out['recall']}"
            if held_out
            else stated["why"]
        )
        at = "there is no threshold" if stated["threshold"] is None else f"the threshold is {stated['threshold']}"
        text.append(f"For a precision of {stated['stated']} {at}; {got}.")
    return text


def _seed_lines(seeds: Mapping[str, Any]) -> list[str]:
    if not seeds:
        return []
    runs = ", ".join(f"{name} {f1}" for name, f1 in seeds["f1"].items())
    return ["", f"Seeds: F1 {seeds['mean']} ± {seeds['sd']} (standard deviation), {runs}."]


def _class_table(rows: Mapping[str, Mapping[str, float]], head: str) -> list[str]:
    keys = ("precision", "recall", "f1", "iou", "support")
    return [
        f"| {head} | precision | recall | F1 | IoU | labelled pixels |",
        "|---|---|---|---|---|---|",
        *(f"| {name} | " + " | ".join(str(row[key]) for key in keys) + " |" for name, row in rows.items()),
    ]


def _cover_lines(cover: Mapping[str, Any]) -> list[str]:
    if not cover:
        return []
    text = ["", "## Land cover", "", f"Against {cover['against']}.", "", *_class_table(cover["classes"], "class")]
    return [*text, "", *_class_table(cover["transitions"], "from → to")] if cover["transitions"] else text


def _landcover_lines(result: Mapping[str, Any]) -> list[str]:
    low, high = result["macro_f1_95"]
    summary = (
        f"Macro F1 {result['macro_f1']} (95 % over places {low}–{high}), agreement {result['agreement']}, "
        f"{result['pixels']} pixels. Against {result['against']}."
    )
    return [
        summary,
        "",
        *_class_table(result["classes"], "class"),
        "",
        "| place | macro F1 | agreement |",
        "|---|---|---|",
        *(f"| {n} | {p['macro_f1']} | {p['agreement']} |" for n, p in result["places"].items()),
    ]


def _robustness_lines(curves: Mapping[str, Any]) -> list[str]:
    if not curves:
        return []
    rows = []
    for p in curves["points"]:
        added = "–" if p["added"] is None else f"{p['added']:+.1%}"
        recall = "–" if p["recall"] is None else f"{p['recall']:.3f}"
        rows.append(f"| {p['kind']} | {p['amount']:g} | {added} | {recall} | {len(p['refused'])} of {p['places']} |")
    aims = [
        f"{t['kind']} {t['amount']:g}: {'met' if t['met'] else 'MISSED'} (at most {t['most']:+.0%} or refused)"
        for t in curves["targets"]
    ]
    return [
        "",
        "## Robustness",
        "",
        "False-alarm area added when the later image is not as it should be. " + "; ".join(aims) + ".",
        "",
        "| what | amount | false alarms added | recall | refused |",
        "|---|---|---|---|---|",
        *rows,
    ]


def page(result: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Return the evaluation as one self-contained HTML page.

    Args:
        result: as written to `evaluation.json`.
        pictures: PNG of each place's errors.
    """
    environment = Environment(
        loader=PackageLoader("tuban.training", "templates"), autoescape=select_autoescape(default=True)
    )
    template = environment.get_template("evaluation.html.j2")
    return template.render(
        result=result,
        pictures={name: data_uri(png) for name, png in pictures.items()},
        false_share=false_share,
        reliability=_reliability(result),
        curves=_curves(result.get("robustness", {})),
    )


def _reliability(result: Mapping[str, Any]) -> Markup:
    rows = result.get("calibration", {}).get("reliability", [])
    if not rows:
        return Markup("")
    points = [(row["probability"], row["changed"]) for row in rows]
    series = [Series("as it should be", [(0, 0), (1, 1)], dashed=True), Series("measured", points)]
    return plot(series, title="Reliability", x="probability", y="share changed", x_range=(0, 1), y_range=(0, 1))


def _curves(curves: Mapping[str, Any]) -> list[Markup]:
    """Return one plot of each kind of perturbation: false alarms added and recall, refused amounts marked."""
    plots = []
    for kind in dict.fromkeys(point["kind"] for point in curves.get("points", [])):
        rows = [p for p in curves["points"] if p["kind"] == kind]
        start = 1.0 if kind == "gain" else 0.0
        base = next((p["base_recall"] for p in rows if p["base_recall"] is not None), None)
        added = sorted([(start, 0.0), *((p["amount"], p["added"]) for p in rows if p["added"] is not None)])
        recall = [(p["amount"], p["recall"]) for p in rows if p["recall"] is not None]
        recall = sorted([*recall, (start, base)]) if base is not None else recall
        limit = [(min(x for x, _ in added), 0.1), (max(x for x, _ in added), 0.1)]
        series = [
            Series("false alarms added", added),
            Series("recall", recall),
            Series("10 %", limit, dashed=True),
        ]
        marks = [p["amount"] for p in rows if p["refused"]]
        plots.append(plot(series, title=kind.capitalize(), x=curves["units"][kind], y="share", marks=marks))
    return plots
