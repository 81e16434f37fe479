"""Large buffers come back when nothing shares them any more, and not before."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from swarm.collective import buffers

NUMEL = 1 << 20


@pytest.fixture(autouse=True)
def _empty(monkeypatch):
    gc.collect()
    monkeypatch.setattr(buffers, "_free", {})


def address(values):
    return values.ctypes.data


def test_memory_is_used_again_when_its_last_view_is_gone():
    first = buffers.take(NUMEL)
    place = address(first)
    view = first[7:9].view(np.uint8).reshape(2, -1)
    del first
    assert address(buffers.take(NUMEL)) != place
    shared = view.data.cast("B")
    del view
    assert address(buffers.take(NUMEL)) != place
    del shared
    assert place in {address(memory) for memory in buffers._free.values()}
    users = [buffers.take(NUMEL) for _ in range(2)]
    assert place in {address(values) for values in users}


def test_a_tensor_keeps_the_memory():
    torch = pytest.importorskip("torch")
    values = buffers.take(NUMEL)
    tensor = torch.from_numpy(values[4:]).view(2, -1)
    del values
    assert not buffers._free
    del tensor
    assert len(buffers._free) == 1


def test_what_comes_back_read_only_can_be_written_by_the_next_user():
    values = buffers.take(NUMEL)
    values.flags.writeable = False
    del values
    again = buffers.take(NUMEL)
    again[:] = 1
    assert again.flags.writeable and float(again.sum()) == NUMEL


def test_no_more_than_the_limit_waits_and_the_oldest_go_first(monkeypatch):
    monkeypatch.setattr(buffers, "KEPT_BYTES", 10 * NUMEL)
    sizes = [NUMEL, NUMEL + 1, NUMEL + 2, 4 * NUMEL]
    lent = [buffers.take(size) for size in sizes]
    while lent:
        del lent[0]
    assert [memory.size for memory in buffers._free.values()] == sizes[1:3]


@pytest.mark.parametrize("numel", [0, 1, buffers.LEAST_VALUES - 1])
def test_small_ones_are_not_kept(numel):
    assert buffers.take(numel).size == numel
    assert not buffers._free
