"""Hands strips of batches to Ray workers, a few at a time, and sees to it that a lost worker loses nothing but time."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from tuban.errors import ReadError, TubanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tuban.inference.parts import Part
    from tuban.inference.worker import Probe

log = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Tasks given to a worker at most: the one it makes and the next."""
ATTEMPTS = 3
"""A task that ends so many workers ends the run, and so do so many workers in a row that never come to work."""
PATIENCE_S = 30.0
"""After so long without any answer the log says what is waited for."""
START_S = 900.0
"""Seconds to wait for the first worker: a cluster may have to start machines for it."""


class ClusterError(TubanError, RuntimeError):
    """Ray cannot be reached, has no room, or loses workers faster than they work."""


@dataclass(eq=False)
class _Strip:
    indices: tuple[int, ...]
    attempts: int = 0


@dataclass(eq=False)
class _Member:
    """A worker; `node` is empty until it has started."""

    handle: Any
    started: Any
    node: str = ""
    tasks: deque[tuple[Any, _Strip]] = field(default_factory=deque)

    @property
    def awaited(self) -> Any:
        """What it answers next: it works in order."""
        if not self.node:
            return self.started
        return self.tasks[0][0] if self.tasks else None


class Crew:
    """Workers and what they are given.

    Attributes:
        tasks: strips that were made.
        retried: how often a strip was given out again because its worker was lost.
        lost: workers lost.
        nodes: where workers have started.
        seconds: from the start of the first worker to the last part.
        notes: in what nodes differ from the driver.
    """

    def __init__(self, ray: Any, hire: Callable[[], Any], size: int, expected: Probe) -> None:
        """Start the workers; they are awaited when there is work for them.

        Args:
            ray: the module, connected.
            hire: makes a `Worker` actor.
            size: how many.
            expected: what every worker must see and compute.
        """
        self.tasks = self.retried = self.lost = 0
        self.seconds = 0.0
        self.nodes: list[str] = []
        self.notes: list[str] = []
        self._ray, self._hire, self._expected = ray, hire, expected
        self._again: deque[_Strip] = deque()
        self._stillborn = 0
        self._first = 0.0
        self._members = [self._new() for _ in range(size)]

    def _new(self) -> _Member:
        handle = self._hire()
        return _Member(handle, handle.start.remote())

    def parts(self, indices: Iterable[int], length: int) -> Iterator[Part]:
        """Yield the parts of these batches, in the order in which they are done.

        Args:
            indices: of the batches.
            length: batches in a strip, at most.

        Raises:
            ClusterError: no worker starts, or workers are lost again and again.
            TubanError: whatever a worker raises, as itself.
        """
        try:
            yield from self._made(_strips(iter(indices), length))
        finally:
            self.dismiss()

    def _made(self, strips: Iterator[_Strip]) -> Iterator[Part]:
        began = time.monotonic()
        while True:
            self._hand_out(strips)
            if not any(member.tasks for member in self._members) and not self._again:
                following = next(strips, None)
                if following is None:
                    return
                self._again.append(following)
            awaited = {member.awaited: member for member in self._members if member.awaited is not None}
            done, _ = self._ray.wait(list(awaited), num_returns=1, timeout=PATIENCE_S)
            if done:
                yield from self._answer(awaited[done[0]])
            elif not any(member.node for member in self._members):
                self._wait_on(time.monotonic() - began)

    def _hand_out(self, strips: Iterator[_Strip]) -> None:
        """Give every worker its first task before any gets a second."""
        for load in range(IN_FLIGHT):
            for member in self._members:
                if not member.node or len(member.tasks) > load:
                    continue
                strip = self._again.popleft() if self._again else next(strips, None)
                if strip is None:
                    return
                member.tasks.append((member.handle.parts.remote(strip.indices), strip))

    def _answer(self, member: _Member) -> list[Part]:
        """Take what a worker has answered: that it has started, parts, an error, or that it is gone."""
        exceptions = self._ray.exceptions
        try:
            answer = self._ray.get(member.awaited)
        except exceptions.RayTaskError as error:
            # What the worker raised, as itself; what is not ours keeps the worker's traceback as its cause.
            raise error.cause from (None if isinstance(error.cause, TubanError) else error)
        except exceptions.RayError as error:
            self._replace(member, " ".join(str(error).split()))
            return []
        if not member.node:
            member.node = self._welcome(*answer)
            return []
        member.tasks.popleft()
        self.tasks += 1
        self.seconds = time.monotonic() - self._first
        parts: list[Part] = answer
        return parts

    def _welcome(self, node: str, seen: Probe) -> str:
        """Check that a node sees and computes as the driver does."""
        ours = self._expected
        if other := [name for name, version in ours.versions.items() if seen.versions.get(name) != version]:
            told = ", ".join(f"{name} {seen.versions.get(name)} instead of {ours.versions[name]}" for name in other)
            raise ClusterError(f"node {node} has {told}: results would differ; install the same on every node")
        if seen.backend != ours.backend:
            raise ClusterError(
                f"node {node} runs the network by {seen.backend}, this machine by {ours.backend}: results would "
                "differ; name inference.backend and inference.device so that every node has them"
            )
        if seen.problem and not ours.problem:
            raise ReadError(
                f"{seen.problem}. That was on node {node}, while this machine can read it: every node needs the inputs "
                "under the same path or URL, so share the folder or give URLs"
            )
        for name, pixels in ours.pixels.items():
            if not np.allclose(seen.pixels.get(name, np.nan), pixels, rtol=1e-4, atol=1e-6, equal_nan=True):
                raise ReadError(
                    f"node {node} reads other pixels ({name}) than this machine under the same path or URL: "
                    "give every node the same version of the inputs"
                )
        self._stillborn = 0
        self._first = self._first or time.monotonic()
        if node not in self.nodes:
            self.nodes.append(node)
            self.notes += [f"node {node}: {note}" for note in seen.notes if note not in ours.notes]
            if seen.rounding != ours.rounding:
                # Another processor: the same instructions are not there, so sums are added up otherwise.
                self.notes.append(f"node {node} rounds otherwise than this machine: single pixels may differ")
        return node

    def _replace(self, member: _Member, reason: str) -> None:
        """Start another worker in the place of a lost one and give its tasks out again."""
        self.lost += 1
        self._members.remove(member)
        self._ray.kill(member.handle)
        log.warning("a Ray worker on %s was lost (%.200s); its work is given out again", member.node or "?", reason)
        if not member.node:
            self._stillborn += 1
            if self._stillborn >= ATTEMPTS:
                raise ClusterError(
                    f"{ATTEMPTS} Ray workers in a row ended before they could work ({reason:.300}); give them more "
                    "memory, or use fewer workers or inference.workers=0"
                )
        # Only the first was being made; the next had only been handed over.
        if member.tasks:
            strip = member.tasks[0][1]
            strip.attempts += 1
            if strip.attempts >= ATTEMPTS:
                raise ClusterError(
                    f"batches {strip.indices[0]} to {strip.indices[-1]} ended {ATTEMPTS} Ray workers ({reason:.300}); "
                    "most often memory is short: set a smaller inference.tile or batch, or fewer workers"
                )
        self.retried += len(member.tasks)
        self._again.extendleft(strip for _, strip in reversed(member.tasks))
        self._members.append(self._new())

    def _wait_on(self, waited: float) -> None:
        free, whole = self._ray.available_resources(), self._ray.cluster_resources()
        told = ", ".join(f"{free.get(name, 0):g} of {whole.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
        if waited > START_S:
            raise ClusterError(
                f"no Ray worker could be started in {waited:.0f} s; free in the cluster: {told}; ask for fewer "
                "inference.threads a worker, or add nodes"
            )
        log.warning("waiting for a first Ray worker since %.0f s; free in the cluster: %s", waited, told)

    def dismiss(self) -> None:
        """End the workers, whatever they are doing."""
        for member in self._members:
            self._ray.kill(member.handle)
        self._members = []


def _strips(indices: Iterator[int], length: int) -> Iterator[_Strip]:
    while strip := tuple(islice(indices, length)):
        yield _Strip(strip)
