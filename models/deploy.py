"""The network as it is shipped: probabilities instead of logits, the same numbers in less memory and time.

Training wants few large operations; a runtime on a CPU wants little memory written: `tuban.models.folding` has the
rewritten parts. The results are equal but for rounding; the export checks it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from tuban.models.blocks import contrast, upsampled
from tuban.models.ensemble import Ensemble, single_members
from tuban.models.folding import FoldedDecoder, Parts, channels_of, softmax, static
from tuban.models.network import ChangeNet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.models.blocks import Standardised
    from tuban.models.spec import NetworkSpec


class DeployedChange(nn.Module):
    """`ChangeNet` with fusion `all` as it is exported.

    A bundle with a `background_quantile` is calibrated relative to the pair (`tuban.inference.background`).

    Attributes:
        inputs: names of what `forward` takes.
        outputs: names of what `forward` returns.
    """

    inputs: tuple[str, ...] = ("before", "after")

    def __init__(self, network: ChangeNet, slope: float = 1.0, intercept: float = 0.0) -> None:
        """Wrap a copy of `network` with the Platt scaling `sigmoid(slope * logit + intercept)`."""
        super().__init__()
        network = copy.deepcopy(network).eval()
        static(network)
        self.slope, self.intercept = float(slope), float(intercept)
        self.mean, self.scale = nn.Parameter(network.mean), nn.Parameter(1 / network.std)
        self.network = network
        spec = network.spec
        self.outputs = change_outputs(spec)
        covers = [len(spec.classes)] * 2 if spec.classes else []
        self.landcover_decoder = FoldedDecoder(network.landcover_decoder) if covers else None
        self.change_decoder = FoldedDecoder(network.change_decoder)
        self.difference = Parts(network.difference, [len(spec.bands), 1])
        self.fusion = nn.ModuleList(
            Parts(block, [channels_of(block)] * 3 + ([spec.stem] if place == 0 else []))
            for place, block in enumerate(network.fusion)
        )
        self.head = Parts(network.change_head[0], [spec.width[-1], *covers, 1])

    def normalise(self, x: Tensor) -> Tensor:
        """Standardise by the training statistics; NaN becomes the mean."""
        x = torch.where(torch.isnan(x), self.mean, x)
        return ((x - self.mean) * self.scale).clamp(-6.0, 6.0)

    def forward(self, before: Tensor, after: Tensor) -> tuple[Tensor, ...]:
        """Return `outputs`: see `change_outputs`."""
        _, covers, chances, logit = self._run(before, after)
        change = torch.sigmoid(self.slope * logit + self.intercept)
        return *chances, change, *positions(covers)

    def logits(self, before: Tensor, after: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return logits: of both dates' land cover, if there is any, to be `raised`, and of change `(n, h, w)`."""
        small, _, _, logit = self._run(before, after)
        return small, logit

    @staticmethod
    def raised(cover: Tensor) -> Tensor:
        """Return land-cover logits at full resolution."""
        return upsampled(cover)

    def _run(self, before: Tensor, after: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
        first, second = self.normalise(before), self.normalise(after)
        difference, magnitude = contrast(first, second)
        raw = self.difference([difference, magnitude])
        pyramids = [self.network.encode(image) for image in (first, second)]
        small: list[Tensor] = []
        if self.landcover_decoder is not None:
            decoded = [self.landcover_decoder(pyramid[1:]) for pyramid in pyramids]
            small = [self.network.landcover_head(features) for features in decoded]
        covers = [upsampled(cover) for cover in small]
        levels = [
            fusion([a, b, (b - a).abs(), *([raw] if place == 0 else [])])
            for place, (fusion, a, b) in enumerate(zip(self.fusion, *pyramids, strict=True))
        ]
        chances = [softmax(cover) for cover in covers]
        features = self.head([self.change_decoder(levels), *chances, magnitude])
        return small, covers, chances, self.network.change_head[1](features)[:, 0]


class PlainChange(nn.Module):
    """Any other change network as it is exported: as it was trained, with probabilities for logits."""

    inputs: tuple[str, ...] = ("before", "after")

    def __init__(self, network: Standardised, slope: float = 1.0, intercept: float = 0.0) -> None:
        """Wrap a copy of `network` with the Platt scaling `sigmoid(slope * logit + intercept)`."""
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        static(self.network)
        self.slope, self.intercept = float(slope), float(intercept)
        self.outputs = change_outputs(network.spec)

    def forward(self, before: Tensor, after: Tensor) -> tuple[Tensor, ...]:
        """Return `outputs`: see `change_outputs`."""
        covers, logit = self.logits(before, after)
        change = torch.sigmoid(self.slope * logit + self.intercept)
        return *(softmax(cover) for cover in covers), change, *positions(covers)

    def logits(self, before: Tensor, after: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return logits: of both dates' land cover, if there is any, to be `raised`, and of change `(n, h, w)`."""
        first, second, change = self.network(before, after)
        return [cover for cover in (first, second) if cover is not None], change

    @staticmethod
    def raised(cover: Tensor) -> Tensor:
        """Return land-cover logits at full resolution, which they have here."""
        return cover


class EnsembleChange(nn.Module):
    """Several change networks as they are exported, and the mean of their logits."""

    inputs: tuple[str, ...] = ("before", "after")

    def __init__(self, network: Ensemble, slope: float = 1.0, intercept: float = 0.0) -> None:
        """Wrap copies of the members with the Platt scaling `sigmoid(slope * logit + intercept)`."""
        super().__init__()
        self.members = nn.ModuleList(_deployed_change(member) for member in single_members(network))
        self.smoothing = network.smoothing
        self.slope, self.intercept = float(slope), float(intercept)
        self.outputs = change_outputs(network.spec)

    def forward(self, before: Tensor, after: Tensor) -> tuple[Tensor, ...]:
        """Return `outputs`: see `change_outputs`."""
        members = cast("list[DeployedChange | PlainChange]", list(self.members))
        made = [member.logits(before, after) for member in members]
        covers = [members[0].raised(_mean(dates)) for dates in zip(*(small for small, _ in made), strict=True)]
        chances, classes = [softmax(cover) for cover in covers], positions(covers)
        # Change last: ONNX Runtime works back from a graph's last node, so one member is done before the next begins.
        logit = _mean([change for _, change in made])
        if self.smoothing is not None:
            logit = self.smoothing(logit)
        return *chances, torch.sigmoid(self.slope * logit + self.intercept), *classes


def _mean(parts: Sequence[Tensor]) -> Tensor:
    """Return the mean, added up one by one so that no runtime has to hold them side by side."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total / len(parts)


def positions(covers: Sequence[Tensor]) -> list[Tensor]:
    """Return the position of each pixel's largest logit, uint8 `(n, h, w)`, of each date's land cover."""
    return [cover.argmax(dim=1).to(torch.uint8) for cover in covers]


def change_outputs(spec: NetworkSpec) -> tuple[str, ...]:
    """Return what a change graph gives.

    With classes both dates' probabilities `(n, classes, h, w)`; always the calibrated probability of change
    `(n, h, w)`; with classes the position of each date's largest, uint8 `(n, h, w)`.
    """
    covers = ("landcover_before", "landcover_after") if spec.classes else ()
    return *covers, "change", *(f"{name}_class" for name in covers)


class DeployedLandcover(nn.Module):
    """A network that gives land-cover logits of one standardised image, as it is exported."""

    inputs: tuple[str, ...] = ("image",)
    outputs: tuple[str, ...] = ("landcover", "landcover_class", "landcover_confidence")

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wrap a copy of `network`, which maps `(n, bands, h, w)` to `(n, classes, h, w)`."""
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        static(self.network)
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.scale = nn.Parameter(1 / torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities `(n, classes, h, w)`, the largest's position uint8 and its value, both `(n, h, w)`."""
        return _landcover(self.logits(image))

    def logits(self, image: Tensor) -> Tensor:
        """Return logits `(n, classes, h, w)`."""
        x = torch.where(torch.isnan(image), self.mean, image)
        made: Tensor = self.network(((x - self.mean) * self.scale).clamp(-6.0, 6.0))
        return made


class EnsembleLandcover(nn.Module):
    """Several land-cover networks as they are exported, and the mean of their logits."""

    inputs: tuple[str, ...] = DeployedLandcover.inputs
    outputs: tuple[str, ...] = DeployedLandcover.outputs

    def __init__(self, network: Ensemble) -> None:
        """Wrap copies of the members."""
        super().__init__()
        # Their own statistics stand in their weights; a spec that was read from a bundle holds the average.
        self.members = nn.ModuleList(
            DeployedLandcover(LandcoverOnly(member), member.mean.flatten().tolist(), member.std.flatten().tolist())
            for member in single_members(network)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities `(n, classes, h, w)`, the largest's position uint8 and its value, both `(n, h, w)`."""
        return _landcover(_mean([cast("DeployedLandcover", member).logits(image) for member in self.members]))


def _landcover(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    probabilities = softmax(logits)
    confidence, best = probabilities.max(dim=1)
    return probabilities, best.to(torch.uint8), confidence


class LandcoverOnly(nn.Module):
    """The land-cover half of a network: standardised image in, logits `(n, classes, h, w)` out."""

    def __init__(self, network: Standardised) -> None:
        """Share `network`."""
        super().__init__()
        self.whole = network

    def forward(self, image: Tensor) -> Tensor:
        """Return logits at full resolution."""
        return self.whole.landcover(image)


def deployed(network: Standardised | Ensemble, slope: float = 1.0, intercept: float = 0.0) -> Deployed:
    """Return a trained network as it is exported, in the fastest form there is for it."""
    landcover = network.spec.task == "landcover"
    if isinstance(network, Ensemble):
        return EnsembleLandcover(network) if landcover else EnsembleChange(network, slope, intercept)
    if landcover:
        return DeployedLandcover(LandcoverOnly(network), network.spec.mean, network.spec.std)
    return _deployed_change(network, slope, intercept)


def _deployed_change(network: Standardised, slope: float = 1.0, intercept: float = 0.0) -> DeployedChange | PlainChange:
    if isinstance(network, ChangeNet) and network.spec.fusion == "all":
        return DeployedChange(network, slope, intercept)
    return PlainChange(network, slope, intercept)


Deployed = DeployedChange | PlainChange | DeployedLandcover | EnsembleChange | EnsembleLandcover
