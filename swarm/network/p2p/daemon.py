"""One p2pd process: start, connect, call, stop, without a trace left behind.

p2pd exits by itself when its owner dies (its control connection or its standard output closes;
measured: 10 to 60 ms after SIGKILL of the owner, also in the middle of its start), so no process
outlives a node. Its Unix sockets live in a private directory that each start sweeps.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ipaddress
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from swarm.aio import in_time
from swarm.errors import Code, SwarmError
from swarm.network.addresses import plain
from swarm.network.envelope import MAX_ENVELOPE_BYTES
from swarm.network.p2p.bridge import Bridges
from swarm.network.p2p.hivemind_parts import (
    P2P,
    Multiaddr,
    P2PDaemonError,
    P2PHandlerError,
    PeerID,
    p2pd_control,
)
from swarm.network.p2p.streams import Streams

# p2pd drops what is larger without a word to us, so it must let through what we refuse and count.
P2PD_MESSAGE_LIMIT = 2 * MAX_ENVELOPE_BYTES
# In a process group of its own, or Ctrl-C in the terminal would end p2pd before the node says
# goodbye through it.
LAUNCHER = "import os, sys; os.setpgid(0, 0); os.execv(sys.argv[1], sys.argv[1:])"
PORT_WAIT = timedelta(seconds=1)
STOP_WAIT = timedelta(seconds=3)
LOCAL_WAIT = timedelta(seconds=2)  # for what p2pd does without asking another host
SURE_S = 1.0  # after a call that succeeded its peer is taken to be connected
MAX_SURE = 4096
LOOK_AGAIN_S = 0.05
RELAY_AFTER = timedelta(seconds=0.5)
SOCKET_ROOT = Path("/tmp")  # Unix socket paths must be short: 104 bytes on macOS

Handler = Callable[[str, bytes], Awaitable[bytes]]
PROBLEMS = (P2PDaemonError, P2PHandlerError, OSError, EOFError, ValueError)


class Daemon:
    """A running p2pd. Peers are named by peer id, addresses are multiaddrs as strings.

    Attributes:
        p2p: hivemind's handle, for the DHT.
        exited: set once the process is gone, whoever ended it.
        listener: host and port at which it listens, as this machine reaches it.
        bridges: connections that were made for it.
    """

    def __init__(self, p2p: Any, sockets: Path, output: collections.deque[str]) -> None:
        self.p2p = p2p
        self.peer_id: str = p2p.peer_id.to_base58()
        self.exited = asyncio.Event()
        self.listener = "", 0
        self.bridges = Bridges()
        self._control = p2p._client.control
        self._sockets = sockets
        self._output = output
        # hivemind's reader dies of InvalidStateError when an answer arrives in the same turn of
        # the event loop in which its call is cancelled (by a timeout), and with it all later calls.
        self._control._pending_calls = _LiveCalls(self._control._pending_calls)
        # hivemind keeps the task of a call that its caller gave up, and with it the request, of up
        # to `P2PD_MESSAGE_LIMIT` bytes, for ever.
        self._control._handler_tasks = _RunningTasks()
        self._exit_watch = asyncio.create_task(self._watch_exit())
        self._surely_until_s: dict[str, float] = {}  # peers that were connected a moment ago
        self._changes: dict[str, asyncio.Event] = {}  # connections being replaced
        self._changed_s: dict[str, float] = {}  # when one was, of each peer the last time

    @classmethod
    async def start(
        cls, key_file: Path, host: str, port: int, *, listen: bool, timeout: timedelta
    ) -> Daemon:
        """Start p2pd with the identity in `key_file`, listening on TCP only.

        TCP only since averaging over QUIC loses data in p2pd (its stream close cuts the tail).
        Raises `PORT_IN_USE`, `P2P_START_FAILED` or `STAGE_TIMEOUT`.
        """
        sockets = make_socket_dir()
        output: collections.deque[str] = collections.deque(maxlen=20)
        handle: Any = type("NodeP2P", (ReachingP2P,), {})
        handle._UNIX_SOCKET_PREFIX = f"/unix{sockets}/"
        handle._log_p2pd_message = staticmethod(output.append)
        handle._make_process_args = staticmethod(_launched)
        try:
            p2p = await handle.create(
                identity_path=str(key_file),
                check_if_identity_free=False,  # knows RSA keys only; see network.py
                host_maddrs=[f"{ip_multiaddr(host)}/tcp/{port}"],
                no_listen=not listen,
                nat_port_map=False,
                # As long as p2pd believes not to be public it does not start its relay a second
                # time, over our own (relay_service.py). We measure reachability, and faster.
                force_reachability="private",
                idle_timeout=10,
                startup_timeout=timeout.total_seconds(),
                persistent_conn_max_msg_size=P2PD_MESSAGE_LIMIT,
            )
        except (*PROBLEMS, asyncio.TimeoutError) as error:
            remove_socket_dir(sockets)
            raise _start_error(error, output, host, port) from error
        except BaseException:
            remove_socket_dir(sockets)
            raise
        daemon = cls(p2p, sockets, output)
        if listen:
            first = (await daemon.addresses())[0]
            daemon.listener = _reached_at(host), int(first.split("/tcp/")[1].split("/")[0])
        return daemon

    async def addresses(self) -> list[str]:
        """Multiaddrs under which this peer listens, with its peer id."""
        maddrs = await self.p2p.get_visible_maddrs(latest=True)
        return [str(maddr) for maddr in maddrs]

    async def connect(self, peer: str, addresses: Sequence[str], timeout: timedelta) -> None:
        """Make sure of a connection. Raises `PEER_UNREACHABLE`.

        Each address is tried by a plain TCP connection first: libp2p does not dial an address
        again for 5 s and more after it refused once ("dial backoff"), and peers that start
        together do refuse at first.
        """
        deadline_s = time.monotonic() + timeout.total_seconds()
        await self._settled(peer, deadline_s)
        if time.monotonic() < self._surely_until_s.get(peer, 0.0):
            return
        if peer in await self.connections():
            self._note_connected(peer)
            return
        usable, problems = await usable_addresses(addresses, timeout)
        if addresses and not usable:
            raise unreachable(peer, "; ".join(dict.fromkeys(problems)))
        try:
            await in_time(
                self.p2p._client.connect(
                    PeerID.from_base58(peer), [encode_multiaddr(a, peer) for a in usable]
                ),
                max(0.1, deadline_s - time.monotonic()),
            )
        except (*PROBLEMS, asyncio.TimeoutError) as error:
            raise unreachable(peer, _reason(error)) from error
        self._note_connected(peer)

    async def replace(self, peer: str, addresses: Sequence[str], timeout: timedelta) -> None:
        """A connection by these addresses in place of those there are; to be done in `changing`.

        Raises `PEER_UNREACHABLE`; then there is none.
        """
        await self.disconnect(peer)
        try:
            await in_time(
                self.p2p._client.connect(
                    PeerID.from_base58(peer), [encode_multiaddr(a, peer) for a in addresses]
                ),
                timeout.total_seconds(),
            )
        except (*PROBLEMS, asyncio.TimeoutError) as error:
            raise unreachable(peer, _reason(error)) from error
        self._note_connected(peer)

    @contextlib.asynccontextmanager
    async def changing(self, peer: str) -> AsyncIterator[None]:
        """While the connection to `peer` is replaced: calls wait, those it breaks are repeated."""
        self._surely_until_s.pop(peer, None)
        change = self._changes[peer] = asyncio.Event()
        try:
            yield
        finally:
            change.set()
            self._changed_s[peer] = time.monotonic()
            if self._changes.get(peer) is change:
                del self._changes[peer]

    async def wait_for_direct(self, peer: str, timeout: timedelta) -> None:
        """Wait until `peer` is connected without a relay, as long as that takes at most."""
        deadline_s = time.monotonic() + timeout.total_seconds()
        while time.monotonic() < deadline_s:
            if plain((await self.connections()).get(peer, ())):
                return
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _settled(self, peer: str, deadline_s: float) -> None:
        change = self._changes.get(peer)
        if change is not None:
            with suppress(asyncio.TimeoutError):
                await in_time(change.wait(), max(0.0, deadline_s - time.monotonic()))

    async def disconnect(self, peer: str) -> None:
        """Close all connections to `peer`, if there are any; never raises."""
        self._surely_until_s.pop(peer, None)
        with suppress(*PROBLEMS, asyncio.TimeoutError):
            await in_time(
                self.p2p._client.disconnect(PeerID.from_base58(peer)), LOCAL_WAIT.total_seconds()
            )

    def _note_connected(self, peer: str) -> None:
        """Spare p2pd the question for a moment: a round has dozens of calls among a few peers."""
        if len(self._surely_until_s) >= MAX_SURE:
            self._surely_until_s.clear()
        self._surely_until_s[peer] = time.monotonic() + SURE_S

    async def connections(self) -> dict[str, list[str]]:
        """Remote multiaddrs of the live connections of each connected peer."""
        found: dict[str, list[str]] = {}
        with suppress(*PROBLEMS):
            for info in await self.p2p.list_peers():
                addresses = found.setdefault(info.peer_id.to_base58(), [])
                addresses += [self.bridges.far_address(str(address)) for address in info.addrs]
        return found

    async def serve(self, protocol: str, handler: Handler) -> None:
        """Answer requests with `await handler(authenticated peer id, data)`."""

        async def answer(data: bytes, remote: PeerID) -> bytes:
            return await handler(remote.to_base58(), data)

        await self.p2p._client.add_unary_handler(protocol, answer)

    async def call(self, peer: str, protocol: str, data: bytes, timeout: timedelta) -> bytes:
        """Send `data` and return the answer. Raises `PEER_UNREACHABLE`."""
        if self.exited.is_set():
            raise unreachable(peer, "this node's p2pd has ended")
        deadline_s = time.monotonic() + timeout.total_seconds()
        answer = None
        try:
            while answer is None:  # again, if its connection is replaced meanwhile
                await self._settled(peer, deadline_s)
                answer = await self._call(peer, protocol, data, deadline_s)
        except asyncio.TimeoutError as error:
            self._surely_until_s.pop(peer, None)
            raise unreachable(peer, f"no answer in {timeout.total_seconds():.1f} s") from error
        except PROBLEMS as error:
            self._surely_until_s.pop(peer, None)
            raise unreachable(peer, _reason(error)) from error
        self._note_connected(peer)
        return answer

    async def _call(self, peer: str, protocol: str, data: bytes, deadline_s: float) -> bytes | None:
        """The answer, or None if a change of the connection broke the call."""
        began_s = time.monotonic()
        if began_s >= deadline_s:
            raise asyncio.TimeoutError
        asking = self.p2p._client.call_unary_handler(PeerID.from_base58(peer), protocol, data)
        try:
            return bytes(await in_time(asking, deadline_s - began_s))
        except PROBLEMS:
            if peer in self._changes or self._changed_s.get(peer, 0.0) > began_s:
                return None
            raise

    def streams(self, protocol: str) -> Streams:
        """The raw streams of a protocol; its methods block."""
        control_path = self._control.daemon_connector.control_maddr.value_for_protocol("unix")
        return Streams(f"/{control_path.lstrip('/')}", self._sockets, protocol)

    async def stop(self) -> None:
        """End the process and remove its sockets; never raises, never hangs."""
        self._exit_watch.cancel()
        self.exited.set()
        self._fail_pending()
        self.bridges.close()
        try:
            await in_time(self.p2p.shutdown(), STOP_WAIT.total_seconds())
        except asyncio.TimeoutError:
            with suppress(ProcessLookupError):
                self.p2p._child.kill()
            await self.p2p._child.wait()
        remove_socket_dir(self._sockets)

    async def _watch_exit(self) -> None:
        await self.p2p._child.wait()
        self.exited.set()
        self._fail_pending()

    def _fail_pending(self) -> None:
        # hivemind leaves calls in flight waiting for ever when p2pd is gone.
        for future in self._control._pending_calls.values():
            if not future.done():
                future.set_exception(P2PDaemonError("p2pd has ended"))


async def write_in_one(stream: asyncio.StreamWriter, message: Any) -> None:
    """In place of hivemind's `write_pbmsg`, which makes a system call for each byte of the length.

    p2pd wakes up for each of them; that was a third of the time of an event loop in short rounds.
    """
    data = message.SerializeToString()
    size, prefix = len(data), bytearray()
    while size >= 0x80:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    stream.write(bytes((*prefix, size)) + data)
    await stream.drain()


p2pd_control.write_pbmsg = write_in_one


class ReachingP2P(P2P):  # type: ignore[misc]
    """Connects to whom the DHT calls by the addresses that we know.

    p2pd alone tries what its own tables have, the private addresses of strangers for one, and gives
    up after 10 s. A search in the DHT asks many peers, of whom some are gone or behind a NAT.

    Attributes:
        reach: makes sure of a connection, or raises a `SwarmError`.
    """

    reach: Callable[[str], Awaitable[None]] | None = None

    async def _call_unary_protobuf_handler(self, peer_id: PeerID, *arguments: Any) -> Any:
        if self.reach is not None:
            try:
                await self.reach(peer_id.to_base58())
            except SwarmError as error:
                raise P2PDaemonError(error.message) from error
        return await super()._call_unary_protobuf_handler(peer_id, *arguments)


class _LiveCalls(dict[Any, Any]):
    """hivemind's calls in flight; one whose waiter is gone counts as unknown."""

    def __contains__(self, call_id: object) -> bool:
        future = self.get(call_id)
        return future is not None and not future.done()


