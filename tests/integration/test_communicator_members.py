"""Who enters a group of communicators, leaves it, or closes: each test has a group of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta

import numpy as np
import pytest
from communicators import LIMIT, open_group, same_everywhere, values_of

from swarm.collective.communicator import Communicator
from swarm.errors import Code, SwarmError


@pytest.fixture
def trio() -> Iterator[list[Communicator]]:
    with ExitStack() as stack:
        yield open_group(stack, 3)


def wait_for_threads(count: int) -> None:
    """No more than so many are left soon: some of a library's end a moment after it is closed."""
    deadline = time.monotonic() + 10
    while threading.active_count() > count:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


def test_a_newcomer_enters_with_the_next_operation_and_takes_the_state(trio):
    with Communicator.open("test", min_peers=3, initial_peers=[trio[0].address]) as late:
        joining = late.join()
        revision = 0
        while not joining.done():
            revision += 1
            state = {"w": np.full(3, revision)}
            handles = [c.sync_shared_state(state, revision=revision) for c in trio]
            for handle in handles:
                handle.wait(LIMIT)
        assert late.peer_id in joining.wait(LIMIT)
        everybody = [*trio, late]
        newest = {"w": np.full(3, 99)}
        handles = [c.sync_shared_state(newest, revision=revision + 1) for c in trio]
        shared = late.sync_shared_state({"w": np.zeros(3, int)}, revision=0).wait(LIMIT)
        if shared.revision <= revision:  # of the operation that was under way when it entered
            shared = late.sync_shared_state(shared.tensors, revision=shared.revision).wait(LIMIT)
        assert shared.tensors["w"].tolist() == [99, 99, 99]
        for handle in handles:
            assert handle.wait(LIMIT).revision == shared.revision
        handles = [c.all_reduce({"x": np.ones(3, np.float32)}, op="sum") for c in everybody]
        assert same_everywhere([h.wait(LIMIT) for h in handles], "x").tolist() == [4.0] * 3


def test_a_newcomer_and_the_others_never_wait_for_each_other():
    with ExitStack() as stack:
        duo = open_group(stack, 2)
        late = stack.enter_context(
            Communicator.open("test", min_peers=2, initial_peers=[duo[0].address])
        )
        joining = late.join()
        state, revision = {"w": np.ones(3)}, 0
        while not joining.done():
            revision += 1
            for handle in [c.sync_shared_state(state, revision=revision) for c in duo]:
                handle.wait(LIMIT)
        taking = late.sync_shared_state({"w": np.zeros(3)}, revision=0)
        with suppress(TimeoutError):
            while True:  # what was under way when it entered it gets at once; for the next it waits
                taking.wait(timedelta(seconds=0.5))
                taking = late.sync_shared_state({"w": np.zeros(3)}, revision=0)
        for handle in [c.all_reduce({"new": np.ones(3, np.float32)}) for c in duo]:
            handle.wait(LIMIT)
        for handle in [c.sync_shared_state(state, revision=revision + 1) for c in duo]:
            handle.wait(LIMIT)
        assert taking.wait(LIMIT).revision == revision + 1


def test_one_that_leaves_in_good_order_is_not_waited_for(trio):
    trio[2].leave().wait(LIMIT)
    handles = [c.all_reduce({"x": values_of(rank)}) for rank, c in enumerate(trio[:2])]
    results = [h.wait(LIMIT) for h in handles]
    np.testing.assert_allclose(
        same_everywhere(results, "x"), (values_of(0) + values_of(1)) / 2, atol=1e-6
    )


def test_after_leaving_and_while_joining_nothing_waits_for_ever(trio):
    trio[0].leave().wait(LIMIT)
    with pytest.raises(SwarmError) as caught:
        trio[0].all_reduce({"x": values_of(0)}).wait(LIMIT)
    assert caught.value.code is Code.PEER_UNREACHABLE
    with Communicator.open("lonely", min_peers=2) as lonely:
        joining = lonely.join()
        lonely.close()
    with pytest.raises(SwarmError) as caught:
        joining.wait(LIMIT)
    assert caught.value.code is Code.PEER_UNREACHABLE


def test_a_peer_that_can_not_start_leaves_nothing_behind(tmp_path):
    (tmp_path / "commit.bin").write_bytes(b"\xff no commit")
    before = threading.active_count()
    with pytest.raises(SwarmError) as caught:
        Communicator.open("test", directory=tmp_path)
    assert caught.value.code is Code.CHECKPOINT_CORRUPT
    wait_for_threads(before)


def test_closing_fails_what_is_in_flight_and_leaves_no_thread():
    before = threading.active_count()
    with ExitStack() as stack:
        group = open_group(stack, 2)
        handle = group[0].all_reduce({"x": values_of(0)})
        group[0].close()
        with pytest.raises(SwarmError) as caught:
            handle.wait(LIMIT)
        assert caught.value.code is Code.PEER_UNREACHABLE
    wait_for_threads(before)
