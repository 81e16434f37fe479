"""The hash of a mean, computed while the mean comes in, by the threads that fill it.

    digest = RunningDigest(content)       # its bytes, in whatever order they come
    digest.filled(begin, end)             # these are final; hashes some of what is there in a row
    digest.finish()                       # the 32 bytes, when all are there

Hashed at the end, a mean has left the processor's caches, and nothing is sent meanwhile. Hashed
while it comes, its bytes were written a moment before, and a processor that would wait has work.
The hash is that of the bytes in order, so what is behind a gap waits for it: reducers therefore
work through a fragment side by side (`striped` in `swarm/collective/shares.py`).
"""

from __future__ import annotations

import threading

from swarm.hashing import blake3

AT_ONCE_BYTES = 2**21  # after one chunk is filled: the thread has others to take


class RunningDigest:
    """See the module docstring; safe to use from many threads. No byte is filled twice."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._hash = blake3()
        self._lock = threading.Lock()
        self._filled: dict[int, int] = {}  # what is not hashed: from where to where
        self._hashed = 0
        self._hashing = False

    def filled(self, begin: int, end: int) -> None:
        """The bytes from `begin` to `end` are there, and final."""
        with self._lock:
            self._filled[begin] = end
            if self._hashing:
                return
            self._hashing = True
        try:
            self._advance(AT_ONCE_BYTES)
        finally:
            with self._lock:
                self._hashing = False

    def finish(self) -> bytes:
        """The BLAKE3 hash of the whole content; to be called when no thread fills it any more."""
        self._advance(self._content.nbytes)
        assert self._hashed == self._content.nbytes, "a mean with a hole in it"
        return self._hash.digest()

    def _advance(self, limit: int) -> None:
        """Hash what follows, up to a chunk more than `limit` bytes of it."""
        stop = self._hashed + limit
        while self._hashed < stop:
            begin = end = self._hashed
            with self._lock:
                while end < stop and (next_end := self._filled.pop(end, None)) is not None:
                    end = next_end
            if begin == end:
                return
            self._hash.update(self._content[begin:end])
            self._hashed = end
