"""Several real processes of one run, as the chaos tests see them from outside.

    with ChaosSwarm(directory, 4) as swarm:              # all in the roster
        swarm.round()                                    # undisturbed; sets the measure of time
        swarm.round_with(victim, fault)                  # returns when the survivors committed
        swarm.bring_back(victim, fault)

Everything that a peer reports is checked against what follows from the records (`toy.Truth`), and
every commit against its votes.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_peer import Setup
from faults import KILL, Fault
from peer_process import PeerProcess, processes_of_this_session, stories_of
from toy import NUMEL, Truth

from swarm.collective.consensus import commit_id, parse_record, verify_commit
from swarm.config import RunManifest, TimeoutPolicy
from swarm.identity import verify
from swarm.simulation.swarm import toy_manifest
from swarm.wire import collective_pb2 as pb

TIMEOUTS = TimeoutPolicy(
    heartbeat_s=2.0, chunk_s=5.0, attempt_s=20.0, round_s=30.0, join_s=40.0, lease_s=60.0
)


@dataclass(frozen=True)
class Disturbed:
    """How a round with a fault went."""

    record: pb.RoundRecord
    seconds: float  # from the fault to the last survivor's commit; negative: before it
    counted: bool  # the victim's update is in the result
    reduced: bool  # the victim had something to reduce


class ChaosSwarm:
    """See the module docstring.

    Attributes:
        undisturbed: seconds of each round without a fault.
        log: one line for each thing that happened, for the message of a failed test.
    """

    def __init__(self, directory: Path, peers: int, *, manifest: RunManifest | None = None) -> None:
        self.directory = directory
        self.manifest = manifest or toy_manifest(min_peers=peers, timeouts=TIMEOUTS)
        self.truth = Truth(NUMEL)
        self.peers: list[PeerProcess] = []
        self.undisturbed: list[float] = []
        self.log: list[str] = []
        self.succession: list[str] = []
        self.roster: list[str] = []
        self._peer_count = peers
        self.began = time.monotonic()

    def __enter__(self) -> ChaosSwarm:
        try:
            self.peers.append(self._start("0"))
            self.peers[0].wait_started()
            for index in range(1, self._peer_count):
                self.peers.append(self._start(str(index)))
            for peer in self.peers[1:]:
                peer.wait_started()
            numbers = [peer.send("join") for peer in self.peers]
            self.check_results(
                [p.reply(n) for p, n in zip(self.peers, numbers, strict=True)], self.peers
            )
            for _ in range(3):
                self.round()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        deadline = time.monotonic() + 10
        for peer in self.peers:
            peer.thaw()
            with contextlib.suppress(OSError):
                peer.send("stop")
        for peer in self.peers:
            peer.close(deadline)

    def _start(self, name: str) -> PeerProcess:
        alive = [p.address for p in self.peers if p.alive and p.address]
        setup = Setup(self.directory / name, self.manifest, dict(NUMEL), tuple(alive[:2]))
        return PeerProcess(setup)

    def note(self, text: str) -> None:
        self.log.append(f"{time.monotonic() - self.began:7.2f} {text}")

    @property
    def round_s(self) -> float:
        """Seconds of an undisturbed round, median."""
        return statistics.median(self.undisturbed[-9:])

    def others(self, victims: Iterable[PeerProcess]) -> list[PeerProcess]:
        excluded = list(victims)
        return [p for p in self.peers if p not in excluded]

    def by_id(self, peer_id: str) -> PeerProcess:
        return next(p for p in self.peers if p.me == peer_id)

    # ---- rounds ---------------------------------------------------------------------------

    def round_after_a_return(self) -> pb.RoundRecord:
        """One round of all peers, or two: a leader may still take one for dead that is back.

        Who was killed less than a second ago is not probed again before the others begin, so his
        update may come a moment after the plan. It is in the next round.
        """
        record = self.round(whole=False)
        reasons = {m.peer: m.reason for m in record.missing}
        if reasons:
            assert set(reasons.values()) == {"came after the plan"}, reasons
            record = self.round()
        return record

    def round(self, *, whole: bool = True) -> pb.RoundRecord:
        """One round of all peers without a fault; `whole`: with everybody's update."""
        began = time.monotonic()
        numbers = [peer.send("round") for peer in self.peers]
        replies = [p.reply(n) for p, n in zip(self.peers, numbers, strict=True)]
        record = self.check_results(replies, self.peers)
        ended = max(p.adopted_at(record.round) or began for p in self.peers)
        self.undisturbed.append(ended - began)
        self.note(f"round {record.round}: {ended - began:.2f} s, {len(record.roster)} members")
        assert sorted(record.roster) == sorted(p.me for p in self.peers)
        trunk = record.fragments[-1]
        if whole:
            assert list(trunk.contributors) == sorted(record.roster), record.missing
        self._forget()
        return record

    def round_with(self, victim: PeerProcess, fault: Fault) -> Disturbed:
        """One round in which `victim` harms itself; returns when the survivors have committed.

        A victim that lives on (STOP, FREEZE) is still stopped then; its round is not over.
        """
        victim.ask("arm", fault)
        survivors = self.others([victim])
        self.note(f"{victim.name}: {fault.action} at {fault.step}")
        victim.pending = victim.send("round")
        numbers = [peer.send("round") for peer in survivors]
        harmed = victim.wait_for(lambda m: m["kind"] == "fault", f"that {fault.step} is reached")
        replies = [p.reply(n) for p, n in zip(survivors, numbers, strict=True)]
        record = self.check_results(replies, survivors)
        self._check_nothing_lost(record, survivors, replies)
        ended = max(p.adopted_at(record.round) or 0.0 for p in survivors)
        counted = victim.me in record.fragments[-1].contributors
        if not counted:
            reasons = {m.peer: m.reason for m in record.missing}
            assert reasons.get(victim.me), f"the record does not say why: {reasons}"
        seconds = ended - harmed["at"]
        for peer, reply in zip(survivors, replies, strict=True):
            for at, text in reply["result"]["events"]:
                self.note(f"  {peer.name}: {at - harmed['at']:+.2f} s after the fault: {text}")
        self.note(f"round {record.round}: survivors {seconds:+.2f} s, counted={counted}")
        return Disturbed(record, seconds, counted, harmed["means"] > 0)

    def round_of_survivors(self, victims: Sequence[PeerProcess]) -> pb.RoundRecord:
        """One round of all others, who lose no update; the victims may be in the roster or not."""
        survivors = self.others(victims)
        numbers = [peer.send("round") for peer in survivors]
        replies = [p.reply(n) for p, n in zip(survivors, numbers, strict=True)]
        record = self.check_results(replies, survivors)
        self._check_nothing_lost(record, survivors, replies)
        self.note(f"round {record.round}: {len(record.roster)} members")
        return record

    def rounds_until_harmed(self, joiner: PeerProcess) -> float:
        """Rounds of the others until `joiner`, who is entering, has harmed itself, and one more.

        Returns the seconds from the fault, or from the beginning of the round in which it came or
        which followed it, to the end of that round; the longest.
        """
        longest = 0.0
        for _ in range(4):
            joiner.pump(0.5)
            harmed = any(m["kind"] == "fault" for m in joiner.inbox)
            began = time.monotonic()
            record = self.round_of_survivors([joiner])
            ended = max(p.adopted_at(record.round) or 0.0 for p in self.others([joiner]))
            during = [m["at"] for m in joiner.inbox if m["kind"] == "fault" and m["at"] > began]
            longest = max(longest, ended - min([began, *during] if not during else during))
            if harmed:
                return longest
        raise AssertionError(f"{joiner.name} never came to the step")

    def _check_nothing_lost(
        self,
        record: pb.RoundRecord,
        survivors: Sequence[PeerProcess],
        replies: Sequence[dict[str, Any]],
    ) -> None:
        trunk = record.fragments[-1]
        assert trunk.advanced
        lost = {p.me for p in survivors if p.me in record.roster} - set(trunk.contributors)
        assert not lost, f"updates of survivors are not in: {lost}, {record.missing}"
        for reply in replies:
            assert reply["result"]["offer_intact"]

    def check_results(
        self, replies: Sequence[dict[str, Any]], peers: Sequence[PeerProcess]
    ) -> pb.RoundRecord:
        """All succeeded with the same well-voted commit, and hold the values that follow."""
        for peer, reply in zip(peers, replies, strict=True):
            assert reply["code"] == "OK", (peer.name, reply)
        results = [reply["result"] for reply in replies]
        for result in results:
            self.truth.follow_all(result["lineage"])
        commits = {commit_id(pb.Commit.FromString(r["commit"]).record) for r in results}
        assert len(commits) == 1, [
            (parse_record(pb.Commit.FromString(r["commit"]).record).round, r["me"][-6:])
            for r in results
        ]
        for result in results:
            verify_commit(pb.Commit.FromString(result["commit"]), self.manifest.run_id, verify)
            assert result["matches"], f"{result['me']} has other bits than the record"
            self.truth.check(next(iter(commits)), result["samples"])
            if "base" in result:
                assert result["base"] not in commits, "a round was reported that did not commit"
        self.succession = results[0]["succession"]
        record = parse_record(pb.Commit.FromString(results[0]["commit"]).record)
        self.roster = list(record.roster)
        return record

    def _forget(self) -> None:
        for peer in self.peers:
            peer.pump()
            peer.inbox = [m for m in peer.inbox if m["kind"] == "reply"]

    # ---- coming back ----------------------------------------------------------------------

    def restart(self, victim: PeerProcess) -> PeerProcess:
        """Start a killed peer's process anew, with its directory; it does not join yet."""
        victim.kill()
        victim.connection.close()
        returned = self._start(victim.setup.directory.name)
        if victim in self.peers:
            self.peers[self.peers.index(victim)] = returned
        else:
            self.peers.append(returned)
        returned.wait_started()
        return returned

    def bring_back(self, victim: PeerProcess, fault: Fault) -> PeerProcess:
        """Start or thaw the victim, have it level and in the roster; returns its process."""
        if fault.action == KILL:
            victim = self.restart(victim)
            self.enter(victim)
            return victim
        victim.thaw()
        if victim.joining:
            self.enter(victim, victim.pending)
            return victim
        reply = victim.reply(victim.pending)
        assert reply["code"] == "OK", reply
        self.truth.follow_all(reply["result"]["lineage"])
        self.enter(victim)
        return victim

    def enter(self, newcomer: PeerProcess, number: int | None = None) -> None:
        """Have a peer join while the others go through rounds; `number` if it was told already."""
        number = newcomer.send("join") if number is None else number
        others = self.others([newcomer])
        for patience_s in (0.3, 0.6, 1.2, 2.4, 4.8, 4.8):
            if newcomer.me in self.roster:
                break  # it only has to get level; a round would wait for its update
            # Each round sets it back: it has to get level before it asks to enter the next one.
            newcomer.pump(patience_s)
            numbers = [peer.send("round") for peer in others]
            replies = [p.reply(n) for p, n in zip(others, numbers, strict=True)]
            record = self.check_results(replies, others)
            self.note(f"round {record.round}: {len(record.roster)} members")
        joined = newcomer.reply(number)
        numbers = [peer.send("summary") for peer in others]
        replies = [p.reply(n) for p, n in zip(others, numbers, strict=True)]
        record = self.check_results([joined, *replies], [newcomer, *others])
        assert newcomer.me in record.roster
        self._forget()


class SwarmPool:
    """Hands out one swarm again and again; a test that raises gets it replaced."""

    def __init__(self, new_directory: Callable[[], Path], peers: int = 4) -> None:
        self._new_directory = new_directory
        self._peers = peers
        self._swarm: ChaosSwarm | None = None

    @contextlib.contextmanager
    def swarm(self) -> Iterator[ChaosSwarm]:
        """A swarm whose peers are all level and in the roster."""
        if self._swarm is None:
            self._swarm = ChaosSwarm(self._new_directory(), self._peers).__enter__()
        self._swarm.log.clear()
        try:
            yield self._swarm
        except BaseException:
            print("\n".join(self._swarm.log))
            print(stories_of(self._swarm.peers, self._swarm.began))
            self.close()
            raise

    def close(self) -> None:
        """End the swarm; nothing of it may be left."""
        if self._swarm is not None:
            swarm, self._swarm = self._swarm, None
            swarm.close()
            left = processes_of_this_session()
            assert not left, f"processes left behind: {left}"
