"""What a network is built from, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from tuban.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

Task = Literal["change", "landcover"]
FusionKind = Literal["all", "difference", "concat", "attention"]
_WIDEST = 8.0
"""A wider Gaussian would wipe out what the minimum mapping units ask for, pixels."""


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything needed to build the network again from its weights; `dataclasses.asdict` of it is `spec.json`.

    Lists, as JSON has them, are taken for tuples.

    Attributes:
        bands: canonical band names in input order.
        classes: unified classes in the order of the land-cover channels; `()` is change without land cover.
        mean: training mean per band, in the units of the input.
        std: training standard deviation per band, same units.
        encoder: encoder name of segmentation-models-pytorch; `tu-NAME` is timm's NAME.
        depth: encoder stages; the stride of the deepest is 2**depth pixels.
        width: channels of the decoder from the deepest skip to full resolution, `depth` numbers.
        stem: channels of the full-resolution branch, which keeps changes of one or two pixels.
        task: `change` (two dates in) or `landcover` (one date in).
        architecture: `tuban`, or the decoder's name in segmentation-models-pytorch, e.g. `Unet`.
        fusion: what of both dates' features is decoded at each scale: `all` (both and their absolute difference),
            `difference`, `concat` (both), or `attention` (the three, weighted pixel by pixel).
        members: networks of this kind whose mean logits are the result (`tuban.models.ensemble`).
        smooth: standard deviation of the Gaussian over the mean logits of change, pixels; 0 is none.

    Raises:
        UsageError: the parts do not fit together.
    """

    bands: tuple[str, ...]
    classes: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoder: str = "tu-tf_efficientnet_lite0"
    depth: int = 4
    width: tuple[int, ...] = (64, 48, 32, 16)
    stem: int = 16
    task: Task = "change"
    architecture: str = "tuban"
    fusion: FusionKind = "all"
    members: int = 1
    smooth: float = 0.0

    def __post_init__(self) -> None:
        for name in ("bands", "classes", "mean", "std", "width"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.bands) == len(self.mean) == len(self.std) > 0:
            raise UsageError(
                f"{len(self.bands)} bands with {len(self.mean)} means and {len(self.std)} deviations; "
                "give one of each for every band"
            )
        if len(self.width) != self.depth:
            raise UsageError(f"width has {len(self.width)} numbers for depth {self.depth}; give one for each stage")
        for name, accepted in (("task", get_args(Task)), ("fusion", get_args(FusionKind))):
            if getattr(self, name) not in accepted:
                raise UsageError(f"{name} {getattr(self, name)!r} is not known; use {', '.join(accepted)}")
        if self.members < 1 or not 0 <= self.smooth <= _WIDEST:
            raise UsageError(
                f"{self.members} members, smooth {self.smooth}; give at least one member and 0 to {_WIDEST:g} pixels"
            )
        if self.task == "landcover" and self.smooth:
            raise UsageError(f"smooth {self.smooth} is for the logits of change; leave it away for land cover")
        if self.task == "landcover" and not self.classes:
            raise UsageError("a land-cover network needs classes; name the unified classes it shall tell apart")

    @property
    def stride(self) -> int:
        """Window sizes and origins must be multiples of this many pixels."""
        return int(2**self.depth)


def spec_of(network: nn.Module) -> NetworkSpec:
    """Return what a network was built from.

    Raises:
        TypeError: it is none of `tuban.models.network.build`.
    """
    spec = getattr(network, "spec", None)
    if not isinstance(spec, NetworkSpec):
        raise TypeError(f"{type(network).__name__} has no spec; build networks with tuban.models.network.build")
    return spec


class Logits(NamedTuple):
    """Raw outputs: land cover `(n, classes, h, w)` before and after, change `(n, h, w)`.

    Land cover is None without classes; after and change are None for one date.
    """

    landcover_before: Tensor | None
    landcover_after: Tensor | None
    change: Tensor | None
