"""Weighted sums in one compiled pass: the same bits as numpy, one step after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.collective import codecs
from swarm.collective.codecs import CODECS, decode, encode, get_codec
from swarm.collective.kernels import WeightedSum, all_finite
from swarm.errors import SwarmError

LOSSY = ("bf16", "int8", "int4")
SIZES = (1, 2, 63, 64, 65, 127, 1023, 1024, 1025, 2047, 2048, 2113, 5000)
SPECIAL = np.array(
    [0.0, -0.0, 1e-45, -1e-40, 1.2e-38, 3.4e38, -3.4e38, 1.0, -1.0, 0.1], np.float32
)  # fmt: skip
BAD = (np.nan, np.inf, -np.inf)


@pytest.fixture
def in_numpy(monkeypatch):
    """A function that does something without compiled code."""

    def do(work):
        with monkeypatch.context() as patch:
            patch.setattr(codecs, "compiled", None)
            return work()

    return do


def contributions(codec, rows, own):
    return [row if i == own else encode(codec, row) for i, row in enumerate(rows)]


def at_once(codec, parts, own, weights, size):
    """Whether it worked, the total and the encoded mean."""
    mean = np.zeros(0 if codec.lossless else codec.encoded_bytes(size), np.uint8)
    total = np.zeros(size, np.float32)
    done = WeightedSum(weights, size).at_once(codec, parts, own, total, mean)
    return done, total, mean


def step_by_step(codec, parts, own, weights, size):
    """What a reducer without compiled code does; None where it would refuse."""
    kernel, total = WeightedSum(weights, size), np.zeros(size, np.float32)
    kernel.begin(total)
    try:
        with np.errstate(all="ignore"):
            for i, part in enumerate(parts):
                data = encode(codec, part) if i == own else part
                kernel.add(i, decode(codec, data, size))
    except SwarmError:
        return None
    if not np.isfinite(total).all():
        return None
    mean = encode(codec, total)
    return decode(codec, mean, size), mean


def same(codec, found, expected):
    done, total, mean = found
    assert done == (expected is not None)
    if expected is not None:
        assert total.tobytes() == expected[0].tobytes()
        assert codec.lossless or mean.tobytes() == expected[1].tobytes()


@st.composite
def sums(draw):
    """Rows of ordinary, tiny, huge and odd values, their weights, and which one is own."""
    size, count = draw(st.sampled_from(SIZES)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    power = draw(st.sampled_from([-44, -38, -3, 0, 20, 37]))
    rows = (rng.standard_normal((count, size)) * 10.0**power).astype(np.float32)
    odd = rng.random(rows.shape) < draw(st.sampled_from([0.0, 0.01, 0.5]))
    rows[odd] = rng.choice(SPECIAL, odd.sum())
    weights = draw(st.lists(st.sampled_from([1.0, 0.25, 1 / 3, 2.0**-126, 0.7]), min_size=count,
                            max_size=count))  # fmt: skip
    return list(rows), weights, draw(st.integers(-1, count - 1))


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=150, deadline=None)
@given(case=sums())
def test_one_pass_has_the_bits_of_numpys_steps(name, case):
    codec, (rows, weights, own) = get_codec(name), case
    parts, size = contributions(codec, rows, own), rows[0].size
    found = at_once(codec, parts, own, weights, size)
    compiled, codecs.compiled = codecs.compiled, None
    try:
        expected = step_by_step(codec, parts, own, weights, size)
    finally:
        codecs.compiled = compiled
    same(codec, found, expected)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", [0, 1024, 2999])
@pytest.mark.parametrize("own", [True, False])
def test_one_pass_refuses_what_is_not_finite(name, bad, place, own):
    codec = get_codec(name)
    rows = [np.ones(3000, np.float32) for _ in range(3)]
    rows[1][place] = bad
    parts = contributions(codec, rows, 1 if own else 0)
    assert not at_once(codec, parts, 1 if own else 0, [0.3] * 3, 3000)[0]


@pytest.mark.parametrize("name", CODECS)
def test_one_pass_refuses_finite_contributions_with_an_infinite_sum(name):
    codec = get_codec(name)
    rows = [np.full(2000, 3e38, np.float32) for _ in range(2)]
    assert not at_once(codec, contributions(codec, rows, 0), 0, [20.0] * 2, 2000)[0]


@pytest.mark.parametrize("name", LOSSY)
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.sampled_from(SIZES), scale=st.floats(width=32))
def test_hostile_bytes_are_summed_as_by_numpy_or_refused(name, seed, size, scale):
    codec, rng = get_codec(name), np.random.default_rng(seed)
    data = rng.integers(0, 256, codec.encoded_bytes(size), np.uint8)
    if codec.finite and seed % 4:  # all scales but the last are possible
        blocks = -(-size // codec.block)
        scales = np.append(rng.random(blocks - 1, np.float32), np.float32(scale))
        data[: 4 * blocks] = scales.astype("<f4").view(np.uint8)
    parts = [np.ones(size, np.float32), data]
    found = at_once(codec, parts, 0, [0.5, 0.5], size)
    compiled, codecs.compiled = codecs.compiled, None
    try:
        expected = step_by_step(codec, parts, 0, [0.5, 0.5], size)
    finally:
        codecs.compiled = compiled
    same(codec, found, expected)


@pytest.mark.parametrize("name", ["int8", "int4", "fp32"])
def test_encoded_bytes_may_begin_anywhere_that_values_may(name):
    """Slots and records begin where they begin; scales and levels are bytes."""
    codec, rng = get_codec(name), np.random.default_rng(1)
    rows = rng.standard_normal((2, 2500)).astype(np.float32)
    parts = contributions(codec, rows, 0)
    step = 4 if codec.lossless else 2
    room = np.empty(parts[1].nbytes + step, np.uint8)
    room[step:] = parts[1].view(np.uint8)
    moved = [parts[0], room[step:]]
    expected = at_once(codec, parts, 0, [0.5, 0.5], 2500)
    for one, other in zip(expected, at_once(codec, moved, 0, [0.5, 0.5], 2500), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", CODECS)
def test_compiled_sums_refuse_buffers_that_do_not_fit(name):
    """A wrong size would be a read or a write past the end."""
    codec, size = get_codec(name), 1500
    values, data = np.ones(size, np.float32), encode(codec, np.ones(size, np.float32))
    mean = np.empty(0 if codec.lossless else data.size, np.uint8)
    weights, total = np.ones(2, np.float32), np.empty(size, np.float32)
    add_up = getattr(codecs._kernels, f"sum_{name}")
    assert add_up((values, data), 0, weights, total, mean)
    longer = np.zeros(data.size + 4, np.uint8)
    for wrong in (
        ((values, data[:-4]), 0, weights, total, mean),
        ((values, longer), 0, weights, total, mean),
        ((values[:-1], data), 0, weights, total, mean),
        ((values, data, data), 0, weights, total, mean),
        ((), 0, weights[:0], total, mean),
        ((values, data), 0, weights[:1], total, mean),
        ((values, data), 0, weights, total[:-1], mean),
        ((values, data), 0, weights, total, longer),
        ((values, longer[1 : 1 + data.size]), 0, weights, total, mean),
    ):
        with pytest.raises(ValueError, match="fit"):
            add_up(*wrong)
    with pytest.raises(TypeError):
        add_up((values, None), 0, weights, total, mean)
    with pytest.raises(TypeError):
        add_up([values, data], 0, weights, total, mean)


def test_without_compiled_code_nothing_is_done_at_once(in_numpy):
    values = np.ones(10, np.float32)
    args = (get_codec("fp32"), [values], 0, [1.0], 10)
    assert at_once(*args)[0]
    assert not in_numpy(lambda: at_once(*args)[0])


@pytest.mark.parametrize("size", [1, 15, 16, 17, 1000])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(size, in_numpy):
    values = np.full(size, -3e38, np.float32)
    assert all_finite(values) and in_numpy(lambda: all_finite(values))
    for place in range(size):
        for bad in BAD:
            values[place] = bad
            assert not all_finite(values) and not in_numpy(lambda: all_finite(values))
        values[place] = 1e-45
