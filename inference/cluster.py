"""Scale-out on Ray (extra `ray`): the same parts, made by workers on this machine or on a cluster.

Ray starts the processes, places them, carries the bytes and notices deaths; the driver keeps the journal, so only the
inputs must be reachable from every node.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tuban.errors import MissingExtraError
from tuban.inference.backends import available_cores
from tuban.inference.crew import ClusterError, Crew
from tuban.inference.worker import Worker, bundle_files, probe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tuban.inference.backends import Backend
    from tuban.inference.parts import Part
    from tuban.inference.settings import InferenceSettings
    from tuban.inference.worker import Job

__all__ = ["Cluster", "ClusterError", "connected"]

# Ray's shared memory on this machine: parts on their way. What does not fit goes to its temporary folder.
_STORE = 200 * 2**20
# Threads of a worker where nothing says how many: more gain little, for reading and packing are not shared by them.
_THREADS = 4
# Seconds for the first answer of a cluster's machine.
_KNOCK_S = 10.0
# A strip is short enough that little is lost with its worker, and its bytes are few; long enough to keep reading,
# running and packing busy at the same time.
_STRIP_BATCHES, _STRIP_PX, _STRIPS_PER_WORKER = 8, 16_000_000, 8
# No reports to Ray's makers, no metrics, no warnings past Python's logging, no uv project rebuilt for each worker.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_BACKEND_LOG_LEVEL": "error",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class Cluster:
    """Ray, connected: workers are made for a job and end with it."""

    def __init__(self, ray: Any, settings: InferenceSettings, *, shared: bool) -> None:
        """Look at the cluster.

        Args:
            ray: the module, connected.
            settings: how many workers, and threads of each.
            shared: whether nodes may be other machines than this.
        """
        self._ray, self._settings, self._shared = ray, settings, shared
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        self._gpus = sum(node.get("GPU", 0) for node in nodes)
        self._crew: Crew | None = None

    @property
    def threads(self) -> int:
        """Threads of each worker's network, where nothing was decided before."""
        return self._settings.threads or fitting(self._cores, self._settings.workers)

    def parts(self, job: Job, backend: Backend, indices: Iterable[int], count: int) -> Iterator[Part]:
        """Yield the parts of these batches, in the order in which they are done.

        Args:
            job: what is done.
            backend: the driver's; every worker's must be like it. It is not kept.
            indices: of the batches.
            count: how many they are.

        Raises:
            ClusterError: the cluster has no room for a worker, or loses them again and again.
            TubanError: whatever a worker raises, as itself.
        """
        if not count:
            return iter(())
        size, needs = self._size(job, backend.name)
        length = max(1, min(_STRIP_BATCHES, count // (size * _STRIPS_PER_WORKER), _STRIP_PX // _batch_px(job)))
        ray = self._ray
        shared_job = ray.put(job)
        # A reference inside a list is not fetched until somebody asks for it.
        files = [ray.put(bundle_files(job.bundle))] if self._shared else []
        # No restarts by Ray itself: they would not be counted.
        actor = ray.remote(max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD", **needs)(Worker)
        size = min(size, -(-count // length))
        self._crew = Crew(ray, lambda: actor.remote(shared_job, files), size, probe(job, backend))
        return self._crew.parts(indices, length)

    def _size(self, job: Job, backend: str) -> tuple[int, dict[str, float]]:
        """Return how many workers there are to be, and what each of them needs."""
        threads, wanted, cores = job.recipe.threads, self._settings.workers, self._cores
        # Never more than a node has; threads that were decided elsewhere may be more than this cluster's share.
        share = fitting(cores, wanted) if not self._settings.threads else max(cores, default=threads)
        needs = {"num_cpus": float(max(1, min(threads, share))), "num_gpus": 0.0}
        size = wanted or sum(count // int(needs["num_cpus"]) for count in cores)
        if any(word in backend for word in ("cuda", "tensorrt", "gpu")):
            size = wanted or int(self._gpus)
            needs["num_gpus"] = min(1.0, int(1e4 * self._gpus / max(size, 1)) / 1e4)
        if not size:
            raise ClusterError("the Ray cluster has no room yet; say how many inference.workers it is to start")
        return size, needs

    @property
    def history(self) -> tuple[str, ...]:
        """What was done on Ray, and what went wrong; makes no difference to the results."""
        if self._crew is None:
            return ()
        crew = self._crew
        done = f"made on Ray: {crew.tasks} tasks in {crew.seconds:.1f} s by workers on {', '.join(sorted(crew.nodes))}"
        return (f"{done}; {crew.lost} workers lost, {crew.retried} tasks given out again",)

    @property
    def seconds(self) -> float:
        """From the start of the first worker to the last part, without starting and ending Ray."""
        return self._crew.seconds if self._crew else 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """In what nodes differ from the driver."""
        return tuple(self._crew.notes) if self._crew else ()

    def close(self) -> None:
        """End the workers."""
        if self._crew is not None:
            self._crew.dismiss()


def fitting(cores: list[int], workers: int) -> int:
    """Return the most threads a worker may have so that all fit on nodes of so many cores; 0 workers: a few threads.

    Example:
        >>> fitting([8, 4], 3), fitting([8, 4], 0), fitting([2], 5)
        (4, 4, 1)
    """
    if not workers:
        return min([_THREADS, *cores])
    enough = (count for count in range(max(cores, default=1), 0, -1) if sum(c // count for c in cores) >= workers)
    return next(enough, 1)


def _batch_px(job: Job) -> int:
    return job.plan.core_height * job.plan.core_width * job.recipe.settings.batch


@contextmanager
def connected(settings: InferenceSettings) -> Iterator[Cluster | None]:
    """Yield the cluster that the settings ask for; None where this process does all itself.

    A cluster on this machine is started and ended here, with all its processes and files. One that the caller has
    connected to (`ray.init`) is used and left as it is.

    Raises:
        ClusterError: it cannot be started or reached.
        MissingExtraError: Ray is not installed.
    """
    if not settings.workers and settings.cluster is None:
        yield None
        return
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("inference.workers needs Ray; pip install 'tuban[ray]', or use inference.workers=0")
    with ExitStack() as stack:
        stack.enter_context(_environment())
        import ray

        stack.enter_context(_hushed())
        alone = False
        if not ray.is_initialized():
            stack.enter_context(_kept_signal())
            stack.callback(_forget_token)
            alone = settings.cluster is None
            if alone:
                folder = tempfile.TemporaryDirectory(prefix="tuban-ray-", ignore_cleanup_errors=True)
                _start(ray, settings, stack.enter_context(folder))
            else:
                _join(ray, str(settings.cluster))
            stack.callback(ray.shutdown)
        cluster = Cluster(ray, settings, shared=not alone)
        stack.callback(cluster.close)
        yield cluster


def _start(ray: Any, settings: InferenceSettings, folder: str) -> None:
    """Start Ray on this machine, reachable by this process alone, its files in a folder that is removed."""
    threads = settings.threads or max(1, available_cores() // settings.workers)
    # A token of its own; otherwise Ray would write one into the home folder, which may be read-only.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    _forget_token()
    try:
        ray.init(
            address="local",
            num_cpus=settings.workers * threads,
            object_store_memory=_STORE,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=folder,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"Ray cannot be started in {folder} ({_one_line(error)}); set TMPDIR to a folder with a short name and "
            "free space, or use inference.workers=0"
        ) from error


def _join(ray: Any, address: str) -> None:
    """Connect to a running cluster."""
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"the Ray cluster {address!r} cannot be reached ({_one_line(error)}); give the address that `ray start "
            "--head` printed, HOST:PORT, or `auto` on one of its machines; versions of Ray and Python must be equal"
        ) from error


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" not in address and host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _forget_token() -> None:
    """Let Ray look for its token again: it keeps the first it finds, as long as the process lives."""
    loader = importlib.import_module("ray._raylet").AuthenticationTokenLoader
    loader.instance().reset_cache()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _environment() -> Iterator[None]:
    """Set `_ENVIRONMENT` for what Ray starts, where it is not set already; Ray's variables are undone afterwards."""
    before = set(os.environ)
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in before})
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_") and name not in before]:
            del os.environ[name]


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep what Ray says of itself off the terminal: what matters is said by `Crew`, in a line."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    # Deaths of workers it prints on stdout, where results belong, and no setting keeps it from that: the thread that
    # listens for them is given nothing to do.
    module = importlib.import_module("ray._private.worker")
    listen = getattr(module, "listen_error_messages", None)
    module.listen_error_messages = _deaf  # type: ignore[attr-defined]
    try:
        yield
    finally:
        logger.setLevel(level)
        module.listen_error_messages = listen  # type: ignore[attr-defined]


def _deaf(*_: Any) -> None:
    """Stand in for a listener."""


@contextmanager
def _kept_signal() -> Iterator[None]:
    """Put back the handler of SIGTERM, which `ray.init` replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
