"""The model card: what `mlm.json` says, in words."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2

from tuban.data.classes import classes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tuban.models.bundle import Bundle

CARD_NAME = "MODEL_CARD.md"
_RATES = ("f1", "precision", "recall", "auc")
# What tuban's own cross-validations measure, each printed as a table of its own; anything else is printed as it stands.
_OF_CHANGE = {
    *_RATES, "f1_95", "average_precision", "ece", "places",
    *(f"baseline_{name}" for name in (*_RATES, "f1_95", "average_precision")),
}  # fmt: skip
_OF_LANDCOVER = {"f1_by_class_index", "folds", "overall"}


def model_card(bundle: Bundle) -> str:
    """Return the model card in Markdown, every number taken from the bundle."""
    folder = files("tuban.models")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 (Markdown)
        keep_trailing_newline=True,
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
    )
    names = {value: entry.name for value, entry in classes().items()}
    return environment.get_template("model_card.md.j2").render(
        bundle=bundle,
        names=names,
        rows=list(rows(bundle.metrics)),
        said=bundle.training,
        of_change=bundle.metrics.keys() >= _OF_CHANGE,
        of_landcover=bundle.metrics.keys() >= _OF_LANDCOVER,
    )


def rows(measured: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of every number in nested measurements, as a table prints them."""
    for key, value in measured.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, dict):
            yield from rows(value, f"{name}: ")
        elif isinstance(value, list | tuple):
            yield name, "–".join(str(part) for part in value)
        elif value is not None:
            yield name, str(value)
