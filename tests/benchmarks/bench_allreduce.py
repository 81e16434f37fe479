"""All-reduce beside hivemind, gloo and PCCL: on loopback, over limited links, with a death midway.

    make bench BENCH=allreduce                             # all: about an hour on two cores
    make bench BENCH=allreduce ARGS="--quick"              # a small slice, some minutes
    make bench BENCH=allreduce ARGS="--results docs"       # also writes docs/results.md and a plot
    make bench BENCH=allreduce ARGS="--part loopback --peers 4 --mib 64 --only ours gloo"

Prints one JSON line per implementation and case. The implementations take turns within every
repeat, each with its own processes, idle meanwhile; the first turn of each is not counted. Every
result is compared with the true mean, and bit by bit among the peers where that is promised.
Seconds run from the first peer's call to the last peer's return, agreement and commit included; for
hivemind without its matchmaking (see allreduce/hivemind_peer.py). bound_s: 2 (N-1)/N bytes of fp32
by the rate of the slowest link, the best a ring can do. cpu_s_per_gib: of all processes, per GiB
of fp32 that a ring would send. Limited links need root (links.py); PCCL needs pccl_root.sh.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn, TextIO

from allreduce import table, variants
from allreduce.group import Group, Outcome, PeerError
from allreduce.lines import Samples, case, figures
from allreduce.variants import Variant
from links import Links, probe, unavailable

PARTS = ("loopback", "links", "kill")
PCCL_PYTHON = Path("~/.cache/pccl/python")
LIMIT_S = 120.0
KILL_LIMIT_S = 45.0
FAST_MBIT, SLOW_MBIT = 100, 20
PROBE_SHARE = 0.94  # of a link's rate; 1448 bytes of 1514 are payload: 0.956
PROBES = 4
ALONE_MIB = 2048  # peers by size from which there is memory for one implementation at a time only
GIVE_UP_AFTER = 2  # failures of one implementation in one case
VICTIM = 2
WARM_UP = 10_000  # the repeat that no case counts


class Bench:
    """Everything a run needs. `lines` is what was printed."""

    def __init__(self, arguments: argparse.Namespace, log: TextIO) -> None:
        self.arguments, self.log = arguments, log
        self.lines: list[dict[str, Any]] = []
        self.pccl = arguments.pccl.expanduser()
        self.pccl_missing = variants.pccl_missing(self.pccl)

    def emit(self, **line: Any) -> None:
        """Print one JSON line."""
        self.lines.append(line)
        print(json.dumps(line), flush=True)

    def chosen(self, among: Sequence[Variant]) -> list[Variant]:
        """The variants that are asked for and can run."""
        found = variants.select(among, self.arguments.only)
        return [v for v in found if v.impl != "pccl" or self.pccl_missing is None]

    def group(self, variant: Variant, peers: int, links: Links | None, limit_s: float) -> Group:
        """Peers of a variant, not started yet."""
        return Group(variant, peers, log=self.log, limit_s=limit_s, links=links, pccl=self.pccl)

    def measure(
        self, among: Sequence[Variant], peers: int, sizes: Sequence[int], links: Links | None = None
    ) -> Iterator[tuple[int, dict[Variant, Samples]]]:
        """Take turns; yields what was found for each size in MiB."""
        with Pool(self, peers, links) as pool:
            for mib in sizes:
                alone = peers * mib >= ALONE_MIB
                found = {variant: Samples() for variant in among}
                for repeat in range(self.arguments.repeats + 1):
                    for variant, samples in found.items():
                        if len(samples.failures) >= GIVE_UP_AFTER:
                            continue
                        try:
                            outcome = pool.average(variant, mib, repeat, alone)
                            if repeat > 0:
                                samples.outcomes.append(outcome)
                        except PeerError as error:
                            samples.failures.append(str(error))
                            pool.end(variant.process)
                yield mib, found

    def report(
        self, part: str, peers: int, mib: int, found: dict[Variant, Samples], rates: Sequence[float]
    ) -> None:
        """One line for each variant."""
        sent_bytes = 2 * (peers - 1) / peers * mib * 2**20
        bound_s = sent_bytes * 8 / (min(rates) * 1e6) if rates else None
        for variant, samples in found.items():
            line = case(part, variant, peers, mib)
            line |= {"link_mbit": max(rates) if rates else None}
            if rates and min(rates) < max(rates):
                line |= {"slow_mbit": min(rates)}
            line |= figures(samples, mib, sent_bytes * peers / 2**30, bound_s)
            self.emit(**line)

    def loopback(self) -> None:
        """Sizes by peers, then what the ratios are."""
        for peers in self.arguments.peers:
            chosen = self.chosen(variants.LOOPBACK)
            for mib, found in self.measure(chosen, peers, self.arguments.mib):
                self.report("loopback", peers, mib, found, [])
        for line in table.comparisons(self.lines):
            self.emit(**line)

    def links(self) -> None:
        """Four peers, all at 100 Mbit/s, then one of them at 20."""
        if (reason := unavailable()) is not None:
            self.emit(bench="allreduce", part="links", unavailable=reason)
            return
        peers, mib = 4, self.arguments.link_mib
        for rates, among in (
            ([FAST_MBIT] * peers, variants.LIMITED),
            ([*[FAST_MBIT] * (peers - 1), SLOW_MBIT], variants.ONE_SLOW),
        ):
            with Links(rates) as links:
                self.verify(links)
                for size, found in self.measure(self.chosen(among), peers, [mib], links):
                    self.report("links", peers, size, found, rates)

    def verify(self, links: Links) -> None:
        """Plain TCP around the peers must reach what the links allow; the best of some tries."""
        for peer in range(len(links)):
            flow = (peer, (peer + 1) % len(links))
            rate = min(links.rates_mbit[side] for side in flow)
            mbit = 0.0
            for _ in range(PROBES):
                mbit = max(mbit, *probe(links, [flow]))
                if mbit > PROBE_SHARE * rate:
                    break
            line = {"flow": flow, "link_mbit": rate, "payload_mbit": round(mbit, 1)}
            self.emit(bench="links", ok=PROBE_SHARE * rate < mbit < rate, **line)

    def kill(self) -> None:
        """SIGKILL of one of four, halfway through an all-reduce; fresh peers for every death."""
        peers, mib = 4, self.arguments.kill_mib
        for repeat in range(self.arguments.kills):
            for variant in self.chosen(variants.KILLED):
                line = case("kill", variant, peers, mib)
                line |= {"repeat": repeat, "limit_s": KILL_LIMIT_S}
                try:
                    with self.group(variant, peers, None, KILL_LIMIT_S) as group:
                        group.average(variant.codec, mib, WARM_UP)
                        usual = group.average(variant.codec, mib, WARM_UP + 1)
                        line["undisturbed_s"] = round(usual.seconds, 3)
                        halfway_s = (usual.step_s or usual.seconds) - usual.seconds / 2
                        found = group.average_with_a_death(
                            variant.codec, mib, repeat, VICTIM, halfway_s
                        )
                except PeerError as error:
                    found = {"seconds": None, "outcome": f"before the kill: {error}"}
                seconds = found["seconds"]
                line["recovery_s"] = None if seconds is None else round(seconds, 3)
                self.emit(**line, outcome=found["outcome"])


class Pool:
    """The groups of one case, started when they are first needed; a context manager."""

    def __init__(self, bench: Bench, peers: int, links: Links | None) -> None:
        self._bench, self._peers, self._links = bench, peers, links
        self._groups: dict[tuple[str, str], Group] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for process in list(self._groups):
            self.end(process)

    def average(self, variant: Variant, mib: int, repeat: int, alone: bool) -> Outcome:
        """One turn; `alone` ends all others first. Raises PeerError."""
        process = variant.process
        for other in [p for p in self._groups if alone and p != process]:
            self.end(other)
        if process not in self._groups:
            group = self._bench.group(variant, self._peers, self._links, LIMIT_S)
            group.start()
            self._groups[process] = group
            group.average(variant.codec, mib, WARM_UP)
        return self._groups[process].average(variant.codec, mib, repeat)

    def end(self, process: tuple[str, str]) -> None:
        """End a group, if there is one."""
        if (group := self._groups.pop(process, None)) is not None:
            group.close()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--peers", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--mib", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--repeats", type=int, default=5, help="counted turns in each case")
    parser.add_argument("--link-mib", type=int, default=64, help="size over limited links")
    parser.add_argument("--kill-mib", type=int, default=256, help="size when a peer dies")
    parser.add_argument("--kills", type=int, default=3, help="deaths of each implementation")
    parser.add_argument("--only", nargs="+", default=[], help="words in impl/route/codec")
    parser.add_argument("--pccl", type=Path, default=PCCL_PYTHON, help="made by pccl_root.sh")
    parser.add_argument("--results", type=Path, help="folder for results.md and its plot")
    parser.add_argument("--log", type=Path, help="what the peers write to stderr")
    parser.add_argument("--quick", action="store_true", help="other defaults: 2 and 4 peers, small")
    if parser.parse_args().quick:
        parser.set_defaults(peers=[2, 4], mib=[16], repeats=1, link_mib=8, kill_mib=64, kills=1)
    return parser.parse_args()


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> None:
    """Run the parts; ends all processes and links also when it is interrupted."""
    arguments = parse()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    with ExitStack() as stack:
        log = open(arguments.log, "w") if arguments.log else tempfile.TemporaryFile("w")
        bench = Bench(arguments, stack.enter_context(log))
        bench.emit(**table.machine())
        if bench.pccl_missing is not None:
            bench.emit(bench="allreduce", impl="pccl", unavailable=bench.pccl_missing)
        for part in PARTS:
            if part in arguments.part:
                getattr(bench, part)()
    if arguments.results:
        table.write(bench.lines, arguments.results)


if __name__ == "__main__":
    main()
