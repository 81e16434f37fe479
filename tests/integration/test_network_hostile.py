"""Strangers at the door of real nodes: in a closed run, and with more requests than is decent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from p2p_swarm import WAIT, error_of, eventually

from swarm.config import MembershipConfig, RunManifest
from swarm.errors import Code, SwarmError
from swarm.identity import Identity, public_key_of
from swarm.network.admission import Admission, rules_of
from swarm.network.data_plane import DataPlane
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.network.p2p.guarded_dht import MAX_KEYS
from swarm.network.p2p.hivemind_parts import DHTID, PeerID, dht_pb2
from swarm.network.tickets import make_ticket, permission_for, read_ticket
from swarm.wire.control_pb2 import Ping, Pong
from swarm.wire.membership_pb2 import PeerRecord

RUN_KEY = Identity.generate()
CLOSED = RunManifest(
    run_public_key=public_key_of(RUN_KEY.peer_id).public_bytes_raw().hex(),
    membership=MembershipConfig(admission="ticket"),
)
OPEN = RunManifest()


def admission_of(key: Path, *, ticket: bool = True) -> Admission:
    admission = Admission(CLOSED.run_id, rules_of(CLOSED), time.time)
    if ticket:
        text = make_ticket(CLOSED, RUN_KEY, [], expires_at_ms=round(1000 * (time.time() + 3600)))
        peer = Identity.load_or_create(key).peer_id
        admission.own = permission_for(read_ticket(text), peer, round(1000 * time.time()))
    return admission


@contextlib.asynccontextmanager
async def member(
    key: Path, by: list[PeerNetwork], admission: Admission | None = None
) -> AsyncIterator[PeerNetwork]:
    peers = tuple(address for network in by for address in network.addresses)
    run = CLOSED if admission is not None else OPEN
    network = await PeerNetwork.start(
        key, run.run_id, NetworkConfig(initial_peers=peers), admission=admission
    )
    try:
        yield network
    finally:
        await network.shutdown()


def without_checks(key: Path) -> Admission:
    """A stranger's own: it lets everybody in, and has nothing to show."""
    Identity.load_or_create(key)
    return Admission(CLOSED.run_id, None, time.time)


def test_peers_with_tickets_of_their_own_find_one_another_in_a_closed_run(tmp_path: Path) -> None:
    keys = [tmp_path / f"key{number}" for number in range(3)]

    async def story() -> None:
        async with (
            member(keys[0], [], admission_of(keys[0])) as alice,
            member(keys[1], [alice], admission_of(keys[1])) as bob,
            member(keys[2], [alice], admission_of(keys[2])) as carol,
        ):
            networks = (alice, bob, carol)
            for network in networks:
                await network.publish(PeerRecord(display_name="n", lease_ttl_ms=30_000))

            async def all_see_all() -> bool:
                found = [len(await network.records()) for network in networks]
                return found == [3, 3, 3]

            await eventually(all_see_all)
            # Bob and Carol have met in the DHT only, by Alice.
            assert await bob.call(carol.peer_id, Ping(sequence=1), Pong, WAIT)

    asyncio.run(story())


def test_a_stranger_gets_no_answer_in_a_closed_run_not_from_the_dht_either(tmp_path: Path) -> None:
    key, strange = tmp_path / "key", tmp_path / "strange"

    async def story() -> None:
        async with member(key, [], admission_of(key)) as alice:
            await alice.publish(PeerRecord(display_name="alice", lease_ttl_ms=30_000))
            error = await error_of(
                PeerNetwork.start(
                    strange,
                    CLOSED.run_id,
                    NetworkConfig(initial_peers=tuple(alice.addresses)),
                    admission=without_checks(strange),
                )
            )
            assert error.code is Code.NOT_ADMITTED and "ticket" in error.hint
            async with member(strange, [], without_checks(strange)) as mallory:
                daemon, directory = mallory.life.running()
                await daemon.connect(alice.peer_id, alice.addresses, WAIT)
                error = await error_of(mallory.call(alice.peer_id, Ping(), Pong, WAIT))
                assert error.code is Code.NOT_ADMITTED
                assert await ask_dht(directory, alice.peer_id, 1) is None
                with pytest.raises(SwarmError):
                    await directory.meet(alice.peer_id)
                assert mallory.peer_id not in alice.peers_known
                assert alice.refused[Code.NOT_ADMITTED.value] >= 2

    asyncio.run(story())


