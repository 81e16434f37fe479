from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from swarm.errors import Code, SwarmError
from swarm.simulation.local_transport import LocalHub, LocalTransport
from swarm.wire.control_pb2 import Locate, Ping, Pong

RUN = b"r" * 32
SECOND = timedelta(seconds=1)
SHORT = timedelta(milliseconds=50)


async def pong(sender: str, request: Ping) -> Pong:
    return Pong(sequence=request.sequence + 1)


def pair(hub: LocalHub) -> tuple[LocalTransport, LocalTransport]:
    alice, bob = hub.join(run_id=RUN), hub.join(run_id=RUN)
    alice.serve(Ping, pong)
    bob.serve(Ping, pong)
    return alice, bob


def code_of(call) -> Code:
    with pytest.raises(SwarmError) as caught:
        asyncio.run(call)
    return caught.value.code


def test_request_is_answered_by_its_recipient_and_by_oneself():
    alice, bob = pair(LocalHub())
    for peer in (bob.peer_id, alice.peer_id):
        reply = asyncio.run(alice.call(peer, Ping(sequence=4), Pong, SECOND))
        assert reply.sequence == 5


def test_refusal_of_a_handler_reaches_the_caller_with_its_code():
    alice, bob = pair(LocalHub())

    async def refuse(sender: str, request: Locate) -> Pong:
        raise SwarmError(Code.COMMIT_INVALID, "no quorum")

    bob.serve(Locate, refuse)
    with pytest.raises(SwarmError) as caught:
        asyncio.run(alice.call(bob.peer_id, Locate(), Pong, SECOND))
    assert caught.value.code is Code.PEER_REFUSED
    assert "COMMIT_INVALID: no quorum" in caught.value.message


def test_broken_handler_is_an_internal_refusal_and_not_a_crash():
    alice, bob = pair(LocalHub())

    async def crash(sender: str, request: Locate) -> Pong:
        raise ZeroDivisionError

    bob.serve(Locate, crash)
    assert code_of(alice.call(bob.peer_id, Locate(), Pong, SECOND)) is Code.PEER_REFUSED
    assert asyncio.run(alice.call(bob.peer_id, Ping(), Pong, SECOND))


def test_unknown_kind_is_refused_and_counted():
    alice, bob = pair(LocalHub())
    assert code_of(alice.call(bob.peer_id, Locate(), Pong, SECOND)) is Code.PEER_REFUSED
    assert bob.refused == {"MESSAGE_UNKNOWN": 1}


def test_reply_of_another_type_than_asked_for_is_refused():
    alice, bob = pair(LocalHub())
    assert code_of(alice.call(bob.peer_id, Ping(), Locate, SECOND)) is Code.MESSAGE_UNKNOWN


def test_peer_of_another_run_is_told_so_with_both_ids():
    hub = LocalHub()
    alice, stranger = hub.join(run_id=RUN), hub.join(run_id=b"s" * 32)
    assert code_of(alice.call(stranger.peer_id, Ping(), Pong, SECOND)) is Code.RUN_MISMATCH
    assert stranger.refused == {"MESSAGE_WRONG_RUN": 1}


def test_partition_loses_messages_until_it_heals():
    hub = LocalHub()
    alice, bob = pair(hub)
    hub.partition([alice.peer_id], [bob.peer_id])
    assert code_of(alice.call(bob.peer_id, Ping(), Pong, SHORT)) is Code.PEER_UNREACHABLE
    hub.heal()
    assert asyncio.run(alice.call(bob.peer_id, Ping(), Pong, SECOND))


def test_dropped_reply_looks_like_silence_although_the_handler_ran():
    hub = LocalHub()
    alice, bob = pair(hub)
    heard = []

    async def hear(sender: str, request: Ping) -> Pong:
        heard.append(sender)
        return Pong()

    bob.serve(Ping, hear)
    hub.drop = lambda source, target, kind: kind == "reply:swarm.v1.Ping"
    assert code_of(alice.call(bob.peer_id, Ping(), Pong, SHORT)) is Code.PEER_UNREACHABLE
    assert heard == [alice.peer_id]


def test_delay_is_paid_both_ways():
    hub = LocalHub()
    alice, bob = pair(hub)
    hub.delay = lambda source, target: 0.02
    began = time.monotonic()
    asyncio.run(alice.call(bob.peer_id, Ping(), Pong, SECOND))
    assert time.monotonic() - began >= 0.04


def test_killed_peer_refuses_at_once_and_its_restart_answers():
    hub = LocalHub()
    alice, bob = pair(hub)
    hub.kill(bob.peer_id)
    began = time.monotonic()
    assert code_of(alice.call(bob.peer_id, Ping(), Pong, SECOND)) is Code.PEER_UNREACHABLE
    assert time.monotonic() - began < 0.5
    again = hub.join(run_id=RUN, identity=bob.endpoint.identity)
    again.serve(Ping, pong)
    assert asyncio.run(alice.call(bob.peer_id, Ping(), Pong, SECOND))