class _RunningTasks(dict[Any, "asyncio.Task[None]"]):
    """hivemind's tasks that answer calls; one that has ended, however, is dropped."""

    def __setitem__(self, call_id: Any, task: asyncio.Task[None]) -> None:
        super().__setitem__(call_id, task)
        task.add_done_callback(lambda _: self.pop(call_id, None))


def _launched(*args: Any, **options: Any) -> list[str]:
    command = P2P._make_process_args(*args, **options)
    # p2pd's relay cuts every connection after 128 KiB or 2 minutes when two parts of its start race
    # the wrong way (15 of 26 starts, hivemind 1.1.12), and has no budget of bandwidth. This leaves
    # the first of the two out, relaying.py replaces the second.
    return [sys.executable, "-I", "-S", "-c", LAUNCHER, *command, "-relayService=0"]


def unreachable(peer: str, reason: str) -> SwarmError:
    """A `PEER_UNREACHABLE` error about `peer`."""
    return SwarmError(Code.PEER_UNREACHABLE, f"{peer}: {reason}")


def ip_multiaddr(host: str) -> str:
    """ "/ip4/HOST" or "/ip6/HOST". Raises `CONFIG_INVALID` unless `host` is an IP address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise SwarmError(
            Code.CONFIG_INVALID,
            f"host: {host!r} is not an IP address",
            "use 0.0.0.0 to listen on every interface",
        ) from error
    return f"/ip{address.version}/{address}"


def _reached_at(host: str) -> str:
    """Where this machine itself reaches who listens on `host`."""
    address = ipaddress.ip_address(host)
    loopback = "::1" if address.version == 6 else "127.0.0.1"
    return loopback if address.is_unspecified else host


def encode_multiaddr(address: str, peer: str) -> Multiaddr:
    """`address` in the form that p2pd's connect takes, without its final /p2p/PEER.

    hivemind writes a peer id inside an address (of a relay) as a CIDv1, which p2pd refuses with
    "length greater than remaining number of bytes in buffer"; it wants the bare multihash.
    """
    maddr = Multiaddr(address.removesuffix(f"/p2p/{peer}"))
    ed25519_cid, ed25519_hash = b"\xa5\x03\x28\x01\x72\x00\x24", b"\xa5\x03\x26\x00\x24"
    return Multiaddr(maddr.to_bytes().replace(ed25519_cid, ed25519_hash))


async def usable_addresses(
    addresses: Sequence[str], timeout: timedelta
) -> tuple[list[str], list[str]]:
    """Those that answer, those of relays included unasked, and what is wrong with the others.

    Returns as soon as the first one has answered, with those still in doubt after it. Relays wait
    `RELAY_AFTER` for the others: work must not wait, but why bother a relay without need.
    """
    circuits = [a for a in addresses if "/p2p-circuit" in a]
    tasks = {
        asyncio.create_task(tcp_problem(a, timeout)): a for a in addresses if a not in circuits
    }
    limit = RELAY_AFTER if circuits else timeout
    usable: list[str] = []
    problems: list[str] = []
    deadline_s = time.monotonic() + limit.total_seconds()
    pending = set(tasks)
    try:
        while pending and not usable and (left_s := deadline_s - time.monotonic()) > 0:
            done, pending = await asyncio.wait(
                pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                problem = task.result()
                problems += [problem] if problem else []
                usable += [] if problem else [tasks[task]]
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    doubtful = [tasks[task] for task in pending] if usable else []
    return usable + doubtful + circuits, problems


async def tcp_problem(address: str, timeout: timedelta) -> str | None:
    """Why a multiaddr can not be reached by TCP, or None if it can (or is not plain TCP)."""
    parts = address.split("/")
    if "p2p-circuit" in parts or parts[1] not in ("ip4", "ip6", "dns4", "dns6", "dns"):
        return None
    host, port = parts[2], parts[4]
    try:
        _, writer = await in_time(asyncio.open_connection(host, int(port)), timeout.total_seconds())
    except asyncio.TimeoutError:
        return f"{host} port {port}: no answer in {timeout.total_seconds():.0f} s"
    except OSError as error:
        return f"{host} port {port}: {os.strerror(error.errno) if error.errno else error}"
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return None


async def wait_for_port(host: str, port: int, timeout: timedelta = PORT_WAIT) -> None:
    """Wait until `port` can be bound: a p2pd whose node was killed takes some milliseconds to go.

    p2pd itself listens with SO_REUSEPORT, so two nodes on one port would both start and share
    the connections at random. Raises `PORT_IN_USE`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise port_in_use(host, port, error.strerror or str(error)) from error
            else:
                return
        await asyncio.sleep(0.02)


