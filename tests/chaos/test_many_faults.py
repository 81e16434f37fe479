"""Faults that are more than one death: a lost majority, a partition, a slow peer, a full disk.

Each story has its own swarm of real processes; what is checked in every round is said in
chaos_swarm.py, of peers that run freely in chaos_watch.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from chaos_swarm import ChaosSwarm
from chaos_watch import Watch
from faults import FILL, FILLER, KILL, Fault
from peer_process import PeerProcess, processes_of_this_session

from swarm.config import MembershipConfig, RunManifest, TimeoutPolicy
from swarm.simulation.swarm import toy_manifest
from swarm.wire import collective_pb2 as pb

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(240)]

PEERS = 4
SHORT = TimeoutPolicy(
    heartbeat_s=1.5, chunk_s=3.0, attempt_s=6.0, round_s=8.0, join_s=10.0, lease_s=12.0
)


def manifest(on_majority_lost: str) -> RunManifest:
    """A run with a short lease."""
    return dataclasses.replace(
        toy_manifest(timeouts=SHORT),
        membership=MembershipConfig(min_peers=PEERS, on_majority_lost=on_majority_lost),
    )


@pytest.fixture
def new_swarm(tmp_path: Path) -> Iterator[Callable[[str], ChaosSwarm]]:
    """Makes a swarm with that policy; its log is printed when the test fails."""
    with contextlib.ExitStack() as stack:

        def make(on_majority_lost: str) -> ChaosSwarm:
            swarm = ChaosSwarm(tmp_path, PEERS, manifest=manifest(on_majority_lost))
            stack.callback(lambda: print("\n".join(swarm.log)))
            return stack.enter_context(swarm)

        yield make
    assert not processes_of_this_session()


def kill_all_but_one(swarm: ChaosSwarm) -> tuple[PeerProcess, int, float]:
    """Three die in the middle of the reduce. The survivor, its open round, when they died."""
    survivor, *victims = swarm.peers
    for victim in victims:
        victim.ask("arm", Fault("chunk mid", KILL))
    number = survivor.send("round")
    for victim in victims:
        victim.pending = victim.send("round")
    for victim in victims[:1]:  # the others may die before they come so far
        died = victim.wait_for(lambda m: m["kind"] == "fault", "that it is killed")
    for victim in victims:
        victim.kill()
    return survivor, number, float(died["at"])


def test_three_of_four_killed_at_once_and_the_survivor_goes_on_in_a_branch(
    new_swarm: Callable[[str], ChaosSwarm],
) -> None:
    swarm = new_swarm("continue")
    before = swarm.round()
    survivor, number, died_at = kill_all_but_one(swarm)
    reply = survivor.reply(number, 3 * SHORT.lease_s)
    alone = swarm.check_results([reply], [survivor])
    waited_s = (survivor.adopted_at(alone.round) or 0.0) - died_at
    assert SHORT.lease_s - 1.0 < waited_s < SHORT.lease_s + SHORT.round_s
    assert alone.branch != before.branch and list(alone.roster) == [survivor.me]
    dead, swarm.peers = swarm.peers[1:], [survivor]
    for victim in dead:  # the survivor's is the history with more tokens
        swarm.enter(swarm.restart(victim))
    assert swarm.round().branch == alone.branch


def test_three_of_four_killed_at_once_and_the_survivor_waits_for_a_majority(
    new_swarm: Callable[[str], ChaosSwarm],
) -> None:
    swarm = new_swarm("wait")
    before = swarm.round()
    survivor, number, _ = kill_all_but_one(swarm)
    survivor.pump(SHORT.lease_s + SHORT.attempt_s)
    assert survivor.adopted_at(before.round + 1) is None, "it decided without a majority"
    returned = [swarm.restart(victim) for victim in swarm.peers[1:]]
    for peer in returned:
        peer.ask("join")
    numbers = [peer.send("round") for peer in returned]
    replies = [
        survivor.reply(number),
        *(p.reply(n) for p, n in zip(returned, numbers, strict=True)),
    ]
    record = swarm.check_results(replies, [survivor, *returned])
    assert record.branch == before.branch and record.round == before.round + 1
    swarm.round()


def watch_together(
    watch: Watch, peers: Sequence[PeerProcess], done: Callable[[], bool], what: str, limit_s: float
) -> None:
    """Look at the peers until `done`."""
    deadline = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < deadline, f"waited {limit_s:g} s for {what}"
        watch.look(peers)


def cut_and_heal(
    swarm: ChaosSwarm, sides: tuple[list[PeerProcess], list[PeerProcess]], until: str
) -> tuple[list[pb.RoundRecord], pb.RoundRecord]:
    """Peers run freely, are cut into two sides until each side that can has gone on, then meet.

    `until`: "majority" when only the first side can go on, else "both". Returns what was decided
    during the cut, and the first commit of all after it.
    """
    everybody = [*sides[0], *sides[1]]
    watch = Watch(swarm.manifest, swarm.truth)
    for peer in everybody:
        peer.ask("live", 0.2)
    watch_together(watch, everybody, lambda: len(watch.commits) > 12, "commits", 60)
    for here, there in (sides, sides[::-1]):
        names = frozenset(p.me for p in there)
        for number, peer in [(p.send("cut", names), p) for p in here]:
            assert peer.reply(number)["code"] == "OK"
    known = set(watch.commits)
    names = [{p.me for p in side} for side in sides]

    def decided() -> list[pb.RoundRecord]:
        return [r for i, r in watch.commits.items() if i not in known]

    def rosters(side: int) -> list[pb.RoundRecord]:
        return [r for r in decided() if set(r.roster) == names[side]]

    sides_to_wait_for = (0,) if until == "majority" else (0, 1)
    watch_together(
        watch, everybody, lambda: all(len(rosters(s)) >= 3 for s in sides_to_wait_for),
        "rounds of each side that can decide", SHORT.lease_s + 2 * SHORT.round_s + 30,
    )  # fmt: skip
    apart = decided()
    newest = max(r.round for r in watch.commits.values())
    for peer in everybody:
        peer.ask("cut", frozenset())
    watch_together(
        watch, everybody, lambda: watch.common_commit(everybody, newest) is not None,
        "one history for all", 60,
    )  # fmt: skip
    together = watch.common_commit(everybody, newest)
    assert together is not None
    return apart, together


def test_a_minority_that_is_cut_off_decides_nothing_and_comes_back(
    new_swarm: Callable[[str], ChaosSwarm],
) -> None:
    swarm = new_swarm("wait")
    sides = (swarm.peers[:3], swarm.peers[3:])
    before = swarm.round()
    apart, together = cut_and_heal(swarm, sides, "majority")
    lonely = sides[1][0].me
    assert all(r.proposer != lonely and len(r.electorate) >= 3 for r in apart)
    assert together.branch == before.branch


def test_two_halves_that_are_cut_go_on_in_branches_and_meet_in_the_same_one(
    new_swarm: Callable[[str], ChaosSwarm],
) -> None:
    swarm = new_swarm("continue")
    sides = (swarm.peers[:2], swarm.peers[2:])
    before = swarm.round()
    apart, together = cut_and_heal(swarm, sides, "both")
    branches = {r.branch for r in apart if r.branch != before.branch}
    assert len(branches) == 2 and together.branch in branches


def test_a_slow_contributor_misses_the_deadline_is_named_and_returns(
    new_swarm: Callable[[str], ChaosSwarm],
) -> None:
    swarm = new_swarm("wait")
    swarm.round()
    slow = swarm.by_id(swarm.succession[2])
    slow.ask("meek", True)  # it reduces nothing, so only its own update is late
    slow.ask("brake", SHORT.chunk_s / 2)  # slow, but moving
    slow.pending = slow.send("round")
    began = time.monotonic()
    record = swarm.round_of_survivors([slow])
    took_s = time.monotonic() - began
    assert record.outcome == pb.PARTIAL
    assert {m.peer: m.reason for m in record.missing}.keys() == {slow.me}
    assert all(m.reason for m in record.missing)
    assert slow.me in record.roster, "it lives"
    assert took_s < 2 * SHORT.attempt_s + 3.0
    late = slow.reply(slow.pending)
    assert late["code"] == "OK" and late["result"]["offer_intact"]
    slow.ask("brake", 0.0)
    slow.ask("meek", False)
    swarm.check_results([late], [slow])
    assert slow.me in swarm.round().fragments[-1].contributors


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_peer_whose_disk_is_full_at_the_commit_stops_and_the_others_go_on(
    new_swarm: Callable[[str], ChaosSwarm], tmp_path: Path
) -> None:
    small = tmp_path / str(PEERS - 1)
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(small)], check=True)
    try:
        swarm = new_swarm("wait")
        victim = swarm.peers[-1]
        while swarm.succession[0] == victim.me:
            swarm.round()
        disturbed = swarm.round_with(victim, Fault("before-serve Commit", FILL))
        assert disturbed.counted and victim.me in disturbed.record.roster
        reply = victim.reply(victim.pending)
        assert reply["code"] == "DISK_FULL", reply
        victim.kill()
        swarm.round_of_survivors([victim])
        (small / FILLER).unlink()
        swarm.enter(swarm.restart(victim))
        swarm.round()
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
