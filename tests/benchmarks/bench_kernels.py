"""Speed of what a reducer computes: operations by number of contributors, and codecs.

    .venv/bin/python tests/benchmarks/bench_kernels.py

One thread, chunks of 64 Ki values that are in the cache. One JSON line each: for an operation MiB
of contributions (fp32) a second, for a codec MiB of fp32 values a second, for a sum (of 4 encoded
contributions: all that a reducer computes, compiled in one pass and in steps) MiB of results.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from swarm.collective.codecs import CODECS, F32, Codec, encode
from swarm.collective.kernels import WeightedSum, all_finite, make_kernel
from swarm.wire import collective_pb2 as pb

ELEMENTS = 1 << 16
CHUNK_MIB = ELEMENTS * 4 / 2**20
OPERATIONS = ("MEAN", "CLIPPED_MEAN", "SUM", "MAX", "MEDIAN", "TRIMMED_MEAN")


def seconds_of(work: Callable[[], None], repeats: int = 20, rounds: int = 5) -> float:
    """Seconds of one call, the best of several rounds."""
    best = float("inf")
    for _ in range(rounds):
        begin_s = time.perf_counter()
        for _ in range(repeats):
            work()
        best = min(best, (time.perf_counter() - begin_s) / repeats)
    return best


def bench_operation(name: str, contributors: int) -> float:
    """MiB of contributions a second."""
    rows = np.random.default_rng(0).standard_normal((contributors, ELEMENTS)).astype(np.float32)
    plan = pb.FragmentPlan(
        contributors=[f"{i:03}" for i in range(contributors)],
        weights=[1 / contributors] * contributors,
        operation=name,
    )
    kernel, total = make_kernel(plan, ELEMENTS), np.empty(ELEMENTS, np.float32)

    def combine() -> None:
        kernel.begin(total)
        for position, values in enumerate(rows):
            kernel.add(position, values)
        kernel.finish()

    return contributors * CHUNK_MIB / seconds_of(combine)


def bench_sum(codec: Codec, contributors: int = 4) -> tuple[float, float]:
    """MiB of results a second, in one pass and in steps."""
    rows = np.random.default_rng(0).standard_normal((contributors, ELEMENTS)).astype(np.float32)
    parts = [encode(codec, row) for row in rows[1:]]
    kernel = WeightedSum([1 / contributors] * contributors, ELEMENTS)
    total, decoded = np.empty((2, ELEMENTS), np.float32)
    mean = np.empty(0 if codec.lossless else codec.encoded_bytes(ELEMENTS), np.uint8)

    def decode(data: npt.NDArray[np.uint8]) -> F32:
        if codec.lossless:
            return data.view(np.float32)
        codec.decode_into(data, decoded)
        return decoded

    def in_steps() -> None:
        kernel.begin(total)
        kernel.add(0, rows[0] if codec.lossless else decode(encode(codec, rows[0])))
        for position, part in enumerate(parts, 1):
            kernel.add(position, decode(part))
        all_finite(total)
        if not codec.lossless:
            codec.encode_into(total, mean)
            codec.decode_into(mean, total)

    def at_once() -> None:
        kernel.at_once(codec, [rows[0], *parts], 0, total, mean)

    return CHUNK_MIB / seconds_of(at_once), CHUNK_MIB / seconds_of(in_steps)


def main() -> None:
    """Print all figures."""
    for name in OPERATIONS:
        for contributors in (4, 8, 16):
            speed = round(bench_operation(name, contributors))
            line = {"bench": "kernel", "operation": name, "peers": contributors}
            print(json.dumps({**line, "mib_per_s": speed}))
    values = np.random.default_rng(0).standard_normal(ELEMENTS).astype(np.float32)
    decoded = np.empty_like(values)
    for codec in CODECS.values():
        data = encode(codec, values)
        encoding = seconds_of(lambda c=codec, d=data: c.encode_into(values, d))  # type: ignore[misc]
        decoding = seconds_of(lambda c=codec, d=data: c.decode_into(d, decoded))  # type: ignore[misc]
        line = {"bench": "codec", "codec": codec.name, "bytes_per_value": data.size / ELEMENTS}
        speeds = {"encode": round(CHUNK_MIB / encoding), "decode": round(CHUNK_MIB / decoding)}
        print(json.dumps({**line, **speeds}))
        once, steps = bench_sum(codec)
        line = {"bench": "sum", "codec": codec.name, "peers": 4}
        print(json.dumps({**line, "at_once": round(once), "in_steps": round(steps)}))


if __name__ == "__main__":
    main()
