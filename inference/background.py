"""The background of a pair: how high the network's score stands where nothing has changed.

Season, haze and sensor raise the change score of a whole scene, so one threshold for all scenes means false alarms in
one and misses in another. Most of any pair has not changed; a high quantile of its score is therefore the level of
what did not change, and the calibration is relative to it. It is measured once per pair, before the run, on windows
spread over the pair, so it cannot make seams and does not grow with the scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from tuban.inference.engine import stream
from tuban.inference.reading import read_window
from tuban.inference.windows import plan_windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tuban.inference.backends import Backend, Feeds, Outputs
    from tuban.inference.reading import Loaded, PixelReader
    from tuban.models.bundle import Bundle

_WINDOWS = 16
_SIDE = 256
# At a window's border a network scores otherwise than inside a scene. Over seven OSCD places the background of the
# sample differed from the whole place's by up to 0.45 in logits without a halo, by up to 0.14 with this one.
_HALO = 32
_GOLDEN = (5**0.5 - 1) / 2
_TINY = 1e-7


@dataclass(frozen=True)
class RelativeBackend:
    """A backend whose change probability is shifted, in logits, to the pair's background.

    Attributes:
        backend: runs the network.
        shift: is added to the logit of every change probability.
    """

    backend: Backend
    shift: float

    @property
    def name(self) -> str:
        """Name of the backend inside."""
        return self.backend.name

    @property
    def notes(self) -> Sequence[str]:
        """Notes of the backend inside."""
        return self.backend.notes

    def run(self, feeds: Feeds, wanted: Sequence[str]) -> Outputs:
        """Run the network and shift the change probability."""
        made = self.backend.run(feeds, wanted)
        if "change" in made:
            shifted = 1 / (1 + np.exp(-(_logit(made["change"]) + np.float32(self.shift))))
            made["change"] = shifted.astype(np.float32)
        return made


def measure_background(
    backend: Backend, pair: PixelReader, bundle: Bundle, *, keep_going: bool = False
) -> dict[str, float]:
    """Measure what a bundle's calibration is relative to.

    Args:
        backend: runs the network.
        pair: the pair that will be run.
        bundle: `calibration` with `intercept` and `background_quantile` (0–1).
        keep_going: pass over what cannot be read instead of raising.

    Returns:
        `background_logit`, `shift` (to be added to every logit) and `pixels`, JSON-ready; empty where the bundle is
        calibrated absolutely, or no pixel is valid (the run that follows refuses such a pair).
    """
    quantile = bundle.calibration.get("background_quantile")
    if quantile is None:
        return {}
    intercept = float(str(bundle.calibration["intercept"]))
    side, halo = (-(-length // bundle.stride) * bundle.stride for length in (_SIDE, _HALO))
    plan = plan_windows(pair.height, pair.width, tile=side, halo=halo, stride=bundle.stride, oblong=False)
    count = plan.rows * plan.cols
    spread = _spread(plan.rows, plan.cols)
    others = (index for index in range(count) if index not in spread)

    def read(index: int) -> Loaded:
        return read_window(pair, bundle, plan, plan.window(index), keep_going=keep_going)

    def run(loaded: Loaded) -> NDArray[np.float32] | None:
        if not loaded.images:
            return None
        feeds = {name: image[None] for name, image in loaded.images.items()}
        change = backend.run(feeds, ["change"])["change"][0]
        height, width = loaded.valid.shape
        return _logit(change[halo : halo + height, halo : halo + width][loaded.valid])

    # The reader decodes blocks for longer than the network looks at a quarter of one.
    made = stream(spread, read=read, run=run, finish=lambda score: score, depth=1)
    scores = [score for score in made if score is not None]
    if not scores:
        # Where every window of the sample is nodata, the first one that is not decides: no pair goes on uncalibrated.
        scores = list(islice((score for index in others if (score := run(read(index))) is not None), 1))
    if not scores:
        return {}
    values = np.concatenate(scores)
    background = float(np.quantile(values, float(str(quantile))))
    # What is recorded is what is applied, so that a run can be repeated from its record.
    return {
        "background_logit": round(background, 4),
        "shift": round(intercept - background, 4),
        "pixels": len(values),
    }


def _spread(rows: int, cols: int) -> list[int]:
    """Return the windows of the sample: rows at equal steps, columns by the golden ratio, so none is preferred."""
    if rows * cols <= _WINDOWS:
        return list(range(rows * cols))
    step = np.arange(_WINDOWS)
    row = ((step + 0.5) * rows / _WINDOWS).astype(int)
    col = ((step + 0.5) * _GOLDEN % 1 * cols).astype(int)
    return sorted({int(index) for index in row * cols + col})


def _logit(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    clipped = np.clip(probability, _TINY, 1 - _TINY)
    return np.asarray(np.log(clipped / (1 - clipped)), dtype=np.float32)
