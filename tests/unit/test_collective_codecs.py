"""Codecs: exact sizes, bounded errors, the same bytes again, hostile payloads refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from swarm.collective import codecs
from swarm.collective.codecs import ALIGNMENT, CODECS, decode, encode, get_codec
from swarm.errors import Code, SwarmError

finite = hnp.arrays(
    np.float32,
    st.integers(1, 3000),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


def from_bits(raw: bytes, lowest: int, span: int, zeros: int) -> np.ndarray:
    """Values of these bits, but with `span` exponents from `lowest` on; each `zeros`th is 0.

    In the blocks of a codec large and small ones meet, or only alike ones, subnormal ones too.
    """
    bits = np.frombuffer(raw[: len(raw) // 4 * 4], np.uint32)
    exponents = np.minimum(lowest + (bits >> 23 & 255) % span, 254)
    values = (bits & 0x807FFFFF | exponents << 23).astype(np.uint32).view(np.float32)
    if zeros:
        values[::zeros] = 0
    return values


any_finite = st.builds(
    from_bits, st.binary(min_size=4, max_size=800), st.integers(0, 254), st.integers(1, 255),
    st.integers(0, 8),
)  # fmt: skip
BOUND = {"fp32": 0.0, "bf16": 2**-8, "int8": 0.51 / 127, "int4": 0.51 / 7}
BLOCKWISE = ("int8", "int4")
LOSSY = ("bf16", "int8", "int4")
NOISE = np.random.default_rng(0).standard_normal(200 * ALIGNMENT + 77).astype(np.float32)
CUTS = ((0, 3 * ALIGNMENT), (3 * ALIGNMENT, 4 * ALIGNMENT), (4 * ALIGNMENT, None))


@pytest.fixture(params=["compiled", "numpy"], scope="module", autouse=True)
def both_implementations(request):
    """Every test of this file is run with the compiled codecs and with numpy's."""
    assert codecs.compiled is not None, "not compiled: make .venv/.installed needs a C compiler"
    compiled = codecs.compiled
    codecs.compiled = compiled if request.param == "compiled" else None
    yield
    codecs.compiled = compiled


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=60, deadline=None)
@given(values=finite)
def test_round_trip_has_the_said_size_and_error(name, values):
    codec = get_codec(name)
    data = encode(codec, values)
    assert data.size == codec.encoded_bytes(values.size)
    decoded = decode(codec, data, values.size)
    assert decoded.dtype == np.float32 and decoded.shape == values.shape
    largest = np.abs(values.astype(np.float64))
    scale = largest.max() if name in BLOCKWISE else largest
    error = np.abs(decoded.astype(np.float64) - values)
    assert (error <= BOUND[name] * scale + 2e-36).all()


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=200, deadline=None)
@given(values=any_finite)
def test_what_was_decoded_once_encodes_to_the_same_bytes_and_stays_finite(name, values):
    codec = get_codec(name)
    data = encode(codec, values)
    once = decode(codec, data, values.size)
    assert np.isfinite(once).all()
    assert encode(codec, once).tobytes() == data.tobytes()


@pytest.mark.parametrize("name", LOSSY)
@settings(max_examples=200, deadline=None)
@given(values=any_finite, seed=st.integers(0, 9), repeats=st.integers(1, 40))
def test_numpy_and_the_compiled_code_give_the_same_bytes(name, values, seed, repeats):
    codec, compiled = get_codec(name), codecs._kernels
    values = np.random.default_rng(seed).permutation(np.tile(values, repeats))
    data, again = encode(codec, values), np.empty(codec.encoded_bytes(values.size), np.uint8)
    getattr(compiled, f"encode_{name}")(values, again)
    assert again.tobytes() == data.tobytes()
    decoded, again = decode(codec, data, values.size), np.empty(values.size, np.float32)
    getattr(compiled, f"decode_{name}")(data, again)
    assert again.tobytes() == decoded.tobytes()


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("wrong", [-1, 1, 4])
def test_compiled_code_refuses_buffers_that_do_not_fit(name, wrong):
    """A wrong size would be a write past the end."""
    codec, values = get_codec(name), np.ones(1025, np.float32)
    data = np.empty(codec.encoded_bytes(values.size) + wrong, np.uint8)
    for call, *buffers in (("encode", values, data), ("decode", data, values)):
        with pytest.raises(ValueError, match="fit"):
            getattr(codecs._kernels, f"{call}_{name}")(*buffers)


