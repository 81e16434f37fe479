"""The workarounds around hivemind and p2pd, each by itself."""

from __future__ import annotations

import asyncio
import errno
import gc
import random
import socket
import subprocess
import sys
import time
import uuid
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from swarm.aio import in_time
from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.admission import Admission, open_to_all
from swarm.network.contacts import Contacts
from swarm.network.limits import DHT_REQUESTS, RequestLimits
from swarm.network.p2p.bootstrap import bootstrap
from swarm.network.p2p.channel import Channel
from swarm.network.p2p.daemon import Daemon
from swarm.network.p2p.dialling import (
    encode_multiaddr,
    ip_multiaddr,
    tcp_problem,
    usable_addresses,
)
from swarm.network.p2p.guarded_dht import Door, door_guard
from swarm.network.p2p.hivemind_parts import PeerID, p2pd_control, p2pd_pb2
from swarm.network.p2p.life import Life
from swarm.network.p2p.places import wait_for_port
from swarm.network.p2p.streams import Streams, read_message, write_message
from swarm.network.p2p.twin import CONTROL_PROTOCOL
from swarm.network.transport import Endpoint
from swarm.wire.control_pb2 import Ping, Pong

PEER, RELAY = Identity.generate().peer_id, Identity.generate().peer_id
SECOND = timedelta(seconds=1)
ROOT = Path(__file__).resolve().parents[2]


def run_python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_network_needs_no_torch_and_leaves_hivemind_importable():
    light = "import sys, swarm.network.p2p, swarm.network.data_plane; print('torch' in sys.modules)"
    assert run_python(light) == "False"
    both = (
        "import swarm.network.p2p.hivemind_parts as parts, hivemind; from hivemind.p2p import P2P;"
        "print(P2P is parts.P2P and hivemind.DHT.__name__)"
    )
    assert run_python(both) == "DHT"


def test_import_prints_nothing_and_changes_no_event_loop_policy():
    program = (
        "import asyncio; before = asyncio.get_event_loop_policy().__class__;"
        "import logging, swarm.network.p2p;"
        "assert asyncio.get_event_loop_policy().__class__ is before;"
        "assert not logging.getLogger('hivemind').handlers"
    )
    assert run_python(program) == ""


def test_address_is_encoded_without_the_peer_that_is_dialled():
    encoded = encode_multiaddr(f"/ip4/10.0.0.1/tcp/4700/p2p/{PEER}", PEER)
    assert str(encoded) == "/ip4/10.0.0.1/tcp/4700"


def test_relay_in_an_address_is_encoded_as_p2pd_wants_it():
    encoded = encode_multiaddr(f"/ip4/10.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}", PEER)
    multihash = b"\xa5\x03\x26\x00\x24"  # code of p2p, length 38, identity multihash of 36 bytes
    assert multihash in encoded.to_bytes()


def framed(call: uuid.UUID, **what: object) -> bytes:
    """What p2pd says about a call."""
    data = p2pd_pb2.PersistentConnectionResponse(callId=call.bytes, **what).SerializeToString()
    assert len(data) < 128  # so one byte says how many they are
    return bytes([len(data)]) + data


@asynccontextmanager
async def without_process(directory: Path) -> AsyncIterator[Daemon]:
    """A `Daemon` with hivemind's own control client, to which p2pd speaks by `feed_data`."""
    control = p2pd_control.ControlClient(None, _initialized_with_create=True)

    async def shutdown() -> None:
        control.close()

    handle = SimpleNamespace(
        peer_id=PeerID.from_base58(PEER),
        shutdown=shutdown,
        _client=SimpleNamespace(control=control),
        _child=SimpleNamespace(wait=asyncio.Event().wait),
    )
    daemon = Daemon(handle, directory)
    reader = asyncio.StreamReader()
    control._read_task = asyncio.create_task(control._read_from_persistent_conn(reader))
    daemon.spoken_to = reader.feed_data  # type: ignore[attr-defined]
    try:
        yield daemon
    finally:
        await daemon.stop()


