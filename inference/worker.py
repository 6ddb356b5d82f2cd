"""What runs on a Ray worker: one source, one network, and the parts that are asked of them."""

from __future__ import annotations

import platform
import shutil
import socket
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnxruntime
import rasterio
from rasterio.windows import Window

from tuban.errors import ModelError, OutputError, ReadError
from tuban.inference.journal import code_digest
from tuban.inference.runner import Runner
from tuban.models.bundle import MLM_NAME, ONNX_NAME, WEIGHTS_NAME, Bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tuban.inference.backends import Backend
    from tuban.inference.parts import Part
    from tuban.inference.products import Product
    from tuban.inference.reading import PixelReader
    from tuban.inference.recipe import Recipe
    from tuban.inference.windows import WindowPlan

# Sides of what a worker reads and runs to show that it sees and computes as the driver does.
_LOOK, _RUN = 32, 128


@dataclass(frozen=True)
class Job:
    """Everything that makes parts, on one machine and on many; can be pickled if its source can.

    Attributes:
        source: the scene or pair.
        bundle: the model.
        product: what is made of its outputs.
        plan: of the windows.
        recipe: how its backend is opened.
    """

    source: PixelReader
    bundle: Bundle
    product: Product
    plan: WindowPlan
    recipe: Recipe

    def runner(self, backend: Backend) -> Runner:
        """Return what makes the parts, with an open backend."""
        settings = self.recipe.settings
        return Runner(
            self.source,
            self.bundle,
            self.product,
            self.plan,
            backend,
            batch=settings.batch,
            ahead=settings.ahead,
            keep_going=settings.keep_going,
        )


class Probe(NamedTuple):
    """What a process sees and computes, to be compared with another's.

    Attributes:
        backend: what runs the network.
        notes: of the backend.
        versions: of all that makes a difference to results.
        pixels: of a small window in the middle, by input; empty where it cannot be read.
        problem: why it cannot be read.
        rounding: checksum of what the network makes of fixed numbers.
    """

    backend: str
    notes: tuple[str, ...]
    versions: dict[str, str]
    pixels: dict[str, NDArray[np.float32]]
    problem: str
    rounding: int


def probe(job: Job, backend: Backend) -> Probe:
    """Read a little, run a little, and say with what.

    Raises:
        ModelError: the network cannot be run.
    """
    pixels, problem = {}, ""
    try:
        read = job.source.read(_middle(job.plan), job.bundle.bands)
        pixels = {name: np.array(getattr(read, name), np.float32) for name in job.product.inputs}
    except ReadError as error:
        problem = str(error)
    side = -(-_RUN // job.bundle.stride) * job.bundle.stride
    numbers = np.random.default_rng(0).standard_normal((1, len(job.bundle.bands), side, side), np.float32)
    mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (job.bundle.mean, job.bundle.std))
    made = backend.run(dict.fromkeys(job.product.inputs, numbers * std + mean), job.product.wanted)
    rounding = zlib.crc32(b"".join(np.ascontiguousarray(made[name]).tobytes() for name in job.product.wanted))
    versions = {
        "tuban's code": code_digest()[:12],
        "Python": platform.python_version(),
        "numpy": np.__version__,
        "GDAL": rasterio.__gdal_version__,
        "onnxruntime": onnxruntime.__version__,
    }
    return Probe(backend.name, tuple(backend.notes), versions, pixels, problem, rounding)


def _middle(plan: WindowPlan) -> Window:
    height, width = min(_LOOK, plan.height), min(_LOOK, plan.width)
    return Window((plan.width - width) // 2, (plan.height - height) // 2, width, height)


class Worker:
    """A Ray actor: opens everything once, then makes parts."""

    def __init__(self, job: Job, files: Sequence[Any]) -> None:
        """Keep what is to be done; nothing is opened yet, so that an error is the answer to `start`.

        Args:
            job: the work.
            files: a Ray reference to the files of the bundle, fetched only where the node has none; or nothing.
        """
        self._job, self._files = job, files
        self._runner: Runner | None = None

    def start(self) -> tuple[str, Probe]:
        """Open the network; return the node's name and address, and what it sees and computes.

        Raises:
            ModelError: the bundle is not here and did not come along, or cannot be run.
        """
        import ray

        job = self._job
        bundle = placed(job.bundle, ray.get(self._files[0]) if self._files and not held(job.bundle) else {})
        backend = job.recipe.open(bundle)
        self._runner = job.runner(backend)
        with job.recipe.settings.reading():
            seen = probe(job, backend)
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return f"{socket.gethostname()} ({address})", seen

    def parts(self, indices: Sequence[int]) -> list[Part]:
        """Make the parts of consecutive batches.

        Raises:
            ModelError: the network cannot be run, or gives values that are no probabilities.
            ReadError: the source is damaged.
        """
        if self._runner is None:
            raise RuntimeError("a worker is started before it is given work")
        with self._job.recipe.settings.reading():
            return list(self._runner.parts(indices))


def bundle_files(bundle: Bundle) -> dict[str, bytes]:
    """Return the files of a bundle by name, for nodes that have none."""
    paths = [bundle.path / name for name in (MLM_NAME, ONNX_NAME, WEIGHTS_NAME)]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def held(bundle: Bundle, folder: Path | None = None) -> bool:
    """Return whether these very weights stand in `folder`; None is the folder they have on the driver."""
    try:
        found = Bundle.load(folder or bundle.path)
    except ModelError:
        return False
    return (found.onnx_sha256, found.weights_sha256) == (bundle.onnx_sha256, bundle.weights_sha256)


def placed(bundle: Bundle, files: dict[str, bytes]) -> Bundle:
    """Return the bundle as it stands on this node; one that came along is kept for the next workers.

    Raises:
        ModelError: it is not here and did not come along, or came along damaged.
        OutputError: the temporary folder cannot be written.
    """
    if not files:
        return bundle
    folder = Path(tempfile.gettempdir()) / f"tuban-{bundle.name}-{bundle.onnx_sha256[:16]}"
    if not held(bundle, folder):
        try:
            aside = Path(tempfile.mkdtemp(prefix="tuban-bundle-"))
            for name, data in files.items():
                (aside / name).write_bytes(data)
            shutil.rmtree(folder, ignore_errors=True)
            # Another worker of this node may be first: what stands there is checked below, whoever put it there.
            with suppress(OSError):
                aside.rename(folder)
            shutil.rmtree(aside, ignore_errors=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written ({error.strerror}); free space or set TMPDIR") from error
        if not held(bundle, folder):
            raise ModelError(f"{folder} does not hold {bundle.model_id} although it was sent; remove that folder")
    return bundle.model_copy(update={"path": folder})
