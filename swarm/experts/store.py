"""Fragments on disk, addressed by their hash, so that a peer can restart without the swarm.

A blob is written once under its hash (temporary file, sync, rename) and checked when it is read; a
damaged blob is removed and fetched again from other peers. `keep` prunes what no commit needs: the
newest blobs that it takes away are written over by the next ones of their size.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swarm.errors import Code, SwarmError
from swarm.files import storage_error, sync_file, write_atomic
from swarm.hashing import bulk_hash

F32 = npt.NDArray[np.float32]
BLOB, SPARE = ".f32", ".spare"


class FragmentStore:
    """Content-addressed fp32 arrays in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unsynced: set[Path] = set()  # written in this process
        self._spare: dict[int, list[Path]] = {}  # by size in bytes
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(directory, error) from error

    def _path(self, blob_hash: bytes) -> Path:
        return self._directory / f"{blob_hash.hex()}{BLOB}"

    def put(self, blob_hash: bytes, values: F32, *, sync: bool = True) -> None:
        """Write an array under its hash unless it is there. Raises `DISK_FULL`.

        Without `sync` it outlives this process, but not a power cut, until it is put again.
        """
        path = self._path(blob_hash)
        if not path.exists():
            data = values.astype("<f4", copy=False).data.cast("B")
            write_atomic(path, data, sync=sync, over=self._take_spare(data.nbytes))
            if not sync:
                self._unsynced.add(path)
        elif sync and path in self._unsynced:
            sync_file(path)
            self._unsynced.discard(path)

    def hashes(self) -> frozenset[bytes]:
        """What is here."""
        return frozenset(bytes.fromhex(path.stem) for path in self._directory.glob(f"*{BLOB}"))

    def get(self, blob_hash: bytes) -> F32 | None:
        """The array with that hash, or None. Raises `FRAGMENT_CORRUPT` after removing damage."""
        path = self._path(blob_hash)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(path, error) from error
        if bulk_hash(data) != blob_hash:
            path.unlink(missing_ok=True)
            raise SwarmError(
                Code.FRAGMENT_CORRUPT,
                f"{path} does not have its hash",
                "it was removed; the fragment is fetched again from the swarm",
            )
        return np.frombuffer(data, dtype="<f4")

    def keep(self, hashes: Iterable[bytes]) -> None:
        """Remove every blob that is not named, and what a crash left half written.

        Not to be called while another thread is in `put`. Raises `DIR_NOT_WRITABLE`.
        """
        names = {self._path(blob_hash).name for blob_hash in hashes}
        self._spare.clear()
        try:
            for path in self._directory.iterdir():
                if path.name in names:
                    continue
                if path.suffix == BLOB:
                    self._set_aside(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(self._directory, error) from error

    def _set_aside(self, blob: Path) -> None:
        """Make a blob a spare file, which must not be found under a hash that it may lose."""
        spare = blob.with_suffix(SPARE)
        blob.replace(spare)
        self._unsynced.discard(blob)
        self._spare.setdefault(spare.stat().st_size, []).append(spare)

    def _take_spare(self, size: int) -> Path | None:
        """A file to write over, if there is one; several threads may be in `put`."""
        with suppress(KeyError, IndexError):
            spare = self._spare[size].pop()
            return spare if spare.exists() else None
        return None