def test_answer_to_a_call_that_was_given_up_does_not_break_the_reader(tmp_path):
    """As when it arrives in the same turn of the event loop in which a timeout cancels the call."""

    async def story() -> None:
        async with without_process(tmp_path / "sockets") as daemon:
            calls = daemon._control._pending_calls
            given_up, waiting = uuid.uuid4(), uuid.uuid4()
            calls[given_up] = asyncio.get_running_loop().create_future()
            calls[waiting] = asyncio.get_running_loop().create_future()
            calls[given_up].cancel()
            late, answer = (p2pd_pb2.CallUnaryResponse(response=text) for text in (b"late", b"ok"))
            daemon.spoken_to(framed(given_up, callUnaryResponse=late))
            daemon.spoken_to(framed(waiting, callUnaryResponse=answer))
            assert await in_time(calls[waiting], 5) == b"ok"

    asyncio.run(story())


@pytest.mark.parametrize("size", [0, 100, 127, 128, 20_000, 3_000_000])
def test_message_to_p2pd_is_written_in_one_piece_as_hivemind_reads_it(size):
    """hivemind's own writer makes a system call, and wakes p2pd, for each byte of the length."""

    class Pieces(list[bytes]):
        write = list.append

        async def drain(self) -> None:
            pass

    async def write_and_read() -> tuple[int, p2pd_pb2.CallUnaryRequest]:
        pieces, found = Pieces(), p2pd_pb2.CallUnaryRequest()
        await p2pd_control.write_pbmsg(pieces, message)
        reader = asyncio.StreamReader()
        reader.feed_data(b"".join(pieces))
        await p2pd_control.read_pbmsg_safe(reader, found)
        return len(pieces), found

    message = p2pd_pb2.CallUnaryRequest(peer=b"p", proto="q", data=bytes(size))
    assert asyncio.run(write_and_read()) == (1, message)


def test_nothing_of_a_served_call_is_kept_when_its_caller_gives_up(tmp_path):
    served: list[weakref.ref[Identity]] = []
    began = asyncio.Event()

    async def never(data: bytes, peer: object) -> bytes:
        large = Identity.generate()  # stands for the request: bytes can not be referred to weakly
        served.append(weakref.ref(large))
        began.set()
        await asyncio.Event().wait()
        return data

    async def story() -> None:
        async with without_process(tmp_path / "sockets") as daemon:
            daemon._control.unary_handlers["/never"] = never
            call = uuid.uuid4()
            peer = PeerID.from_base58(PEER).to_bytes()
            asked = p2pd_pb2.CallUnaryRequest(peer=peer, proto="/never", data=b"request")
            daemon.spoken_to(framed(call, requestHandling=asked))
            await in_time(began.wait(), 5)
            daemon.spoken_to(framed(call, cancel=p2pd_pb2.Cancel()))
            deadline_s = time.monotonic() + 5
            while daemon._control._handler_tasks and time.monotonic() < deadline_s:
                await asyncio.sleep(0.01)
            assert not daemon._control._handler_tasks

    asyncio.run(story())
    gc.collect()
    assert len(served) == 1 and served[0]() is None


def test_strangers_who_are_turned_away_at_the_dht_take_no_place_for_good():
    """Or a few hundred vain requests would shut out every newcomer until the next restart."""
    admitted: set[str] = set()
    admission = cast(Admission, SimpleNamespace(admits=admitted.__contains__))
    limits = RequestLimits(DHT_REQUESTS)

    async def silent(peer: str) -> None:
        raise SwarmError(Code.PEER_UNREACHABLE, "no answer")

    async def hang(peer: str) -> None:
        await asyncio.Event().wait()

    async def story() -> None:
        refused: Counter[str] = Counter()
        guard = door_guard(limits, admission, Door(admission, silent), refused)
        crowd = DHT_REQUESTS.strangers.at_once // DHT_REQUESTS.peer.at_once
        for peer in ["newcomer", *(f"stranger {n}" for n in range(crowd))]:
            for _ in range(DHT_REQUESTS.peer.at_once):
                with pytest.raises(SwarmError) as caught:
                    await guard(peer, 100)
                assert caught.value.code is Code.NOT_ADMITTED
        assert refused[Code.NOT_ADMITTED.value] == (crowd + 1) * DHT_REQUESTS.peer.at_once

        waiting = door_guard(limits, admission, Door(admission, hang), refused)
        asking = [asyncio.ensure_future(waiting("newcomer", 100)) for _ in range(64)]
        await asyncio.sleep(0)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

        admitted.add("newcomer")
        await guard("newcomer", 100)

    asyncio.run(story())


