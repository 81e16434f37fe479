"""Codecs: exact sizes, bounded errors, hostile payloads refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from swarm.collective.codecs import CODECS, get_codec
from swarm.errors import Code, SwarmError

finite = hnp.arrays(
    np.float32,
    st.integers(1, 3000),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)
BOUND = {"fp32": 0.0, "bf16": 2**-8, "int8": 1 / 127}


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=60, deadline=None)
@given(values=finite)
def test_round_trip_has_the_said_size_and_error(name, values):
    codec = get_codec(name)
    data = codec.encode(values)
    assert len(data) == codec.encoded_bytes(values.size)
    decoded = codec.decode(data, values.size)
    assert decoded.dtype == np.float32 and decoded.shape == values.shape
    scale = np.abs(values.astype(np.float64)).max() if name == "int8" else np.abs(values)
    error = np.abs(decoded.astype(np.float64) - values)
    assert (error <= BOUND[name] * scale + 1e-37).all()


@pytest.mark.parametrize("name", CODECS)
def test_encoding_what_was_decoded_changes_nothing_for_exact_codecs(name):
    values = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    codec = get_codec(name)
    once = codec.decode(codec.encode(values), values.size)
    assert np.array_equal(once, codec.decode(codec.encode(values.copy()), values.size))
    if name != "int8":
        assert np.array_equal(once, codec.decode(codec.encode(once), values.size))


@pytest.mark.parametrize("name", CODECS)
@given(data=st.binary(max_size=300), elements=st.integers(0, 200))
def test_hostile_payloads_are_decoded_or_refused_never_worse(name, data, elements):
    codec = get_codec(name)
    try:
        assert codec.decode(data, elements).size == elements
    except SwarmError as error:
        assert error.code is Code.MESSAGE_MALFORMED


def test_unknown_codec_is_refused():
    with pytest.raises(SwarmError) as caught:
        get_codec("pickle")
    assert caught.value.code is Code.MESSAGE_MALFORMED
