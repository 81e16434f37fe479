"""Operations of the collective's public face: one group with real networks; real processes."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from communicators import LIMIT, open_group, same_everywhere, values_of

from swarm.collective.communicator import Communicator
from swarm.errors import Code, SwarmError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "collective.md"


@pytest.fixture(scope="module")
def trio() -> Iterator[list[Communicator]]:
    """A group of three; what a test does to it, it undoes."""
    with ExitStack() as stack:
        yield open_group(stack, 3)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("mean", lambda x: x.mean(0)),
        ("sum", lambda x: x.sum(0)),
        ("max", lambda x: x.max(0)),
        ("min", lambda x: x.min(0)),
        ("median", lambda x: np.median(x, 0)),
    ],
)
def test_every_peer_gets_the_same_right_bits(trio, op, expected):
    given = [values_of(rank) for rank in range(3)]
    handles = [c.all_reduce({"x": x}, op=op) for c, x in zip(trio, given, strict=True)]
    result = same_everywhere([h.wait(LIMIT) for h in handles], "x")
    assert result.shape == (7, 300)
    np.testing.assert_allclose(result, expected(np.stack(given)), atol=1e-5)


@pytest.mark.parametrize(("codec", "error"), [("bf16", 0.02), ("int8", 0.05), ("int4", 0.6)])
def test_lossy_codecs_give_the_same_bits_too(trio, codec, error):
    given = [values_of(rank) for rank in range(3)]
    handles = [c.all_reduce({"x": x}, codec=codec) for c, x in zip(trio, given, strict=True)]
    result = same_everywhere([h.wait(LIMIT) for h in handles], "x")
    np.testing.assert_allclose(result, np.mean(given, axis=0), atol=error)


def test_weights_are_in_proportion(trio):
    handles = [
        c.all_reduce({"x": np.full(5, float(rank), np.float32)}, weight=weight)
        for c, rank, weight in zip(trio, range(3), (1.0, 1.0, 100.0), strict=True)
    ]
    result = same_everywhere([h.wait(LIMIT) for h in handles], "x")
    np.testing.assert_allclose(result, (0 + 1 + 200) / 102, rtol=1e-6)


def test_several_operations_in_flight_in_any_order(trio):
    names = ["a", "b", "c", "d"]
    handles = []
    for rank, comm in enumerate(trio):
        for name in np.roll(names, rank):
            handles.append((name, comm.all_reduce({name: values_of(names.index(name))})))
        handles += [("a", comm.all_reduce({"a": values_of(9)}, tag="again"))]
    for name, handle in handles:
        result = handle.wait(LIMIT)
        assert name in result.tensors and not result.missing


def test_the_most_advanced_state_goes_to_everybody(trio):
    states = [{"w": np.arange(6.0) + rank, "n": np.array([rank])} for rank in range(3)]
    handles = [
        c.sync_shared_state(state, revision=revision)
        for c, state, revision in zip(trio, states, (4, 5, 3), strict=True)
    ]
    for handle in handles:
        shared = handle.wait(LIMIT)
        assert shared.revision == 5 and shared.sources == [trio[1].peer_id]
        assert shared.tensors["w"].tolist() == (np.arange(6.0) + 1).tolist()


def test_handles_can_be_awaited(trio):
    async def story():
        return await asyncio.gather(*(c.all_reduce({"x": values_of(0)}) for c in trio))

    same_everywhere(asyncio.run(asyncio.wait_for(story(), 40)), "x")


@pytest.mark.parametrize(
    ("ops", "sizes"), [(("sum", "mean", "mean"), (5, 5, 5)), (("mean",) * 3, (4, 5, 5))]
)
def test_a_peer_that_calls_something_else_is_told_and_the_group_goes_on(trio, ops, sizes):
    calls = zip(trio, ops, sizes, strict=True)
    handles = [c.all_reduce({"x": np.ones(n, np.float32)}, op=op) for c, op, n in calls]
    with pytest.raises(SwarmError) as caught:
        handles[0].wait(LIMIT)
    assert caught.value.code is Code.OPERATION_MISSED
    assert same_everywhere([h.wait(LIMIT) for h in handles[1:]], "x").tolist() == [1.0] * 5
    for _ in range(10):  # one that called otherwise is not waited for, but let in when it is there
        results = [c.all_reduce({"x": values_of(1)}) for c in trio]
        if len(results[0].wait(LIMIT).weights["x"]) == 3:
            break
    assert len(results[0].wait(LIMIT).weights["x"]) == 3


def test_values_that_are_not_finite_are_an_error_for_each_peer_that_gave_them(trio):
    handles = [c.all_reduce({"x": np.full(5, np.nan, np.float32)}) for c in trio]
    for handle in handles:
        with pytest.raises(SwarmError) as caught:
            handle.wait(LIMIT)
        assert caught.value.code is Code.NON_FINITE
    for _ in range(10):  # one that called otherwise is not waited for, but let in when it is there
        results = [c.all_reduce({"x": values_of(1)}) for c in trio]
        if len(results[0].wait(LIMIT).weights["x"]) == 3:
            break
    assert len(results[0].wait(LIMIT).weights["x"]) == 3


def test_a_refused_call_uses_up_no_operation(trio):
    with pytest.raises(SwarmError):
        trio[0].all_reduce({"x": values_of(9), "not a tag": values_of(9)})
    with pytest.raises(SwarmError):
        trio[0].sync_shared_state({"w": np.ones(3)}, revision=1, tag="not a tag")
    with pytest.raises(SwarmError):
        trio[0].all_reduce({"x": values_of(9)}, weight=1e300)
    handles = [c.all_reduce({"x": np.float32(rank)}) for rank, c in enumerate(trio)]
    result = same_everywhere([h.wait(LIMIT) for h in handles], "x")
    assert result.shape == () and result == 1.0


def test_who_gives_up_waiting_does_not_end_it(trio):
    handle = trio[0].all_reduce({"x": values_of(0)})
    with pytest.raises(TimeoutError):
        handle.wait(timedelta(0))

    async def give_up():
        await asyncio.wait_for(handle, 0.2)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(give_up())
    for c in trio[1:]:
        c.all_reduce({"x": values_of(0)})
    assert len(handle.wait(LIMIT).weights["x"]) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"tensors": {"x": np.zeros(3)}},
        {"tensors": {}},
        {"tensors": {"x": np.zeros(0, np.float32)}},
        {"tensors": {"a b": np.zeros(3, np.float32)}},
        {"tensors": {"x": np.zeros(3, np.float32)}, "op": "product"},
        {"tensors": {"x": np.zeros(3, np.float32)}, "codec": "int1"},
        {"tensors": {"x": np.zeros(3, np.float32)}, "weight": float("nan")},
        {"tensors": {"x": np.zeros(3, np.float32)}, "weight": -1.0},
    ],
)
def test_what_no_peer_could_take_is_refused_at_once(trio, arguments):
    with pytest.raises(SwarmError) as caught:
        trio[0].all_reduce(**arguments)
    assert caught.value.code is Code.USAGE


def test_the_example_of_the_document_runs_and_survives_a_kill(tmp_path):
    (text,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(text.splitlines()) <= 35
    script = tmp_path / "average.py"
    script.write_text(text)

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    first = start()
    others: list[subprocess.Popen[str]] = []
    try:
        address = first.stdout.readline().rsplit(" ", 1)[-1].strip()
        others = [start(address), start(address)]
        assert "others join with" in others[1].stdout.readline()
        assert "3 peers" in _wait_line(first, "step 2")
        others[0].send_signal(signal.SIGKILL)
        last = _wait_line(first, "step 20")
        assert first.wait(60) == others[1].wait(60) == 0
        assert float(re.search(r"error ([0-9.]+)", last)[1]) < 0.5
    finally:
        for process in (first, *others):
            process.kill()
            process.wait()


def _wait_line(process: subprocess.Popen[str], part: str) -> str:
    for line in process.stdout:
        if part in line:
            return line
    raise AssertionError(f"no line with {part!r}")
