"""Eight peers under random kills, freezes and joins, as in PCCL's stress test, but with values.

    pytest tests/chaos/test_soak.py -m heavy --soak-seconds 1800 --soak-seed 7

Every 2 s one is killed or frozen for a while, every 3 s one starts, with an old directory or a new
one. After every commit that any of them tells of: all that have it have the hashes of its record
and the values that follow from its contributors; it has the votes it needs; there is no other of
its round in its branch. Nobody waits longer for a commit than the time limits allow, and nothing
grows. In the end the faults stop, and all are level in one history.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from pathlib import Path

import pytest
from chaos_peer import Setup
from chaos_watch import Watch
from peer_process import PeerProcess, processes_of_this_session, stories_of
from toy import SMALL, Truth

from swarm.config import MembershipConfig, TimeoutPolicy
from swarm.simulation.swarm import toy_manifest

pytestmark = pytest.mark.heavy

PEERS = 8
KILL_EVERY_S = 2.0
JOIN_EVERY_S = 3.0
FREEZE_S = (0.5, 8.0)
MIN_UNHARMED = 4
LASTING = 2  # the first peers are never killed, only frozen: what grows is seen in them
TIMEOUTS = TimeoutPolicy(
    heartbeat_s=1.5, chunk_s=3.0, attempt_s=10.0, round_s=12.0, join_s=20.0, lease_s=25.0
)
MANIFEST = dataclasses.replace(
    toy_manifest(timeouts=TIMEOUTS),
    membership=MembershipConfig(min_peers=PEERS, on_majority_lost="continue"),
)
# A lost majority may cost the lease, then a straggler, an attempt that fails and one that does not.
LADDER_S = TIMEOUTS.lease_s + TIMEOUTS.round_s + 2 * TIMEOUTS.attempt_s
PAUSE_S = 0.3
JUDGED_AFTER = 50  # commits; by then the lasting ones have had rounds enough to be judged


class Soak:
    """The peers, and who is frozen until when."""

    def __init__(self, root: Path, seed: int, leak_mib: float = 0.0) -> None:
        self.root = root
        self.leak_mib = leak_mib
        self.random = random.Random(seed)
        self.watch = Watch(MANIFEST, Truth(SMALL))
        self.peers: list[PeerProcess] = []
        self.absent: list[str] = []  # directories of the killed
        self.frozen: dict[PeerProcess, float] = {}
        self.faults = {"killed": 0, "frozen": 0, "joined": 0}
        self._names = 0

    def start(self, name: str) -> PeerProcess:
        addresses = [p.address for p in self.unharmed() if p.address]
        setup = Setup(self.root / name, MANIFEST, dict(SMALL), tuple(addresses[:2]), self.leak_mib)
        peer = PeerProcess(setup)
        peer.pause_s = PAUSE_S
        self.peers.append(peer)
        return peer

    def new_name(self) -> str:
        self._names += 1
        return f"peer-{self._names}"

    def unharmed(self) -> list[PeerProcess]:
        return [p for p in self.peers if p not in self.frozen]

    def harm(self) -> None:
        """Kill or freeze somebody, if enough are left."""
        candidates = [p for p in self.unharmed() if p.address]
        if len(candidates) <= MIN_UNHARMED:
            return
        victim = self.random.choice(candidates)
        if victim in self.peers[:LASTING] or self.random.random() < 0.4:
            victim.stop(frozen=self.random.random() < 0.5)
            self.frozen[victim] = time.monotonic() + self.random.uniform(*FREEZE_S)
            self.watch.frozen(victim)
            self.faults["frozen"] += 1
        else:
            victim.kill()
            self.watch.look([victim], 0.0)  # what it said before
            victim.connection.close()
            self.peers.remove(victim)
            self.absent.append(victim.setup.directory.name)
            self.faults["killed"] += 1

    def join(self) -> None:
        """Start somebody, if somebody is missing: a killed one again, or a new one."""
        if self.absent:
            returning = self.absent.pop(self.random.randrange(len(self.absent)))
            self.start(returning if self.random.random() < 0.8 else self.new_name())
            self.faults["joined"] += 1

    def thaw(self, everybody: bool = False) -> None:
        """Let those go on whose time has come."""
        for peer, until in list(self.frozen.items()):
            if everybody or time.monotonic() > until:
                peer.thaw()
                del self.frozen[peer]
                self.watch.thawed(peer)

    def look(self) -> None:
        self.watch.look(self.unharmed())
        self.watch.check_progress(self.unharmed(), LADDER_S)
        for peer in self.peers:
            assert peer.alive, f"{peer.name} ended by itself: {peer.process.exitcode}"

    def run(self, seconds: float) -> None:
        """Faults for so long."""
        now = began = time.monotonic()
        next_harm, next_join = now + KILL_EVERY_S, now + JOIN_EVERY_S
        while now < began + seconds:
            if now >= next_harm:
                next_harm += KILL_EVERY_S
                self.harm()
            if now >= next_join:
                next_join += JOIN_EVERY_S
                self.join()
            self.thaw()
            self.look()
            now = time.monotonic()

    def settle(self, limit_s: float) -> None:
        """No more faults: all are level in one history within `limit_s`."""
        self.thaw(everybody=True)
        while self.absent:
            self.join()
        deadline = time.monotonic() + limit_s
        after = max((r.round for r in self.watch.commits.values()), default=0)
        while self.watch.common_commit(self.peers, after) is None:
            assert time.monotonic() < deadline, "they did not become level"
            self.look()

    def stories(self) -> str:
        """What each living peer saw lately, for the message of a failed soak."""
        self.thaw(everybody=True)
        return stories_of(self.peers, self.watch.began)

    def close(self) -> None:
        for peer in self.peers:
            peer.thaw()
            with contextlib.suppress(OSError):
                peer.send("stop")
        deadline = time.monotonic() + 10
        for peer in self.peers:
            peer.close(deadline)

    def report(self) -> str:
        records = self.watch.commits.values()
        return (
            f"{len(records)} commits in {len({r.branch for r in records})} branches, "
            f"{self.faults}, longest wait {self.watch.longest_s:.1f} s, "
            f"largest {self.watch.largest()}, errors survived {len(self.watch.trouble)}"
        )


@pytest.mark.timeout(0)
def test_eight_peers_under_rapid_kills_freezes_and_joins(
    tmp_path: Path, request: pytest.FixtureRequest, account: list[str]
) -> None:
    seconds = request.config.getoption("soak_seconds", 300.0)
    seed = request.config.getoption("soak_seed", None)
    seed = random.randrange(10**6) if seed is None else seed
    account.append(f"soak of {seconds:g} s; the same faults again: --soak-seed {seed}")
    soak = Soak(tmp_path, seed, request.config.getoption("soak_leak_mib", 0.0))
    try:
        soak.start(soak.new_name()).wait_started_and_live()
        for _ in range(PEERS - 1):
            soak.start(soak.new_name())
        soak.settle(60.0)
        soak.run(seconds)
        soak.settle(2 * LADDER_S)
    except BaseException:
        print(soak.stories())
        raise
    finally:
        account.append(soak.report())
        print("\n".join(soak.watch.trouble[-50:]))
        soak.close()
    assert not processes_of_this_session()
    assert len(soak.watch.commits) > seconds / 15, "hardly any round was decided"
    assert not soak.watch.growth()
    few = len(soak.watch.commits) < JUDGED_AFTER
    assert few or soak.watch.judged(), "nobody lived long enough to be judged"
