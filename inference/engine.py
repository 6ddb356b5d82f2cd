"""The streaming loop: a thread reads ahead, the model runs, a thread finishes behind, and memory stays bounded.

Queues here are bounded deques of futures. Nothing ever blocks on a full queue whose other end has died: an error in
the reader or finisher is raised in the loop before the next batch is run, and pending work is cancelled.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Made = TypeVar("Made")
Done = TypeVar("Done")


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
    finish: Callable[[Made], Done],
    depth: int,
) -> Iterator[Done]:
    """Read, run and finish `items`, the three at the same time; yield what comes of them in order.

    Args:
        items: what to do; consumed lazily.
        read: called in the reader thread, for one item at a time.
        run: called in the thread of the consumer.
        finish: called in the finisher thread, in the order of `items`.
        depth: items read ahead and results not yet finished, at most; bounds the memory.

    Raises:
        BaseException: whatever `read`, `run` or `finish` raises first, unchanged.
    """
    with _thread("reader") as reader, _thread("finisher") as finisher:
        behind: deque[Future[Done]] = deque()
        for loaded in _read_ahead(reader, read, items, depth):
            # What is finished goes out before the next batch is run, so that it is on disk and an error is heard.
            while behind and behind[0].done():
                yield behind.popleft().result()
            behind.append(finisher.submit(finish, run(loaded)))
            del loaded
            while len(behind) > depth:
                yield behind.popleft().result()
        while behind:
            yield behind.popleft().result()
