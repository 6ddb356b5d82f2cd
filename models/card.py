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
        bundle=bundle, names=names, rows=list(rows(bundle.metrics)), said=bundle.training
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
