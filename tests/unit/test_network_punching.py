"""Calls that go out until the other's come, and who may ask for one."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, cast

import pytest

from swarm.errors import Code, SwarmError
from swarm.network.limits import PUNCHES
from swarm.network.p2p.puncher import MAX_AT_ONCE, Puncher
from swarm.network.punching import Source, meet
from swarm.network.reachability import Nat, Reachability, network_hash
from swarm.wire.control_pb2 import Punch
from swarm.wire.membership_pb2 import PeerRecord

RUN = b"r" * 32
SOON = timedelta(seconds=5)
HOME = "11.7.0.102"
BEHIND = Reachability(
    Nat.ENDPOINT_INDEPENDENT.value, observed=("11.7.0.101:4700",), observers=2, behind_nat=True
)


@contextmanager
def source() -> Iterator[Source]:
    taken = Source.bind("127.0.0.1")
    try:
        yield taken
    finally:
        taken.close()


def test_a_call_is_repeated_until_the_other_side_is_there() -> None:
    async def story() -> None:
        with socket.socket() as late, source() as own:
            late.bind(("127.0.0.1", 0))
            port = late.getsockname()[1]
            calling = asyncio.ensure_future(meet(own, f"127.0.0.1:{port}", SOON))
            await asyncio.sleep(0.2)  # refused meanwhile
            assert not calling.done()
            late.listen(1)
            with await calling as sock:
                accepted, address = late.accept()
                with accepted:
                    assert address[1] == own.port == sock.getsockname()[1]

    asyncio.run(story())


def test_nobody_there_is_an_error_within_the_limit() -> None:
    with source() as own, source() as silent:
        began = time.monotonic()
        with pytest.raises(SwarmError) as caught:
            asyncio.run(meet(own, f"127.0.0.1:{silent.port}", timedelta(seconds=0.4)))
        assert caught.value.code is Code.PEER_UNREACHABLE
        assert "refused" in caught.value.message
        assert time.monotonic() - began < 2


def test_one_port_serves_several_connections_and_is_free_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as b:
        with source() as own:
            seen = []
            for server in (one, b):
                own.keep(own.connect(f"127.0.0.1:{server.getsockname()[1]}", 2.0))
                accepted, address = server.accept()
                accepted.close()
                seen.append(address[1])
            assert seen == [own.port, own.port]
        with socket.create_server(("127.0.0.1", own.port)):
            pass


class NoLink:
    """Calls nobody."""

    peer_id = "me"
    port = 4700


class NeverDirect:
    """A p2pd to which no direct connection comes."""

    @asynccontextmanager
    async def changing(self, peer: str) -> AsyncIterator[None]:
        yield

    async def wait_for_direct(self, peer: str, timeout: timedelta) -> None:
        await asyncio.Event().wait()


def puncher(own: Reachability = BEHIND, *others: PeerRecord, **record: Any) -> Puncher:
    known = PeerRecord(peer_id="other", network_hash=network_hash(RUN, HOME), **record)
    made = Puncher(
        cast(Any, NoLink()),
        RUN,
        "127.0.0.1",
        lambda: own,
        lambda: [*others, known],
        lambda peer: peer == "member",
    )
    made.attach(cast(Any, NeverDirect()))
    return made


def refusal(asked: Puncher, sender: str, address: str) -> Code:
    with pytest.raises(SwarmError) as caught:
        asyncio.run(asked.answer(sender, Punch(address=address)))
    return caught.value.code


def test_only_the_address_that_a_record_vouches_for_is_called() -> None:
    assert refusal(puncher(), "other", "11.7.0.103:4000") is Code.PEER_REFUSED
    assert refusal(puncher(), "other", "192.168.1.1:4000") is Code.PEER_REFUSED
    assert refusal(puncher(), "other", "no address") is Code.MESSAGE_MALFORMED
    assert refusal(puncher(), "stranger", f"{HOME}:4000") is Code.PEER_REFUSED


def test_a_symmetric_router_has_no_port_to_call_from() -> None:
    symmetric = Reachability(Nat.SYMMETRIC.value, observed=("11.7.0.101:4700",), behind_nat=True)
    assert refusal(puncher(symmetric), "other", f"{HOME}:4000") is Code.PEER_REFUSED


def answered(asked: Puncher, sender: str, address: str = "") -> Any:
    return asked.answer(sender, Punch(address=address))


def test_one_hole_at_a_time_for_each_peer() -> None:
    async def story() -> None:
        asked = puncher()
        asked._call_back = hang  # type: ignore[method-assign]
        reply = await answered(asked, "other", f"{HOME}:4000")
        # The router keeps port numbers, as the observed one shows.
        assert reply.address.startswith("11.7.0.101:")
        for address in (f"{HOME}:4000", ""):
            with pytest.raises(SwarmError) as caught:
                await answered(asked, "other", address)
            assert caught.value.code is Code.OVER_LIMIT
        asked.detach()

    asyncio.run(story())


def test_strangers_who_let_this_peer_wait_leave_places_to_the_members() -> None:
    async def story() -> None:
        asked = puncher()
        crowd = [f"stranger {number}" for number in range(MAX_AT_ONCE)]
        taken = await asyncio.gather(*(answered(asked, s) for s in crowd), return_exceptions=True)
        refused = [error for error in taken if isinstance(error, SwarmError)]
        assert {error.code for error in refused} == {Code.OVER_LIMIT}
        assert 0 < len(refused) == MAX_AT_ONCE - PUNCHES.strangers.at_once
        await answered(asked, "member")
        asked.detach()

    asyncio.run(story())


def test_who_asks_again_and_again_is_not_waited_for_all_the_time() -> None:
    async def story() -> int:
        asked = puncher()
        waits = 0
        for _ in range(50):
            try:
                await answered(asked, "member")
            except SwarmError as error:
                assert error.code is Code.OVER_LIMIT
            else:
                waits += 1
                for task in list(asked._answering):  # its time is over
                    task.cancel()
                    await asyncio.wait([task])
            await asyncio.sleep(0)
        return waits

    assert asyncio.run(story()) == PUNCHES.peer.requests.burst


def test_a_request_that_comes_to_nothing_keeps_no_port() -> None:
    changing = Reachability(
        Nat.ENDPOINT_INDEPENDENT.value, observed=("11.7.0.101:999",), behind_nat=True
    )

    async def story() -> None:
        asked = puncher(changing)
        taken: list[Source] = []
        bind = asked._source
        asked._source = lambda: taken.append(bind()) or taken[-1]  # type: ignore[func-returns-value,method-assign]
        with pytest.raises(SwarmError):
            await answered(asked, "other", f"{HOME}:4000")
        (source,) = taken
        assert not source._kept
        assert not asked._answering

    asyncio.run(story())


async def hang(*arguments: object) -> None:
    await asyncio.Event().wait()


def test_a_router_that_changes_ports_has_to_be_asked_about() -> None:
    changing = Reachability(
        Nat.ENDPOINT_INDEPENDENT.value, observed=("11.7.0.101:999",), behind_nat=True
    )
    assert refusal(puncher(changing), "other", f"{HOME}:4000") is Code.PEER_UNREACHABLE

    asked = puncher(changing, nat="public", data_addresses=["11.7.0.11:4800"])
    asked.seen_from = lambda source, record, limit: "11.7.0.101:777"
    asked._call_back = hang  # type: ignore[method-assign]

    async def story() -> str:
        reply = await asked.answer("other", Punch(address=f"{HOME}:4000"))
        asked.detach()
        return str(reply.address)

    assert asyncio.run(story()) == "11.7.0.101:777"


def test_those_who_were_heard_of_last_are_asked_and_not_the_dead() -> None:
    changing = Reachability(
        Nat.ENDPOINT_INDEPENDENT.value, observed=("11.7.0.101:999",), behind_nat=True
    )

    def public(number: int) -> PeerRecord:
        address = f"11.7.0.{10 + number}:4800"
        return PeerRecord(
            peer_id=f"public {number}", nat="public", data_addresses=[address], issued_at_ms=number
        )

    def seen_from(source: Source, record: PeerRecord, limit: timedelta) -> str:
        if record.issued_at_ms < 4:
            raise SwarmError(Code.PEER_UNREACHABLE, "it died long ago")
        return "11.7.0.101:777"

    asked = puncher(changing, *map(public, (1, 2, 3, 4)))
    asked.seen_from = seen_from
    asked._call_back = hang  # type: ignore[method-assign]

    async def story() -> str:
        reply = await answered(asked, "other", f"{HOME}:4000")
        asked.detach()
        return str(reply.address)

    assert asyncio.run(story()) == "11.7.0.101:777"