def test_port_is_waited_for_while_its_old_owner_goes():
    async def story(taken: socket.socket, port: int) -> None:
        asyncio.get_running_loop().call_later(0.1, taken.close)
        await wait_for_port("127.0.0.1", port, SECOND)

    with socket.socket() as taken:
        # as p2pd listens
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SwarmError) as caught:
            asyncio.run(wait_for_port("127.0.0.1", port, SECOND / 10))
        assert caught.value.code is Code.PORT_IN_USE
        asyncio.run(story(taken, port))


def test_reason_why_an_address_does_not_answer_is_plain():
    async def story() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            refused = await tcp_problem(f"/ip4/127.0.0.1/tcp/{port}/p2p/{PEER}", SECOND)
            assert refused == f"127.0.0.1 port {port}: Connection refused"
            listener.listen()
            assert await tcp_problem(f"/ip4/127.0.0.1/tcp/{port}/p2p/{PEER}", SECOND) is None

    asyncio.run(story())


def test_a_circuit_is_dialled_if_its_relay_answers_or_is_connected_anyway():
    """p2pd does not dial again for long what it dialled in vain, as while the network is away."""

    async def story() -> None:
        with socket.socket() as relay:
            relay.bind(("127.0.0.1", 0))
            address = f"/ip4/127.0.0.1/tcp/{relay.getsockname()[1]}"
            circuit = f"{address}/p2p/{RELAY}/p2p-circuit/p2p/{PEER}"
            usable, problems = await usable_addresses([circuit], SECOND)
            assert not usable and "Connection refused" in problems[0]
            assert await usable_addresses([circuit], SECOND, {RELAY}) == ([circuit], [])
            relay.listen()
            assert await usable_addresses([circuit], SECOND) == ([circuit], [])
            usable, _ = await usable_addresses([circuit, f"{address}/p2p/{PEER}"], SECOND)
            assert usable[0] == f"{address}/p2p/{PEER}"

    asyncio.run(story())


def test_a_call_goes_out_over_a_connection_by_the_announced_addresses():
    """p2pd alone tries whatever it has heard of somewhere, for 10 s and more."""
    address = f"/ip4/192.0.2.1/tcp/4700/p2p/{RELAY}"
    contacts = Contacts(PEER, random.Random(0))
    contacts.learn(RELAY, [address])
    done: list[object] = []

    class Recorder:
        async def connect(self, peer: str, addresses: list[str], limit: timedelta) -> None:
            done.append((peer, addresses))

        async def call(self, peer: str, protocol: str, data: bytes, limit: timedelta) -> bytes:
            done.append(protocol)
            raise SwarmError(Code.PEER_UNREACHABLE, peer)

    life = cast(Life, SimpleNamespace(running=lambda: (Recorder(), None)))
    endpoint = Endpoint(Identity.generate(), bytes(32), admission=open_to_all(bytes(32)))
    channel = Channel(endpoint, contacts, time.time, lambda: life, lambda peer: None)
    with pytest.raises(SwarmError):
        asyncio.run(channel.call(RELAY, Ping(), Pong, SECOND))
    assert done == [(RELAY, [address]), CONTROL_PROTOCOL]


def test_host_must_be_an_ip_address():
    assert ip_multiaddr("0.0.0.0") == "/ip4/0.0.0.0"
    assert ip_multiaddr("::1") == "/ip6/::1"
    with pytest.raises(SwarmError) as caught:
        ip_multiaddr("localhost")
    assert caught.value.code is Code.CONFIG_INVALID


def refusing(until_s: float):
    """A greeting that is refused until some time has passed."""
    began = time.monotonic()
    tries: dict[str, int] = {}

    async def greet(address: str) -> None:
        tries[address] = tries.get(address, 0) + 1
        if time.monotonic() - began < until_s or address.startswith("dead"):
            raise SwarmError(Code.PEER_UNREACHABLE, f"{address} is refused")

    return greet, tries


def test_bootstrap_tries_again_until_the_peer_is_up():
    greet, tries = refusing(0.4)
    assert asyncio.run(bootstrap(greet, ["a"], 5 * SECOND, required=True)) == 1
    assert tries["a"] >= 3


def test_bootstrap_does_not_wait_long_for_the_dead_once_one_answered():
    greet, _ = refusing(0)
    began = time.monotonic()
    assert asyncio.run(bootstrap(greet, ["dead", "a", "b"], 20 * SECOND, required=True)) == 2
    assert time.monotonic() - began < 2


