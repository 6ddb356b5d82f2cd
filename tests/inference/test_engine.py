from __future__ import annotations

import threading
import time

import pytest

from tuban.inference.engine import stream


def test_results_come_in_order_and_read_ahead_is_bounded():
    out, reading, finishing, started = [], set(), set(), []

    def read(item):
        started.append(item)
        reading.add(threading.current_thread().name)
        return item * 2

    def run(item):
        # Two read ahead and the one in hand: never more than three past what was run.
        assert len(started) <= len(out) + 2 + 1 + 2 + 1
        return item + 1

    def finish(item):
        finishing.add(threading.current_thread().name)
        return item

    out.extend(stream(range(50), read=read, run=run, finish=finish, depth=2))
    assert out == [2 * i + 1 for i in range(50)]
    assert len(reading) == 1
    assert threading.current_thread().name not in reading | finishing
    assert not reading & finishing


def test_a_slow_writer_holds_the_reader_back():
    ahead, most = 0, 0
    lock = threading.Lock()

    def read(item):
        nonlocal ahead, most
        with lock:
            ahead += 1
            most = max(most, ahead)
        return item

    def write(_):
        nonlocal ahead
        time.sleep(0.002)
        with lock:
            ahead -= 1

    for _ in stream(range(60), read=read, run=lambda x: x, finish=write, depth=3):
        pass
    # 3 read ahead + 1 in the reader, 1 in hand, 3 waiting to be written + 1 being handed over.
    assert most <= 9


@pytest.mark.parametrize("stage", ["read", "run", "finish"])
@pytest.mark.parametrize("at", [0, 7, 19])
def test_an_error_in_any_stage_surfaces_and_no_thread_is_left(stage, at):
    before = threading.active_count()
    done = []

    def step(name):
        def act(item):
            if name == stage and item == at:
                raise OSError(f"{name} {item}")
            done.append((name, item))
            return item

        return act

    with pytest.raises(OSError, match=f"{stage} {at}"):
        list(stream(range(20), read=step("read"), run=step("run"), finish=step("finish"), depth=2))
    assert threading.active_count() == before
    # Nothing more than what was in flight went on after the error.
    assert max((item for _, item in done), default=0) <= at + 8
    assert ("finish", at) not in done


def test_an_interrupt_in_the_loop_stops_the_threads():
    before = threading.active_count()

    def run(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(stream(range(10**6), read=lambda x: x, run=run, finish=lambda x: x, depth=2))
    assert threading.active_count() == before


def test_what_is_done_goes_out_before_the_next_is_run():
    """A result that waits in a queue is lost when the power goes."""
    out, lag = [], []

    def run(item):
        time.sleep(0.005)
        lag.append(item - len(out))
        return item

    out.extend(stream(range(30), read=lambda x: x, run=run, finish=lambda x: x, depth=5))
    assert out == list(range(30))
    assert max(lag) <= 2


def test_a_consumer_that_stops_early_leaves_no_thread():
    before = threading.active_count()
    results = stream(range(1000), read=lambda x: x, run=lambda x: x, finish=lambda x: x, depth=2)
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before
