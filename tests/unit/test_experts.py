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


def test_what_is_no_longer_needed_is_written_over_by_the_next_of_its_size(tmp_path):
    store = FragmentStore(tmp_path)
    old, other, new, last = (np.full(size, size, np.float32) for size in (10, 11, 10, 10))
    old -= 1
    last += 1
    for values in (old, other):
        store.put(hash_of(values), values)
    inode = store_inode(tmp_path, old)
    store.keep([hash_of(other)])
    assert store.hashes() == {hash_of(other)} and store.get(hash_of(old)) is None
    store.put(hash_of(new), new, sync=False)
    store.put(hash_of(last), last)
    assert store_inode(tmp_path, new) == inode != store_inode(tmp_path, last)
    again = FragmentStore(tmp_path)
    for values in (other, new, last):
        assert np.array_equal(again.get(hash_of(values)), values)


def store_inode(directory, values):
    return (directory / f"{hash_of(values).hex()}.f32").stat().st_ino


def test_of_what_is_no_longer_needed_only_the_newest_stays_on_disk(tmp_path):
    store = FragmentStore(tmp_path)
    for number in range(4):
        values = np.full(10 + number, number, np.float32)  # no two of one size
        store.put(hash_of(values), values)
        store.keep([])
        assert len(list(tmp_path.iterdir())) == 1
    FragmentStore(tmp_path).keep([])  # of a process that has ended
    assert list(tmp_path.iterdir()) == []