def test_a_member_does_not_talk_to_a_stranger_either(tmp_path: Path) -> None:
    key, strange = tmp_path / "key", tmp_path / "strange"

    async def story() -> None:
        async with member(strange, [], without_checks(strange)) as mallory:
            error = await error_of(
                PeerNetwork.start(
                    key,
                    CLOSED.run_id,
                    NetworkConfig(
                        initial_peers=tuple(mallory.addresses),
                        bootstrap_timeout=timedelta(seconds=3),
                    ),
                    admission=admission_of(key),
                )
            )
            assert error.code is Code.NOT_ADMITTED

    asyncio.run(story())


def test_a_lane_is_opened_for_those_with_a_permission_only(tmp_path: Path) -> None:
    key, strange = tmp_path / "key", tmp_path / "strange"
    alice = Identity.load_or_create(tmp_path / "alice")
    door = admission_of(tmp_path / "alice")
    server = DataPlane(alice, CLOSED.run_id, admission=door)
    address = server.start("127.0.0.1", 0)
    record = PeerRecord(
        peer_id=alice.peer_id, data_addresses=[address], tls_certificate=server.certificate_pem
    )
    guest = DataPlane(Identity.load_or_create(key), CLOSED.run_id, admission=admission_of(key))
    stranger = DataPlane(
        Identity.load_or_create(strange), CLOSED.run_id, admission=without_checks(strange)
    )
    try:
        guest.open_lane(record, WAIT)
        with pytest.raises(SwarmError) as caught:
            stranger.open_lane(record, WAIT)
        assert caught.value.code in (Code.PEER_REFUSED, Code.PEER_UNREACHABLE)
        assert Code.NOT_ADMITTED.value in caught.value.message
    finally:
        for plane in (guest, stranger, server):
            plane.stop()


async def ask_dht(directory, peer: str, keys: int) -> object | None:
    """The raw answer of a peer's DHT to a request for so many keys; None if there is none."""
    protocol = directory._node.protocol
    key = DHTID.generate(source=directory._key("peers")).to_bytes()
    request = dht_pb2.FindRequest(keys=[key] * keys, peer=protocol.node_info)
    try:
        return await protocol.get_stub(PeerID.from_base58(peer)).rpc_find(request, timeout=5)
    except Exception:  # hivemind passes on what the other side raised, whatever it was
        return None


def test_a_small_request_can_not_make_the_dht_build_a_huge_answer(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            member(tmp_path / "a", []) as alice,
            member(tmp_path / "m", [alice]) as mallory,
        ):
            await alice.publish(PeerRecord(display_name="alice", lease_ttl_ms=30_000))
            directory = mallory.life.running()[1]
            assert await ask_dht(directory, alice.peer_id, MAX_KEYS) is not None
            for keys in (MAX_KEYS + 1, 100_000):
                assert await ask_dht(directory, alice.peer_id, keys) is None
            assert await ask_dht(directory, alice.peer_id, 1) is not None

    asyncio.run(story())


def test_a_flood_of_messages_is_turned_away_and_others_are_served(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            member(tmp_path / "a", []) as alice,
            member(tmp_path / "b", [alice]) as bob,
            member(tmp_path / "m", [alice]) as mallory,
        ):

            async def flood() -> None:
                with contextlib.suppress(SwarmError):
                    await mallory.call(alice.peer_id, Ping(), Pong, WAIT)

            for _ in range(40):
                await asyncio.gather(*(flood() for _ in range(30)))
            assert alice.refused[Code.OVER_LIMIT.value] > 100
            began_s = time.monotonic()
            assert await bob.call(alice.peer_id, Ping(sequence=1), Pong, WAIT)
            assert time.monotonic() - began_s < 1

    asyncio.run(story())
