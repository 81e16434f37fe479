"""Threads that are used again."""

import gc
import threading
import time
import weakref

import pytest
from polling import until

from swarm.collective.threads import IDLE, Threads

LIMIT_S = 10


@pytest.fixture
def idle():
    """A function that returns the spare threads, but for those of other tests."""
    before = set(threading.enumerate())
    return lambda: [t for t in threading.enumerate() if t.name == IDLE and t not in before]


def test_a_thread_that_is_done_does_the_next_work_under_its_name(idle):
    threads, seen = Threads(spare=1), []

    def work():
        seen.append((threading.get_ident(), threading.current_thread().name))

    assert threads.start("first", work).wait(LIMIT_S)
    until(lambda: threads._idle)
    assert threads.start("second", work).wait(LIMIT_S)
    assert [name for _, name in seen] == ["first", "second"] and seen[0][0] == seen[1][0]
    threads.stop()
    until(lambda: not idle())


def test_work_that_waits_for_other_work_always_gets_a_thread(idle):
    threads, gate = Threads(spare=2), threading.Barrier(20)
    ended = [threads.start(f"w{i}", lambda: gate.wait(LIMIT_S) and None) for i in range(20)]
    assert all(event.wait(LIMIT_S) for event in ended)
    until(lambda: len(idle()) <= 2)
    threads.stop()
    until(lambda: not idle())


def test_none_is_kept_that_nobody_asked_to_keep_nor_after_stop(idle):
    assert Threads().start("w", lambda: None).wait(LIMIT_S)
    until(lambda: not idle())
    threads, go = Threads(spare=5), threading.Event()
    ended = threads.start("late", lambda: go.wait(LIMIT_S) and None)
    threads.stop()
    go.set()
    assert ended.wait(LIMIT_S)
    until(lambda: not idle())


def test_a_thread_that_waits_in_vain_ends_and_nothing_is_lost_meanwhile(idle):
    threads = Threads(spare=3, keep_s=0.001)
    for _ in range(300):  # orders come while threads are giving up
        assert threads.start("w", lambda: None).wait(LIMIT_S)
        time.sleep(0.001)
    until(lambda: not idle())
    assert threads._idle == []


def test_a_spare_thread_holds_nothing_of_its_last_work():
    class Large:
        pass

    threads, large = Threads(spare=1), Large()
    gone = weakref.ref(large)

    def start(thing):
        return threads.start("w", lambda: id(thing) and None)

    assert start(large).wait(LIMIT_S)
    del large
    until(lambda: threads._idle)
    gc.collect()
    assert gone() is None
    threads.stop()


def test_who_waits_for_work_that_fails_goes_on(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    threads = Threads(spare=1)

    def fail():
        raise RuntimeError("boom")

    assert threads.start("w", fail).wait(LIMIT_S)
    assert threads.start("w", lambda: None).wait(LIMIT_S)
    threads.stop()
