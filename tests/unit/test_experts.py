"""The store of the fragments' bytes."""

import numpy as np
import pytest

from swarm.collective.state import hash_of
from swarm.errors import Code, SwarmError
from swarm.experts.store import FragmentStore


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
