"""Results under tags with a lossy codec: named and handed on as what they are decoded from."""

import subprocess
import sys
from datetime import timedelta

import numpy as np
import pytest
from reduce_peers import Group

from swarm.collective.codecs import decode, encode, get_codec
from swarm.collective.recovery import fetch_fragment
from swarm.collective.state import CanonicalState, FragmentState, version_message
from swarm.collective.tensors import NOTHING, TensorPolicy
from swarm.errors import Code, SwarmError
from swarm.hashing import bulk_hash

TAG, NUMEL = "gradient", 30_001
LIMIT = timedelta(seconds=1)


class Source:
    """A peer that serves what it holds, as the data plane's downloads do."""

    def __init__(self, state):
        self.held = CanonicalState({TAG: state})
        self.served_bytes = 0

    def download_blob(self, sources, blob_hash, into, timeout):
        blob = self.held.blob(blob_hash)
        if blob is None or blob.nbytes != into.nbytes:
            raise SwarmError(Code.FRAGMENT_UNAVAILABLE, "not here")
        into[:] = blob
        self.served_bytes += blob.nbytes


def reduced(codec):
    """The states of three peers after an all-reduce, by peer."""
    group = Group({TAG: NUMEL}, peers=3, codec=codec)
    means, policy = group.run(), TensorPolicy()
    group.close()
    return {
        peer: policy.apply(
            TAG,
            means[peer][TAG],
            policy.initial(TAG),
            3,
            exchange.encoded.get(TAG),
            exchange.names().get(TAG),
        )
        for peer, exchange in group.exchanges.items()
    }


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8", "int4"])
def test_who_missed_a_result_fetches_what_it_is_decoded_from_and_can_hand_it_on(name):
    codec, states = get_codec(name), reduced(name)
    assert len({state.theta_hash for state in states.values()}) == 1
    source = Source(states["a"])
    for _ in range(2):
        version = version_message(TAG, states["b"])
        found = fetch_fragment(source, [], version, NUMEL, LIMIT, codec)
        assert found.theta.tobytes() == states["c"].theta.tobytes()
        assert source.served_bytes == codec.encoded_bytes(NUMEL)
        source = Source(found)


@pytest.mark.parametrize("name", ["bf16", "int8", "int4"])
def test_the_name_is_that_of_the_encoding_whose_decoding_everybody_holds(name):
    for state in reduced(name).values():
        assert state.theta_hash == bulk_hash(state.encoded) == bulk_hash(state.content)
        assert decode(get_codec(name), state.encoded, NUMEL).tobytes() == state.theta.tobytes()


def test_the_name_of_an_exact_result_is_that_of_its_values():
    """It was computed while the means came in, from several reducers at once."""
    for state in reduced("fp32").values():
        assert state.encoded is None and state.theta_hash == bulk_hash(state.theta.data.cast("B"))


def test_what_can_not_be_decoded_is_no_result():
    codec = get_codec("int8")
    data = encode(codec, np.ones(NUMEL, np.float32))
    data[:4] = 255  # the first block's scale is NaN
    state = FragmentState.of(np.ones(NUMEL, np.float32), NOTHING, 1, data)
    version = version_message(TAG, state)
    assert fetch_fragment(Source(state), [], version, NUMEL, LIMIT, codec) is None


def test_kernels_that_were_compiled_for_another_layout_are_not_used():
    story = """
import sys, types
import swarm.collective
swarm.collective._kernels = types.ModuleType("swarm.collective._kernels")
sys.modules["swarm.collective._kernels"] = swarm.collective._kernels
from swarm.collective import codecs
assert codecs.compiled is None
swarm.collective._kernels.LAYOUT = codecs.LAYOUT
del sys.modules["swarm.collective.codecs"]
import swarm.collective.codecs
assert sys.modules["swarm.collective.codecs"].compiled is swarm.collective._kernels
"""
    subprocess.run([sys.executable, "-c", story], check=True, timeout=60)
