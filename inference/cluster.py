"""Scale-out on Ray (extra `ray`): the same parts, made by workers on this machine or on a cluster.

Ray starts the processes, places them, carries the bytes and notices deaths; the driver keeps the journal, so only the
inputs must be reachable from every node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuban.inference.crew import ClusterError, Crew
from tuban.inference.worker import Worker, bundle_files, probe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tuban.inference.backends import Backend
    from tuban.inference.parts import Part
    from tuban.inference.settings import InferenceSettings
    from tuban.inference.worker import Job

__all__ = ["Cluster", "ClusterError"]

# Threads of a worker where nothing says how many: more gain little, for reading and packing are not shared by them.
_THREADS = 4
# A strip is short enough that little is lost with its worker, and its bytes are few; long enough to keep reading,
# running and packing busy at the same time.
_STRIP_BATCHES, _STRIP_PX, _STRIPS_PER_WORKER = 8, 16_000_000, 8


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