def port_in_use(host: str, port: int, reason: str) -> SwarmError:
    """A `PORT_IN_USE` error."""
    return SwarmError(
        Code.PORT_IN_USE,
        f"can not listen on {host} port {port}: {reason}",
        f"see who has it with: ss -ltnp 'sport = :{port}', or choose another port",
    )


def make_socket_dir() -> Path:
    """A new private directory for the sockets of one p2pd; those of dead owners are removed."""
    prefix = f"expertswarm-{os.getuid()}-"
    for path in SOCKET_ROOT.glob(f"{prefix}*"):
        if _is_stale(path, path.name[len(prefix) :].partition("-")[0]):
            remove_socket_dir(path)
    while True:
        path = SOCKET_ROOT / f"{prefix}{os.getpid()}-{secrets.token_hex(3)}"
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            return path


def remove_socket_dir(path: Path) -> None:
    """Remove the directory and its sockets, as far as they are ours."""
    with suppress(OSError):
        for entry in path.iterdir():
            entry.unlink(missing_ok=True)
        path.rmdir()


def _is_stale(path: Path, owner_pid: str) -> bool:
    """Whether the owner is gone. Process ids mean nothing between containers that share /tmp, so
    nobody must be listening any more either."""
    if path.is_symlink() or _process_exists(owner_pid):
        return False
    for entry in path.glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(entry))
            return False
    return True


def _process_exists(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def _start_error(error: BaseException, output: Sequence[str], host: str, port: int) -> SwarmError:
    text = " | ".join([*list(output)[-3:], str(error)])
    if "address already in use" in text:
        return port_in_use(host, port, "address already in use")
    if "failed to start in" in text or isinstance(error, asyncio.TimeoutError):
        hint = "the machine may be very busy; try again"
        return SwarmError(Code.STAGE_TIMEOUT, f"p2pd: {text}", hint)
    return SwarmError(
        Code.P2P_START_FAILED, f"p2pd: {text}", "reinstall hivemind if its p2pd does not run here"
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no connection in time"
    return str(error).replace("Connect failed. msg=", "") or type(error).__name__
