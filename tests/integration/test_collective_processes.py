"""The round protocol among real processes: p2pd for control, sealed lanes for the bytes.

Each story is one swarm of four processes; members kill themselves with SIGKILL in mid-reduce and
are started again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from collective_peer import NUMEL, CollectivePeer, delta_of

from swarm.simulation.swarm import ToyPolicy

PEERS = 4


class Swarm:
    """Four processes, all in the roster."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.peers = [CollectivePeer(directory / "0")]
        self.peers[0].wait_ready()
        others = [
            CollectivePeer(directory / str(i), (self.peers[0].address,)) for i in range(1, PEERS)
        ]
        self.peers += others
        for peer in others:
            peer.wait_ready()
        self.expected = ToyPolicy(NUMEL).initial("trunk.0")
        for peer in self.peers:
            peer.send("join")
        self.check([peer.receive(60) for peer in self.peers])

    def round(self, victim: CollectivePeer | None = None, after_chunks: int = 0) -> dict[str, Any]:
        """One round; with a victim, which dies after it has sent so many chunks."""
        for peer in self.peers:
            peer.send("round", after_chunks if peer is victim else None)
        survivors = [p for p in self.peers if p is not victim]
        if victim is not None:
            victim.wait_killed(30)
        results = [peer.receive(60) for peer in survivors]
        self.check(results)
        contributors = results[0]["contributors"]
        assert contributors == sorted(p.me for p in survivors)
        self._check_values(results[0], contributors)
        return results[0]

    def check(self, results: list[dict[str, Any]]) -> None:
        """Everybody has the same commit and the same bits."""
        assert all(r["matches"] for r in results)
        for key in ("commit", "hashes", "roster"):
            assert all(r[key] == results[0][key] for r in results), key

    def _check_values(self, result: dict[str, Any], contributors: list[str]) -> None:
        """The trunk is the outer step on the mean of exactly these contributors."""
        deltas = [delta_of(p, "trunk.0", result["round"]) for p in contributors]
        mean = np.mean(np.stack(deltas), axis=0, dtype=np.float64).astype(np.float32)
        policy = ToyPolicy(NUMEL)
        self.expected = policy.apply("trunk.0", mean, self.expected, len(contributors))
        np.testing.assert_allclose(
            result["sample"], self.expected.theta[::40_000], rtol=1e-4, atol=1e-5
        )

    def restart(self, victim: CollectivePeer) -> None:
        """Start a killed peer again; it enters the roster at the next boundary."""
        alive = next(p for p in self.peers if p is not victim)
        returned = CollectivePeer(victim.directory, (alive.address,))
        returned.wait_ready()
        assert returned.me == victim.me
        self.peers[self.peers.index(victim)] = returned
        returned.send("join")
        others = [p for p in self.peers if p is not returned]
        for _ in range(5):  # its request may come just after a round's plan
            for peer in others:
                peer.send("round", None)
            results = [peer.receive(60) for peer in others]
            self._check_values(results[0], results[0]["contributors"])
            if returned.me in results[0]["roster"]:
                break
        self.check([*results, returned.receive(60)])
        assert returned.me in results[0]["roster"]

    def close(self) -> None:
        for peer in self.peers:
            peer.stop()


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path)
    yield swarm
    swarm.close()


def kill_in_mid_reduce(swarm: Swarm, rank: int, after_chunks: int) -> None:
    """Kill the peer of that rank in the succession of leaders, then bring it back."""
    swarm.peers[0].send("round", None)
    for peer in swarm.peers[1:]:
        peer.send("round", None)
    undisturbed = [peer.receive(60) for peer in swarm.peers]
    swarm.check(undisturbed)
    swarm._check_values(undisturbed[0], undisturbed[0]["contributors"])
    leader_order = undisturbed[0]["succession"]
    victim = next(p for p in swarm.peers if p.me == leader_order[rank])
    disturbed = swarm.round(victim, after_chunks)
    assert victim.me in disturbed["left"] and victim.me not in disturbed["roster"]
    swarm.restart(victim)


@pytest.mark.timeout(180)
def test_members_killed_in_mid_reduce_survivors_agree_and_the_killed_return(swarm: Swarm) -> None:
    for rank, after_chunks in ((0, 2), (1, 5), (3, 9)):
        kill_in_mid_reduce(swarm, rank, after_chunks)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_member_killed_in_mid_reduce_ten_times_in_a_row(swarm: Swarm) -> None:
    for repetition in range(10):
        kill_in_mid_reduce(swarm, repetition % PEERS, repetition % 12)
