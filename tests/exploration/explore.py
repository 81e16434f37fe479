"""Explore many schedules, and tell the story of one that breaks a rule.

python tests/exploration/explore.py 0 5000          # seeds; a process on each core
python tests/exploration/explore.py 0 5000 10 1     # until 10 broke a rule, in one process
python tests/exploration/explore.py --story 1234    # one seed, shrunk, as a story
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from oracle import Violation
from schedule import Schedule, Script, shrink
from shortcuts import shortcuts
from world import World

BLOCK = 1000  # seeds that a process explores at once


@dataclass
class Findings:
    """What an exploration saw; `seen` counts the schedules in which something came to pass."""

    schedules: int = 0
    seconds: float = 0.0
    seen: Counter[str] = field(default_factory=Counter)
    broken: dict[int, str] = field(default_factory=dict)  # seed -> rule


def explore(seeds: Iterable[int], *, stop_at: int = 1) -> Findings:
    """Run the worlds of these seeds, until `stop_at` of them broke a rule."""
    findings = Findings()
    begin = time.perf_counter()
    with shortcuts():
        for seed in seeds:
            world = World(Schedule.random(seed))
            findings.schedules += 1
            try:
                world.run()
            except Violation as violation:
                findings.broken[seed] = violation.rule
            findings.seen.update(set(world.seen))
            if len(findings.broken) >= stop_at:
                break
    findings.seconds = time.perf_counter() - begin
    return findings


def explore_in_processes(
    first: int, last: int, *, processes: int = 2, stop_at: int = 1
) -> Findings:
    """`explore` for a range of seeds, in blocks of seeds, a process for each core."""
    whole = Findings()
    begin = time.perf_counter()
    blocks = [range(a, min(a + BLOCK, last)) for a in range(first, last, BLOCK)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for findings in pool.map(partial(explore, stop_at=stop_at), blocks):
            whole.schedules += findings.schedules
            whole.seen.update(findings.seen)
            whole.broken.update(findings.broken)
            if len(whole.broken) >= stop_at:
                pool.shutdown(cancel_futures=True)
                break
    whole.seconds = time.perf_counter() - begin
    return whole


def breaks(script: Script) -> Violation | None:
    """The rule that a script breaks, with its story."""
    world = World(Schedule.replay(script), telling=True)
    try:
        world.run()
    except Violation as violation:
        return violation
    return None


def story(seed: int, tries: int = 1500) -> str:
    """The shortest run found that breaks the same rule as a seed does, line by line."""
    with shortcuts():
        return _story(seed, tries)


def _story(seed: int, tries: int) -> str:
    schedule = Schedule.random(seed)
    world = World(schedule)
    try:
        world.run()
    except Violation as violation:
        rule = violation.rule
    else:
        return f"seed {seed} breaks nothing"

    def still_fails(script: Script) -> bool:
        found = breaks(script)
        return found is not None and found.rule == rule

    shortest = shrink(schedule.script, still_fails, tries)
    found = breaks(shortest)
    if found is None:
        return f"seed {seed}: {rule} (it can not be repeated)"
    answers = "\n".join(f"    {name}: {answer}" for name, answer in shortest.items())
    told = "\n".join(found.world.story)
    return f"seed {seed}: {rule}\nwith {len(shortest)} accidents:\n{answers}\n{told}\n=> {rule}"


def main() -> None:
    if sys.argv[1] == "--story":
        print(story(int(sys.argv[2])))
        return
    first, last = int(sys.argv[1]), int(sys.argv[2])
    stop_at = int(sys.argv[3]) if len(sys.argv) > 3 else 10
    processes = int(sys.argv[4]) if len(sys.argv) > 4 else len(os.sched_getaffinity(0))
    findings = explore_in_processes(first, last, processes=processes, stop_at=stop_at)
    speed = findings.schedules / max(findings.seconds, 1e-9)
    print(f"{findings.schedules} schedules, {findings.seconds:.1f} s, {speed:.0f} a second")
    for what, count in findings.seen.most_common():
        print(f"{count:8d}  {what}")
    for rule, count in Counter(findings.broken.values()).most_common():
        seeds = [seed for seed, broken in findings.broken.items() if broken == rule]
        print(f"{count:8d}  BROKEN: {rule}; seeds {seeds[:8]}")


if __name__ == "__main__":
    main()
