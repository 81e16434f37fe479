"""The last to leave a swarm that was stopped whole waits for the others when it is back."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

from node.returning import wait_for_return
from swarm.collective.ledger import Ledger
from swarm.config import TimeoutPolicy
from swarm.identity import Identity
from swarm.simulation.swarm import FAST, SimulatedPeer, SimulatedSwarm, toy_manifest

ROUND_S = 2.0


class Stopped:
    """A swarm whose peers left one by one, and its disks."""

    def __init__(self, place: Path, timeouts: TimeoutPolicy = FAST) -> None:
        manifest = toy_manifest(min_peers=3, timeouts=timeouts)
        self.swarm = SimulatedSwarm(0, manifest=manifest, with_disks=True)
        self.places = {Identity.generate(): place / str(number) for number in range(3)}

    async def stop(self) -> None:
        for identity, place in self.places.items():
            self.swarm.add(identity, Ledger(place))
        await self.swarm.start()
        await self.swarm.round()
        for peer in list(self.swarm.peers):
            await peer.member.resign()
            await peer.member.close()
            self.swarm.kill(peer)

    def start(self, number: int) -> SimulatedPeer:
        identity, place = list(self.places.items())[number]
        return self.swarm.add(identity, Ledger(place))


def test_it_waits_until_the_founders_are_back_and_then_all_go_on_together(tmp_path: Path) -> None:
    async def story() -> None:
        stopped = Stopped(tmp_path)
        await stopped.stop()
        swarm, said = stopped.swarm, list[str]()
        first = stopped.start(2)
        assert len(first.ledger.resignations) == 2
        waiting = asyncio.create_task(wait_for_return(first.member, swarm.manifest, said.append))
        while not said:
            await asyncio.sleep(0.02)
        stopped.start(0)
        while not said[-1].startswith("2 of 3"):
            await asyncio.sleep(0.02)
        assert not waiting.done()
        late = stopped.start(1)
        await waiting
        await asyncio.gather(*(peer.member.resync() for peer in swarm.peers))
        rounds = [asyncio.create_task(p.round()) for p in swarm.peers if p is not late]
        await asyncio.sleep(1.0)  # it still trains, and has no vote; but it is there
        records = [await late.round(), *await asyncio.gather(*rounds)]
        assert list(records[0].missing) == [] and len(records[0].roster) == 3
        await swarm.close()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_who_is_not_back_in_time_is_not_waited_for(tmp_path: Path) -> None:
    async def story() -> None:
        stopped = Stopped(tmp_path, dataclasses.replace(FAST, attempt_s=1.5, round_s=ROUND_S))
        await stopped.stop()
        swarm, first = stopped.swarm, stopped.start(2)
        stopped.start(1)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await wait_for_return(first.member, swarm.manifest, lambda line: None)
        assert ROUND_S <= loop.time() - started < ROUND_S + 5
        await swarm.close()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_in_a_swarm_that_nobody_left_there_is_nothing_to_wait_for() -> None:
    async def story() -> None:
        swarm = SimulatedSwarm(2)
        await swarm.start()
        said: list[str] = []
        swarm.kill(swarm.peers[1])
        await wait_for_return(swarm.peers[0].member, swarm.manifest, said.append)
        assert said == []
        await swarm.close()

    asyncio.run(asyncio.wait_for(story(), 60))
