"""The streaming loop: a thread reads ahead, the model runs, a thread writes behind, and memory stays bounded.

Queues here are bounded deques of futures. Nothing ever blocks on a full queue whose other end has died: an error in
the reader or writer is raised in the loop before the next batch is run, and pending work is cancelled.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Made = TypeVar("Made")


class _WriteBehind(Generic[Made]):
    """Hands results to one thread, at most `depth` at a time."""

    def __init__(self, pool: ThreadPoolExecutor, write: Callable[[Made], None], depth: int) -> None:
        self._pool, self._write, self._depth = pool, write, depth
        self._pending: deque[Future[None]] = deque()

    def put(self, result: Made) -> None:
        self._pending.append(self._pool.submit(self._write, result))
        self.settle(self._depth)

    def settle(self, depth: int) -> None:
        """Raise what has failed, and wait until no more than `depth` results are pending."""
        while self._pending and (len(self._pending) > depth or self._pending[0].done()):
            self._pending.popleft().result()


@contextmanager
def _thread(name: str) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of one thread; on an error pending work is cancelled, and only running work is waited for."""
    pool = ThreadPoolExecutor(1, thread_name_prefix=f"tuban-{name}")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[Item], Loaded], items: Iterable[Item], depth: int
) -> Iterator[Loaded]:
    pending: deque[Future[Loaded]] = deque()
    for item in items:
        pending.append(pool.submit(read, item))
        if len(pending) > depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def stream(
    items: Iterable[Item],
    *,
    read: Callable[[Item], Loaded],
    run: Callable[[Loaded], Made],
    write: Callable[[Made], None],
    depth: int,
) -> None:
    """Read, run and write `items` in order, the three at the same time.

    Args:
        items: what to do; consumed lazily.
        read: called in the reader thread, for one item at a time.
        run: called in the calling thread.
        write: called in the writer thread, in the order of `items`.
        depth: items read ahead and results not yet written, at most; bounds the memory.

    Raises:
        BaseException: whatever `read`, `run` or `write` raises first, unchanged.
    """
    with _thread("reader") as reader, _thread("writer") as writer:
        behind = _WriteBehind(writer, write, depth)
        for loaded in _read_ahead(reader, read, items, depth):
            behind.settle(depth)
            behind.put(run(loaded))
        behind.settle(0)
