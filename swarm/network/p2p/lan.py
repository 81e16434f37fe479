"""Finds peers of the run in the same LAN by multicast DNS, and lets them find this one.

    lan = LanDiscovery(peer_id, run_id, on_found)
    await lan.update(addresses, port)        # announce at these; again when they have changed
    await lan.first(limit)                   # True as soon as somebody was found
    await lan.stop()

Anybody in the LAN reads the announcement, so it says no more than a hash of the run's id, the peer
id, and where p2pd listens: on each interface the address of that interface alone. And anybody can
send one, so what is heard is a hint where to dial: libp2p checks who answers there, and admission
is the same as for any other peer. A network without multicast is no error.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from zeroconf import Error, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from swarm.aio import in_time
from swarm.network.addresses import host_of, to_multiaddr
from swarm.network.contacts import is_address

logger = logging.getLogger(__name__)

SERVICE = "_expertswarm._tcp.local."
RUN_KEY, PEER_KEY = b"run", b"peer"
ASK_LIMIT = timedelta(seconds=3)
STOP_LIMIT = timedelta(seconds=1)
MAX_INTERFACES = 4
MAX_ASKED = 16  # announcements that are being read
MAX_FOUND = 64  # announcements of others; a LAN has no more peers that matter
OnFound = Callable[[str, str], object]  # (peer id, multiaddr)


def run_hash(run_id: bytes) -> str:
    """Tells the peers of one run, and nobody else, that an announcement is of their run."""
    return hashlib.sha256(b"expertswarm mdns" + run_id).hexdigest()[:32]


def lan_hosts(multiaddrs: Iterable[str]) -> list[str]:
    """The addresses of a LAN among those of this peer's own interfaces: private IPv4 ones."""
    return [host for host in sorted(set(map(host_of, multiaddrs))) if _is_of_a_lan(host)]


class LanDiscovery:
    """See the module docstring; to be used in one event loop."""

    def __init__(self, peer_id: str, run_id: bytes, on_found: OnFound) -> None:
        self._peer_id = peer_id
        self._run = run_hash(run_id)
        self._on_found = on_found
        self._announced: dict[str, AsyncZeroconf] = {}  # by the address of the interface
        self._port = 0
        self._asking: set[asyncio.Task[None]] = set()
        self._found: dict[str, list[tuple[str, str]]] = {}  # by the name of the announcement
        self._updating = asyncio.Lock()
        self._anybody = asyncio.Event()

    async def update(self, multiaddrs: Iterable[str], port: int) -> None:
        """Announce p2pd at `port` on the interfaces of these addresses, and on no others."""
        hosts = lan_hosts(multiaddrs)[:MAX_INTERFACES]
        async with self._updating:
            if port != self._port:
                await self.stop()
            self._port = port
            for host in [host for host in self._announced if host not in hosts]:
                await _close(self._announced.pop(host))
            for host in [host for host in hosts if host not in self._announced]:
                try:
                    self._announced[host] = await self._announce(host)
                except (OSError, Error) as error:
                    logger.info("no discovery in the LAN of %s: %s", host, error)

    async def first(self, limit: timedelta) -> bool:
        """Wait until a peer was found; whether one was. At once False without a LAN."""
        if self._announced:
            with suppress(asyncio.TimeoutError):
                await in_time(self._anybody.wait(), limit.total_seconds())
        return self._anybody.is_set()

    async def stop(self) -> None:
        """Say goodbye and listen no more; never raises."""
        for task in self._asking:
            task.cancel()
        announced, self._announced = self._announced, {}
        await asyncio.gather(*(_close(each) for each in announced.values()))

    async def _announce(self, host: str) -> AsyncZeroconf:
        """Announce and listen on one interface. Raises `OSError` or zeroconf's errors."""
        responder = AsyncZeroconf(interfaces=[host], ip_version=IPVersion.V4Only)
        # Names of DNS know no upper and lower case, peer ids do.
        name = hashlib.sha256(self._peer_id.encode()).hexdigest()[:32]
        info = AsyncServiceInfo(
            SERVICE,
            f"{name}.{SERVICE}",
            parsed_addresses=[host],
            port=self._port,
            properties={RUN_KEY: self._run, PEER_KEY: self._peer_id},
            server=f"{name}.local.",
        )
        try:
            # Without the second in which others might object to the name: it is nobody else's.
            await responder.async_register_service(info, cooperating_responders=True)
            AsyncServiceBrowser(responder.zeroconf, SERVICE, handlers=[self._heard])
        except BaseException:
            await _close(responder)
            raise
        return responder

    def _heard(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            self._found.pop(name, None)
        elif len(self._asking) < MAX_ASKED and len(self._found) < MAX_FOUND:
            task = asyncio.get_running_loop().create_task(self._read(zeroconf, name))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _read(self, zeroconf: Zeroconf, name: str) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        try:
            if not await info.async_request(zeroconf, ASK_LIMIT.total_seconds() * 1000):
                return
        except Exception as error:  # hostile packets; the library names no errors
            logger.info("an announcement in the LAN could not be read: %s", error)
            return
        before = self._found.get(name, [])
        found = [(p, address) for p, address in announced(info, self._run) if p != self._peer_id]
        if not found:
            return
        self._found[name] = found
        self._anybody.set()
        for peer, address in found:
            if (peer, address) not in before:
                logger.info("found in the LAN: %s", address)
                self._on_found(peer, address)


def announced(info: Any, run: str) -> list[tuple[str, str]]:
    """Peer id and multiaddrs of an announcement; none if it is of another run, or makes no sense.

    Only addresses of a LAN: nobody can make this peer dial elsewhere.
    """
    told = info.properties
    if told.get(RUN_KEY) != run.encode() or not 0 < (info.port or 0) < 2**16:
        return []
    peer = (told.get(PEER_KEY) or b"").decode(errors="replace")
    hosts = [host for host in info.parsed_addresses(IPVersion.V4Only) if _is_of_a_lan(host)]
    found = [f"{to_multiaddr(host, info.port)}/p2p/{peer}" for host in hosts[:MAX_INTERFACES]]
    return [(peer, address) for address in found if is_address(address)]


def _is_of_a_lan(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    odd = address.is_loopback or address.is_unspecified or address.is_multicast
    return address.version == 4 and address.is_private and not odd


async def _close(responder: AsyncZeroconf) -> None:
    with suppress(OSError, Error, asyncio.TimeoutError):
        await in_time(responder.async_close(), STOP_LIMIT.total_seconds())
