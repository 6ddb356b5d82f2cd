"""Several networks as one: the mean of their logits, and perhaps a small Gaussian over the logits of change.

Networks that differ by their seed alone err in different places, so their mean errs less than each; and change is
never one pixel wide where its neighbours are sure of nothing, which the Gaussian says.

References:
    Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles", NeurIPS 2017.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tuban.errors import ModelError
from tuban.models.network import build
from tuban.models.spec import Logits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuban.models.blocks import Standardised
    from tuban.models.spec import NetworkSpec

TRUNCATE = 3.0
"""Standard deviations at which the Gaussian ends."""
_OWN = {"mean", "std"}
"""What members need not share: each standardises its input itself."""


class Smoothing(nn.Module):
    """A Gaussian over `(n, h, w)`; beyond the border it sees the border's own value, so nothing fades there.

    Equal to `scipy.ndimage.gaussian_filter(x, sigma, mode="nearest", truncate=TRUNCATE)` of each image.
    """

    def __init__(self, sigma: float) -> None:
        """Take the standard deviation `sigma`, pixels."""
        super().__init__()
        self.sigma, self.radius = float(sigma), int(TRUNCATE * sigma + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` smoothed."""
        # Made anew, not kept: a module that is rounded to half precision must not round its kernel.
        places = torch.arange(-self.radius, self.radius + 1, dtype=x.dtype, device=x.device)
        kernel = torch.exp(-0.5 * (places / self.sigma).square())
        kernel = kernel / kernel.sum()
        x, edge = x.unsqueeze(1), self.radius
        # The border is repeated by concatenation: a padding that repeats is not known to every runtime.
        x = torch.cat([x[:, :, :1]] * edge + [x] + [x[:, :, -1:]] * edge, dim=2)
        x = functional.conv2d(x, kernel.view(1, 1, -1, 1))
        x = torch.cat([x[..., :1]] * edge + [x] + [x[..., -1:]] * edge, dim=3)
        return functional.conv2d(x, kernel.view(1, 1, 1, -1))[:, 0]


class Ensemble(nn.Module):
    """The mean of the logits of several networks of one kind.

    Attributes:
        spec: of the members, with their number; its `mean` and `std` are the average of theirs.
        members: the networks, each with an input standardisation of its own.
        smoothing: what is done to the mean logits of change; None is nothing.
    """

    def __init__(self, members: Sequence[Standardised], smooth: float = 0.0) -> None:
        """Share `members`.

        Args:
            members: networks of `tuban.models.network.build`.
            smooth: standard deviation of the Gaussian, pixels.

        Raises:
            ModelError: the members differ in more than weights and input statistics.
            UsageError: there is no change to be smoothed.
        """
        super().__init__()
        specs = [member.spec for member in members]
        for number, spec in enumerate(specs):
            _alike(specs[0], spec, number)
        self.spec = dataclasses.replace(
            specs[0],
            members=len(specs),
            smooth=smooth,
            mean=_average([spec.mean for spec in specs]),
            std=_average([spec.std for spec in specs]),
        )
        self.members = nn.ModuleList(members)
        self.smoothing = Smoothing(smooth) if smooth else None

    def forward(self, before: Tensor, after: Tensor | None = None) -> Logits:
        """Return mean logits for `before` and `after`, both `(n, bands, h, w)` with h, w multiples of the stride."""
        first, second, change = zip(*(member(before, after) for member in self.members), strict=True)
        logits = mean(change)
        if logits is not None and self.smoothing is not None:
            logits = self.smoothing(logits)
        return Logits(mean(first), mean(second), logits)


def mean(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Return the mean of what each member gives; None where they give none."""
    given = [part for part in parts if part is not None]
    return torch.stack(given).mean(dim=0) if given else None


def assembled(spec: NetworkSpec) -> Standardised | Ensemble:
    """Build the network of `spec`, which may have several members, with random weights.

    Raises:
        UsageError: there is no such encoder or decoder.
    """
    if spec.members == 1 and not spec.smooth:
        return build(spec)
    single = dataclasses.replace(spec, members=1, smooth=0.0)
    return Ensemble([build(single) for _ in range(spec.members)], spec.smooth)


def joined(networks: Sequence[Standardised], smooth: float = 0.0) -> Standardised | Ensemble:
    """Return trained networks as one; a single one as it is, if it is not to be smoothed.

    Raises:
        ModelError: they differ in more than weights and input statistics.
        UsageError: there is no change to be smoothed.
    """
    return networks[0] if len(networks) == 1 and not smooth else Ensemble(networks, smooth)


def single_members(network: Standardised | Ensemble) -> list[Standardised]:
    """Return the networks that a network is the mean of; one alone is its own."""
    return cast("list[Standardised]", list(network.members)) if isinstance(network, Ensemble) else [network]


def _alike(first: NetworkSpec, other: NetworkSpec, number: int) -> None:
    for field in dataclasses.fields(first):
        mine, theirs = getattr(first, field.name), getattr(other, field.name)
        if mine != theirs and field.name not in _OWN:
            raise ModelError(
                f"members 0 and {number} differ in {field.name}: {mine} and {theirs}; "
                "give runs that were trained with the same data and model settings"
            )


def _average(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(sum(column) / len(column) for column in zip(*rows, strict=True))
