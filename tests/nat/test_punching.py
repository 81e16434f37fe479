"""A pair behind two routers leaves the relay, and nobody who talks to the other notices."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from swarm.network.p2p.puncher import Puncher
from swarm.network.p2p.routes import Routes
from tests.nat.conditions import between
from tests.nat.lab_peer import MIB, LabPeer, LabSwarm, eventually
from tests.nat.netlab import Lab

PUBLIC = ("pub1", "pub2")  # libp2p's own punching needs four
WITHIN_S = 15.0
CALL_EVERY_S = 0.02
AGAIN_S = 45.0
GIVEN_UP_S = 12.0


@pytest.fixture
def swarm(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabSwarm]:
    """Two public peers; whoever is behind a router comes later."""
    swarm = LabSwarm(lab, tmp_path_factory.mktemp("peers"))
    try:
        lab.set_conditions(between(round_trip_ms=30, loss=0))
        swarm.start(*PUBLIC)
        yield swarm
    finally:
        swarm.stop()
        lab.clear_conditions()


class Caller(threading.Thread):
    """Calls a peer again and again; what failed after the first success is in `problems`."""

    def __init__(self, one: LabPeer, other: LabPeer) -> None:
        super().__init__(daemon=True)
        self.problems: list[str] = []
        self.calls = 0
        self.ends = threading.Event()
        self._pair = one, other

    def run(self) -> None:
        one, other = self._pair
        while not self.ends.wait(CALL_EVERY_S):
            problem = one.ping(other)
            if problem and self.calls:
                self.problems.append(problem)
            self.calls += not problem


def test_calls_go_on_while_a_pair_leaves_the_relay(swarm: LabSwarm) -> None:
    swarm.start("a", "b")
    one, other = swarm["a"], swarm["b"]
    callers = [Caller(one, other), Caller(other, one), Caller(one, other)]
    for caller in callers:
        caller.start()
    eventually(lambda: {one.path_to(other), other.path_to(one)}, {"punched"}, WITHIN_S)
    calls = [caller.calls for caller in callers]
    eventually(
        lambda: all(c.calls >= n + 5 for c, n in zip(callers, calls, strict=True)), True, WITHIN_S
    )
    for caller in callers:
        caller.ends.set()
    for caller in callers:
        caller.join(20)
        assert not caller.problems
        assert caller.calls > 10
    before = swarm.lab.traffic(*PUBLIC)
    one.fetch(other, 32 * MIB)
    assert swarm.lab.traffic(*PUBLIC) - before < MIB
    other.fetch(one, 8 * MIB)


def test_a_pair_whose_hole_closes_is_back_on_the_relay_at_once_and_punches_another(
    lab: Lab, swarm: LabSwarm
) -> None:
    one, other = relayed(swarm, "a", "g")
    eventually(lambda: {one.path_to(other), other.path_to(one)}, {"punched"}, WITHIN_S)
    one.close_holes()
    eventually(lambda: one.ping(other), "", 10)
    eventually(lambda: {one.path_to(other), other.path_to(one)}, {"punched"}, AGAIN_S)


@pytest.mark.parametrize("dies", ["who asks", "who was asked"])
def test_a_peer_that_dies_between_the_request_and_the_connection_is_given_up_and_met_again(
    swarm: LabSwarm, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    asked_puncher: list[Puncher] = []
    agreed, dead = threading.Event(), threading.Event()
    call_back = Puncher._call_back

    async def when_dead(puncher: Puncher, *arguments: Any) -> None:
        """The asked side calls only when one of the two is dead."""
        asked_puncher.append(puncher)
        agreed.set()
        await asyncio.to_thread(dead.wait, WITHIN_S)
        await call_back(puncher, *arguments)

    with monkeypatch.context() as held:
        held.setattr(Puncher, "_call_back", when_dead)
        swarm.start("a", "b")
        assert agreed.wait(WITHIN_S)
    one, other = swarm["a"], swarm["b"]
    asked, asking = (one, other) if routes(one).puncher is asked_puncher[0] else (other, one)
    victim, survivor = (asking, asked) if dies == "who asks" else (asked, asking)
    victim.kill()
    dead.set()
    assert not survivor.ping(swarm["pub1"])
    eventually(lambda: (len(routes(survivor)._trying), holes(survivor)), (0, 0), GIVEN_UP_S)

    swarm.start(victim.host)
    again = swarm[victim.host]
    eventually(lambda: {survivor.path_to(again), again.path_to(survivor)}, {"punched"}, AGAIN_S)


def routes(peer: LabPeer) -> Routes:
    return peer.network.routes


def holes(peer: LabPeer) -> int:
    """That it is punching for others."""
    return len(routes(peer).puncher._answering)


def relayed(swarm: LabSwarm, *hosts: str) -> tuple[LabPeer, LabPeer]:
    """Start two peers and wait until they have told each other of their relays."""
    swarm.start(*hosts)
    swarm.meet()
    one, other = (swarm[host] for host in hosts)
    eventually(lambda: one.ping(other) + other.ping(one), "", 15)
    return one, other
