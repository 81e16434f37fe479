"""What tells a leak from a plateau, on made-up lives and on this process."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
from growth import ALLOWED, CEILINGS, LEAST_SAMPLES, MIB, WARM_UP_S, Vitals, growth

USUAL = {"live_mib": 45.0, "blocks": 230e3, "fds": 32.0, "threads": 15.0, "tasks": 8.0}
COLD = {"live_mib": 10.0, "blocks": 14e3, "fds": 14.0, "threads": 10.0, "tasks": 0.0}
NOISE = {"live_mib": 20.0, "blocks": 5000.0, "fds": 20.0, "threads": 20.0, "tasks": 50.0}
SEEDS = range(50)
SHORT, LONG = 40, 300  # rounds in a soak of five minutes on a busy machine, and of thirty
ROUND_S = 6.0
LEAST_ROUNDS = LEAST_SAMPLES + int(WARM_UP_S / ROUND_S)


def life(rounds: int, seed: int, **leaks: float) -> list[dict[str, float]]:
    """A process that warms up for eight rounds, with upward noise in every other, and leaks."""
    rng = random.Random(seed)
    samples = []
    for number in range(rounds):
        sample = {"round": number, "age_s": number * ROUND_S, "peak_mib": 150.0}
        for name, usual in USUAL.items():
            cold = COLD[name] * max(0.0, 1 - number / 8)
            busy = rng.random() < 0.5
            sample[name] = usual - cold + busy * rng.random() * NOISE[name]
            sample[name] += leaks.get(name, 0.0) * number
        samples.append(sample)
    return samples


@pytest.mark.parametrize("rounds", [LEAST_ROUNDS, SHORT, LONG])
def test_a_noisy_plateau_is_no_leak(rounds: int):
    assert all(growth(life(rounds, seed)) == [] for seed in SEEDS)


@pytest.mark.parametrize(
    ("rounds", "name", "leak"),
    [
        (SHORT, "live_mib", 1.5),  # half of an update
        (SHORT, "blocks", 800.0),
        (SHORT, "fds", 2.5),
        (SHORT, "threads", 2.5),
        (SHORT, "tasks", 2.5),
        (LONG, "live_mib", 0.3),
        (LONG, "blocks", 250.0),
        (LONG, "fds", 0.4),
        (LONG, "threads", 0.4),
        (LONG, "tasks", 0.4),
    ],
)
def test_a_leak_is_found_under_noise(rounds: int, name: str, leak: float):
    for seed in SEEDS:
        found = growth(life(rounds, seed, **{name: leak}))
        assert found and any(line.startswith(f"{name} grows") for line in found), seed


@pytest.mark.parametrize("name", ALLOWED)
def test_a_little_for_each_round_is_no_leak(name: str):
    for seed in SEEDS:
        found = growth(life(LONG, seed, **{name: ALLOWED[name].per_round / 2})) or []
        assert not any(line.startswith(name) for line in found), found


def test_what_is_kept_for_a_time_is_no_leak_where_rounds_are_short():
    quick = [{**s, "age_s": s["round"]} for s in life(60 + LEAST_SAMPLES, 0)]
    for sample in quick:
        sample["blocks"] += 400 * min(sample["age_s"], WARM_UP_S)
    assert growth(quick) == []


def test_a_short_life_is_judged_by_its_ceiling_only():
    short = life(LEAST_ROUNDS - 1, 0, live_mib=100.0)
    assert growth(short) is None
    short[3]["peak_mib"] = CEILINGS["peak_mib"] + 1
    found = growth(short)
    assert found and "peak_mib" in found[0]


def story_of_vitals() -> tuple[dict[str, float], ...]:
    async def story() -> tuple[dict[str, float], ...]:
        vitals, kept = Vitals(), []
        # Below the size from which the allocator gives memory back to the kernel at once, and with
        # something small that stays behind each, so that the heap can not shrink.
        size = MIB // 10
        np.ones(size, np.uint8)
        gc.collect()
        before = vitals.sample(0)
        passing: list[Any] = [(np.ones(size, np.uint8), bytes(600)) for _ in range(400)]
        held = vitals.sample(1)
        small = [pair[1] for pair in passing]
        passing.clear()
        after = vitals.sample(2)
        kept += small
        return before, held, after

    return asyncio.run(story())


def test_vitals_count_what_is_kept_and_not_what_the_allocator_holds_free():
    """In a process of its own: what other tests left in this one is let go at any time."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        before, held, after = pool.submit(story_of_vitals).result(60)
    assert held["live_mib"] - before["live_mib"] == pytest.approx(40, abs=4)
    assert after["live_mib"] - before["live_mib"] == pytest.approx(0, abs=4)
    assert after["tasks"] == 1 and after["fds"] >= 3 and after["threads"] >= 1
