"""All peers are killed at once, at the worst moment: what was decided is on their disks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from swarm.collective.ledger import Ledger
from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.simulation.swarm import SimulatedPeer, SimulatedSwarm, toy_manifest
from swarm.wire import collective_pb2 as pb


def die_at_the_commit(peer: SimulatedPeer, *, written: bool) -> None:
    """The process ends while it writes the next commit: just after, or just before."""
    keep = peer.ledger.save_commit

    def end(*arguments: Any) -> None:
        if written:
            keep(*arguments)
        raise SwarmError(Code.DISK_FULL, "stands for SIGKILL: nothing is done after this")

    peer.ledger.save_commit = end  # type: ignore[method-assign]


@pytest.mark.parametrize("written", [True, False], ids=["committed", "voted"])
def test_all_are_killed_at_once_before_anything_is_saved_and_the_swarm_goes_on(
    written: bool, tmp_path: Path
) -> None:
    async def story() -> None:
        swarm = SimulatedSwarm(0, manifest=toy_manifest(min_peers=3), with_disks=True)
        places = {Identity.generate(): tmp_path / str(number) for number in range(3)}
        for identity, place in places.items():
            swarm.add(identity, Ledger(place))
        await swarm.start()
        await swarm.round()
        victims = list(swarm.peers)
        base = victims[0].state.fragments["trunk.0"]
        deltas = [p.delta("trunk.0", 2) for p in sorted(victims, key=lambda p: p.peer_id)]
        for peer in victims:
            die_at_the_commit(peer, written=written)
        await asyncio.gather(*(peer.round() for peer in victims), return_exceptions=True)
        for peer in victims:
            await peer.member.close()
            swarm.kill(peer)

        again = [swarm.add(identity, Ledger(place)) for identity, place in places.items()]
        assert any(p.ledger.next_round == 3 for p in again) is written
        await swarm.start()
        if not written:
            await swarm.round()  # what had the votes is decided, and nothing else
        swarm.assert_level()
        assert again[0].ledger.next_round == 3
        mean = sum(delta / 3 for delta in deltas)
        expected = swarm.policy.apply("trunk.0", mean.astype("<f4"), base, 3)
        assert again[0].state.fragments["trunk.0"].theta == pytest.approx(expected.theta, abs=1e-6)
        await swarm.round()
        swarm.assert_level()
        await swarm.close()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_resignation_that_nobody_heard_is_said_again_by_who_is_back(tmp_path: Path) -> None:
    """Else the others would wait for its vote, of which it knows that it gave it up."""

    async def story() -> None:
        swarm = SimulatedSwarm(0, manifest=toy_manifest(min_peers=2), with_disks=True)
        places = {Identity.generate(): tmp_path / str(number) for number in range(2)}
        for identity, place in places.items():
            swarm.add(identity, Ledger(place))
        await swarm.start()
        await swarm.round()
        swarm.peers[0].ledger.abstain()  # as `resign` does first; then the process ends
        for peer in list(swarm.peers):
            await peer.member.close()
            swarm.kill(peer)
        for identity, place in places.items():
            swarm.add(identity, Ledger(place))
        await swarm.start()
        records = await swarm.round()
        assert records[0].round == 2 and records[0].outcome == pb.FULL
        assert [r.peer for r in records[0].resignations] == [swarm.peers[0].peer_id]
        assert not records[0].unanimous and len(records[0].roster) == 2
        await swarm.round()
        swarm.assert_level()
        await swarm.close()

    asyncio.run(asyncio.wait_for(story(), 60))