def test_bootstrap_without_answer_names_every_address():
    greet, _ = refusing(0)
    with pytest.raises(SwarmError) as caught:
        asyncio.run(bootstrap(greet, ["dead1", "dead2"], SECOND / 4, required=True))
    assert caught.value.code is Code.BOOTSTRAP_UNREACHABLE
    assert "dead1 is refused" in caught.value.message
    assert "dead2 is refused" in caught.value.message


def test_known_peers_that_are_gone_are_no_error():
    greet, _ = refusing(0)
    assert asyncio.run(bootstrap(greet, ["dead"], SECOND / 4, required=False)) == 0


def test_peer_of_another_run_is_not_asked_again():
    tries = []

    async def greet(address: str) -> None:
        tries.append(address)
        raise SwarmError(Code.RUN_MISMATCH, "message of run 1, this is 2")

    with pytest.raises(SwarmError) as caught:
        asyncio.run(bootstrap(greet, ["a"], 5 * SECOND, required=True))
    assert caught.value.code is Code.RUN_MISMATCH
    assert tries == ["a"]


# ---- streams of p2pd ------------------------------------------------------------------------


def soon(seconds: float = 1.0) -> float:
    return time.monotonic() + seconds


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 20_000])
def test_message_of_p2pd_is_read_to_its_last_byte_and_no_further(size):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sent = p2pd_pb2.StreamInfo(peer=b"p" * size, addr=b"a", proto="/x/1")
        write_message(ours, sent)
        ours.sendall(b"bytes of the stream")
        assert read_message(theirs, p2pd_pb2.StreamInfo(), soon()) == sent
        assert theirs.recv(100) == b"bytes of the stream"


@pytest.mark.parametrize(
    "data", [b"\xff" * 20, b"\x80\x80\x08", b"\x03\xff\xff\xff", b"\x02\x12\x05"]
)
def test_message_of_p2pd_that_is_none_is_an_error(data):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        with pytest.raises(ValueError):
            read_message(theirs, p2pd_pb2.StreamInfo(), soon())


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x05ab"])
def test_message_of_p2pd_that_ends_or_never_comes_is_an_error_in_time(data):
    for closes in (True, False):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(data)
            if closes:
                ours.close()
            began = time.monotonic()
            with pytest.raises(OSError):
                read_message(theirs, p2pd_pb2.StreamInfo(), soon(0.1))
            assert time.monotonic() - began < 1.0


def test_streams_without_p2pd_are_typed_errors(tmp_path):
    streams = Streams(str(tmp_path / "control.sock"), tmp_path, "/x/1")
    with pytest.raises(SwarmError) as caught:
        streams.open(PEER, SECOND)
    assert caught.value.code is Code.PEER_UNREACHABLE
    with pytest.raises(SwarmError) as caught:
        streams.serve(lambda peer, sock: None)
    assert caught.value.code is Code.P2P_START_FAILED
    streams.stop()


def test_streams_are_accepted_again_after_the_process_was_out_of_files(tmp_path):
    errors = [errno.EMFILE, errno.ECONNABORTED, errno.EBADF]  # the last: it was closed

    class Listener:
        def accept(self):
            raise OSError(errors.pop(0), "no")

    streams = Streams(str(tmp_path / "control.sock"), tmp_path, "/x/1")
    streams._listener = Listener()
    streams._accept_all(lambda peer, sock: None)
    assert not errors


def test_those_who_look_each_second_ask_p2pd_once_and_see_what_was_closed_here(tmp_path):
    asked: list[str] = []

    async def list_peers() -> list[SimpleNamespace]:
        asked.append("who is connected")
        return [SimpleNamespace(peer_id=PeerID.from_base58(RELAY), addrs=["/ip4/192.0.2.1/tcp/1"])]

    async def disconnect(peer: PeerID) -> None:
        asked.clear()

    async def story() -> None:
        async with without_process(tmp_path / "sockets") as daemon:
            daemon.p2p.list_peers, daemon.p2p._client.disconnect = list_peers, disconnect
            for _ in range(3):
                assert await daemon.recent_connections() == {RELAY: ["/ip4/192.0.2.1/tcp/1"]}
            assert len(asked) == 1
            await daemon.connections()
            assert len(asked) == 2
            await daemon.disconnect(RELAY)
            await daemon.recent_connections()
            assert len(asked) == 1

    asyncio.run(story())
