"""Large buffers that are used again: fresh memory costs more than what is done with it.

    values = take(numel)          # flat fp32, not initialized
    del values                    # and all views of it: the memory is free for the next `take`

The kernel clears every page that it gives to a process, at 2 GiB/s where this was measured: for a
mean of 64 MiB that took a sixth of a whole all-reduce. A buffer comes back by itself when the last
array, memoryview or tensor that shares it is gone, so nobody has to say so and nobody can be too
early. At most `KEPT_BYTES` wait for another use, in the whole process.
"""

from __future__ import annotations

import itertools
import weakref
from contextlib import suppress

import numpy as np

from swarm.collective.codecs import F32

KEPT_BYTES = 6 * 2**26  # 384 MiB
LEAST_VALUES = 2**16  # smaller ones are the allocator's matter

# A buffer may come back in any thread, in the middle of anything (garbage collection), so there is
# no lock: every step is one operation of a dict.
_free: dict[int, F32] = {}
_numbers = itertools.count()


def take(numel: int) -> F32:
    """A flat array of `numel` values, whatever they are."""
    if numel < LEAST_VALUES:
        return np.empty(numel, np.float32)
    for number, memory in list(_free.items()):
        if memory.size == numel and _free.pop(number, None) is not None:
            return _lend(memory)
    return _lend(np.empty(numel, np.float32))


def _lend(memory: F32) -> F32:
    # Views of an array that does not own its memory refer to it, not to the owner.
    lent: F32 = np.frombuffer(memory.data, np.float32)
    weakref.finalize(lent, _give_back, memory).atexit = False
    return lent


def _give_back(memory: F32) -> None:
    if memory.nbytes > KEPT_BYTES:
        return
    _free[next(_numbers)] = memory
    while sum(kept.nbytes for kept in list(_free.values())) > KEPT_BYTES:
        with suppress(StopIteration, RuntimeError):
            _free.pop(next(iter(_free)), None)  # the oldest
