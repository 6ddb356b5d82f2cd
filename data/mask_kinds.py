"""What the pixels of a cloud mask mean: kinds, bits and classes of `configs/cloud_masks.yaml`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field

from tuban.data.bands import squeeze

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

Cause = Literal["cloud", "cirrus", "shadow", "haze", "snow", "defective", "unknown"]
Kind = Literal["scl", "qa_pixel", "udm2", "csmask", "binary"]


class Rule(BaseModel):
    """Which pixels of a band have a cause; neither `values` nor `bits`: all that are not 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cause: Cause
    band: int = Field(1, ge=1)
    values: tuple[int, ...] = ()
    bits: tuple[int, ...] = ()

    def hits(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where a stored band `(height, width)` of an integer type has the cause."""
        if self.values:
            return np.isin(stored, self.values)
        if self.bits:
            return np.asarray(stored & sum(1 << bit for bit in self.bits), dtype=bool)
        return np.asarray(stored != 0)


class Siblings(BaseModel):
    """How a product names the mask that lies beside an image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    mask: tuple[str, ...]
    folders: tuple[str, ...]


class MaskKind(BaseModel):
    """One kind of mask."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str
    names: tuple[str, ...]
    bands: int = Field(ge=1, description="bands a file of this kind has, at least")
    highest: int = Field(ge=0, description="largest value that means something")
    nodata: int | None = Field(None, description="value besides that says the mask knows nothing there")
    rules: tuple[Rule, ...]
    siblings: tuple[Siblings, ...]

    @property
    def needed(self) -> tuple[int, ...]:
        """Bands that the rules read, from 1."""
        return tuple(sorted({rule.band for rule in self.rules}))


class MaskTable(BaseModel):
    """`configs/cloud_masks.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    causes: dict[Cause, int]
    growing: tuple[Cause, ...]
    kinds: dict[Kind, MaskKind]


@cache
def mask_table() -> MaskTable:
    """Return the validated table."""
    text = files("tuban.configs").joinpath("cloud_masks.yaml").read_text(encoding="utf-8")
    return MaskTable.model_validate(yaml.safe_load(text))


def kind_named(text: str | None) -> Kind | None:
    """Return the kind of mask that a band description or asset key names, or None.

    Example:
        >>> kind_named("SCL"), kind_named("ortho_udm2"), kind_named("QA_PIXEL"), kind_named("B04")
        ('scl', 'udm2', 'qa_pixel', None)
    """
    word = squeeze(text or "")
    return next((name for name, kind in mask_table().kinds.items() if word in kind.names), None)


def decode(kind: MaskKind, stored: NDArray[Any], causes: Collection[Cause]) -> NDArray[np.uint8]:
    """Turn stored values into codes of causes.

    Args:
        kind: what the values mean.
        stored: the bands `kind.needed`, `(bands, height, width)`, of an integer type.
        causes: the causes wanted; others read as seen.

    Returns:
        Codes `(height, width)`, 0 where seen. Where several causes apply, the first in the table's order.

    Example:
        >>> scl = mask_table().kinds["scl"]
        >>> decode(scl, np.array([[[4, 3, 9, 11]]], dtype=np.uint8), ["cloud", "shadow"]).tolist()
        [[0, 3, 1, 0]]
    """
    codes = np.zeros(stored.shape[1:], dtype=np.uint8)
    table = mask_table().causes
    layer = dict(zip(kind.needed, stored, strict=True))
    for name, code in reversed(table.items()):
        if name in causes:
            for rule in kind.rules:
                if rule.cause == name:
                    codes[rule.hits(layer[rule.band])] = code
    if kind.nodata is not None and "unknown" in causes:
        codes[(stored == kind.nodata).all(axis=0)] = table["unknown"]
    return codes