@pytest.mark.parametrize("name", CODECS)
def test_aligned_chunks_of_a_decoded_whole_lose_nothing_more(name):
    """An update that went through the codec before it is offered is what the reducers get."""
    values, codec = NOISE, get_codec(name)
    whole = decode(codec, encode(codec, values), values.size)
    for begin, end in CUTS:
        part = whole[begin:end]
        assert np.array_equal(decode(codec, encode(codec, part), part.size), part)


@pytest.mark.parametrize("name", CODECS)
def test_the_bytes_of_aligned_chunks_in_a_row_are_those_of_the_whole(name):
    codec = get_codec(name)
    chunks = [encode(codec, NOISE[begin:end]).tobytes() for begin, end in CUTS]
    assert b"".join(chunks) == encode(codec, NOISE).tobytes()


@pytest.mark.parametrize("name", BLOCKWISE)
def test_a_large_value_spoils_only_its_own_block(name):
    codec = get_codec(name)
    values = np.full(3 * codec.block, 0.5, np.float32)
    values[0] = 1e6
    decoded = decode(codec, encode(codec, values), values.size)
    assert (decoded[1 : codec.block] == 0).all()
    np.testing.assert_allclose(decoded[codec.block :], 0.5, rtol=1e-4)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_never_come_out_finite(name, bad):
    codec = get_codec(name)
    values = np.ones(2000, np.float32)
    values[1500] = bad
    data = encode(codec, values)
    try:
        assert not np.isfinite(decode(codec, data, values.size)).all()
    except SwarmError as error:
        assert error.code is Code.NON_FINITE


@pytest.mark.parametrize("name", BLOCKWISE)
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, 3e38])
def test_hostile_scales_are_refused(name, scale):
    codec = get_codec(name)
    data = encode(codec, np.ones(100, np.float32))
    data[:4] = np.frombuffer(np.float32(scale).tobytes(), np.uint8)
    with pytest.raises(SwarmError) as caught:
        decode(codec, data, 100)
    expected = Code.MESSAGE_MALFORMED if np.isfinite(scale) else Code.NON_FINITE
    assert caught.value.code is expected


@pytest.mark.parametrize("name", CODECS)
@given(data=st.binary(max_size=300), elements=st.integers(0, 200))
def test_hostile_payloads_are_decoded_or_refused_never_worse(name, data, elements):
    codec = get_codec(name)
    try:
        assert decode(codec, data, elements).size == elements
    except SwarmError as error:
        assert error.code in (Code.MESSAGE_MALFORMED, Code.NON_FINITE)


@pytest.mark.parametrize("name", BLOCKWISE)
@given(data=st.binary(min_size=300, max_size=300))
def test_hostile_levels_never_decode_to_infinity(name, data):
    codec = get_codec(name)
    elements = next(n for n in range(600) if codec.encoded_bytes(n) == len(data))
    payload = np.frombuffer(data, np.uint8).copy()
    for begin in range(0, len(data), codec.encoded_bytes(codec.block)):
        payload[begin : begin + 4] = np.frombuffer(np.float32(2.6e36).tobytes(), np.uint8)
    assert np.isfinite(decode(codec, payload, elements)).all()


def test_unknown_codec_is_refused():
    with pytest.raises(SwarmError) as caught:
        get_codec("pickle")
    assert caught.value.code is Code.MESSAGE_MALFORMED
