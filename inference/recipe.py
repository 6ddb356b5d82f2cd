"""How the backend of a run is opened: alike in every process that makes parts of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tuban.inference.backends import open_backend
from tuban.inference.background import RelativeBackend
from tuban.inference.tta import augmented

if TYPE_CHECKING:
    from tuban.inference.backends import Backend, BackendName
    from tuban.inference.settings import InferenceSettings
    from tuban.models.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Recipe:
    """What was decided at the start of a run.

    Attributes:
        backend: runs the network.
        settings: device, precision, compilation and augmentation.
        threads: of the network. Their number moves its results by about 1e-7, for sums are cut up otherwise: runs
            with the same number give the same bytes.
        shift: of the change probability's logit to the pair's background; None: absolute.
    """

    backend: BackendName
    settings: InferenceSettings
    threads: int
    shift: float | None = None

    def open(self, bundle: Bundle) -> Backend:
        """Open it in this process.

        Raises:
            TubanError: as `open_backend`.
        """
        backend = open_backend(
            self.backend,
            bundle,
            threads=self.threads,
            device=self.settings.device,
            precision=self.settings.precision,
            compiled=self.settings.compile,
        )
        backend = augmented(backend, self.settings.tta)
        return backend if self.shift is None else RelativeBackend(backend, self.shift)

    def relative(self, backend: Backend, shift: float) -> tuple[Recipe, Backend]:
        """Return this recipe and what it opened, their change probability shifted to a pair's background."""
        return replace(self, shift=shift), RelativeBackend(backend, shift)
