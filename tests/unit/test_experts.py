"""Assignment of experts and the store of their bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.collective.state import hash_of
from swarm.errors import Code, SwarmError
from swarm.experts.assignment import assign_experts
from swarm.experts.store import FragmentStore

peers = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)


@given(peers, peers, st.integers(1, 12), st.integers(1, 4))
def test_everybody_gets_his_share_and_holders_stay(before, after, num_experts, per_peer):
    first = assign_experts(before, {}, num_experts, per_peer)
    second = assign_experts(after, first, num_experts, per_peer)
    for peer in after:
        assert len(set(second[peer])) == min(per_peer, num_experts)
        assert set(second[peer]) <= set(range(num_experts))
        if peer in first:
            assert second[peer] == first[peer]
    assert second == assign_experts(list(reversed(after)), first, num_experts, per_peer)


@given(st.integers(1, 8), st.integers(1, 4))
def test_a_fresh_roster_covers_as_many_experts_as_it_can_evenly(num_peers, per_peer):
    roster = [f"p{i}" for i in range(num_peers)]
    assigned = assign_experts(roster, {}, 8, per_peer)
    holders = [sum(e in held for held in assigned.values()) for e in range(8)]
    assert max(holders) - min(holders) <= 1


def test_a_peer_that_returns_gets_the_orphaned_experts():
    roster = ["a", "b", "c", "d"]
    full = assign_experts(roster, {}, 8, 2)
    without_b = assign_experts(["a", "c", "d"], full, 8, 2)
    assert assign_experts(roster, without_b, 8, 2)["b"] == full["b"]


def test_store_gives_back_what_was_put_and_prunes_the_rest(tmp_path):
    store = FragmentStore(tmp_path / "fragments")
    arrays = [np.full(10, i, np.float32) for i in range(3)]
    for values in arrays:
        store.put(hash_of(values), values)
    again = FragmentStore(tmp_path / "fragments")
    assert np.array_equal(again.get(hash_of(arrays[1])), arrays[1])
    again.keep([hash_of(arrays[1])])
    assert again.get(hash_of(arrays[0])) is None
    assert again.get(hash_of(arrays[1])) is not None


def test_a_damaged_blob_is_named_removed_and_may_be_fetched_again(tmp_path):
    store = FragmentStore(tmp_path)
    values = np.arange(10, dtype=np.float32)
    store.put(hash_of(values), values)
    path = next(tmp_path.glob("*.f32"))
    data = bytearray(path.read_bytes())
    data[7] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(SwarmError) as caught:
        store.get(hash_of(values))
    assert caught.value.code is Code.FRAGMENT_CORRUPT and str(path) in caught.value.message
    assert store.get(hash_of(values)) is None


def test_a_full_disk_is_a_typed_error_and_leaves_no_partial_file(tmp_path, monkeypatch):
    store = FragmentStore(tmp_path)

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    values = np.arange(10, dtype=np.float32)
    with pytest.raises(SwarmError) as caught:
        store.put(hash_of(values), values)
    assert caught.value.code is Code.DISK_FULL
    assert list(tmp_path.iterdir()) == []
