"""Sharing experts in the network of their base: the base's id takes the place of a run's id.

await publish(directories, base_id, config, key_file, report)     # until cancelled
async with visiting(base_id, peers, report) as visit:
    found = await visit.offers()
    weights = await visit.download(found.pick("law"))
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from node.experts.folder import load_notice
from node.experts.offers import OFFERS_NAME, FoundOffers, Listed, merge_offers, pack_offers
from swarm import __version__
from swarm.errors import Code, SwarmError
from swarm.experts.artifact import WEIGHTS_FILE, load_card
from swarm.experts.cards import SignedCard
from swarm.experts.withdrawals import Notice
from swarm.network.addresses import data_addresses
from swarm.network.data_plane import DataPlane
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.wire.membership_pb2 import PeerRecord

LEASE = timedelta(seconds=60)
LOOK_EVERY_S = 1.0
FIND_LIMIT_S = 20.0
FIND_EVERY_S = 0.5
DOWNLOAD_LIMIT = timedelta(seconds=300)
STATE = "EXPERTS"

Report = Callable[[str], None]
Shelf = dict[Path, tuple[SignedCard, Notice | None]]


def read_shelf(directories: Sequence[Path], base_id: str) -> Shelf:
    """Cards and notices of the directories. Raises as `load_card`, or `BASE_MISMATCH`."""
    shelf: Shelf = {}
    for directory in directories:
        signed = load_card(directory)
        if signed.card.base != base_id:
            raise SwarmError(
                Code.BASE_MISMATCH,
                f"{directory} belongs to the base {signed.card.base[:16]}, not {base_id[:16]}",
                "publish it in the network of its own base",
            )
        shelf[directory] = signed, load_notice(directory, signed)
    return shelf


async def publish(
    directories: Sequence[Path],
    base_id: str,
    config: NetworkConfig,
    key_file: Path,
    report: Report,
) -> None:
    """Offer the experts and serve their tensors until cancelled.

    The directories are looked at every second: a withdrawal takes effect while this runs. The
    tensors of a withdrawn expert are served no more; its card stays listed as withdrawn.
    """
    shelf = read_shelf(directories, base_id)
    run_id = bytes.fromhex(base_id)
    network = await PeerNetwork.start(
        key_file, run_id, config, on_stage=lambda name, message: report(f"{name}: {message}")
    )
    plane = DataPlane(network.identity, run_id)
    try:
        port = int(plane.start(config.host, 0).rpartition(":")[2])
        plane.set_blob_source(lambda blob_hash: _blob(shelf, blob_hash))
        network.carry(plane)
        await network.serve_streams(plane.accept_tunnel)
        for address in network.addresses:
            report(f"others fetch with: --peer {address}")
        await _keep_offering(network, plane, port, shelf, report)
    finally:
        plane.stop()
        await network.shutdown()


async def _keep_offering(
    network: PeerNetwork, plane: DataPlane, port: int, shelf: Shelf, report: Report
) -> None:
    loop = asyncio.get_running_loop()
    offered, offered_s = b"", -LEASE.total_seconds()
    while True:
        news = _reread(shelf)
        value = pack_offers(shelf.values())
        if value != offered or loop.time() - offered_s > LEASE.total_seconds() / 3:
            await network.publish(
                PeerRecord(
                    display_name="experts",
                    software_version=__version__,
                    data_addresses=data_addresses(network.data_hosts, port),
                    tls_certificate=plane.certificate_pem,
                    state=STATE,
                    lease_ttl_ms=round(1000 * LEASE.total_seconds()),
                )
            )
            await network.store_value(OFFERS_NAME, value, LEASE)
            if not offered:
                report(f"offering {', '.join(s.card.domain for s, _ in shelf.values())}")
            offered, offered_s = value, loop.time()
        for line in news:  # once the network knows it
            report(line)
        await asyncio.sleep(LOOK_EVERY_S)


def _reread(shelf: Shelf) -> list[str]:
    """Look for new notices; returns what is to be said of them."""
    news = []
    for directory, (signed, notice) in list(shelf.items()):
        newest = load_notice(directory, signed)
        shelf[directory] = signed, newest
        if newest is not None and newest != notice:
            word = "withdrawn, no more served" if newest.withdrawn else "offered again"
            news.append(f"{signed.card.domain} {signed.id[:16]}: {word}")
    return news


def _blob(shelf: Shelf, blob_hash: bytes) -> memoryview | None:
    for directory, (signed, notice) in shelf.items():
        withdrawn = notice is not None and notice.withdrawn
        if signed.card.weights == blob_hash.hex() and not withdrawn:
            return memoryview((directory / WEIGHTS_FILE).read_bytes())
    return None


class Visit:
    """A short-lived client in a base's network, with a key for the time of the visit."""

    def __init__(self, network: PeerNetwork, plane: DataPlane) -> None:
        self._network = network
        self._plane = plane

    async def offers(self) -> FoundOffers:
        """What is offered; looks until somebody offers something, for 20 s at most."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FIND_LIMIT_S
        while True:
            found = merge_offers(await self._network.get_values(OFFERS_NAME))
            if found.listed or loop.time() > deadline:
                return found
            await asyncio.sleep(FIND_EVERY_S)

    async def download(self, listed: Listed) -> bytes:
        """The bytes of an expert's tensors, from any peer that offers it.

        Their hash is checked. Raises `FRAGMENT_UNAVAILABLE` or the error of the last peer.
        """
        card = listed.card.card
        buffer = bytearray(card.weights_bytes)
        records = await self._network.records()
        sources = [records[peer] for peer in listed.peers if peer in records]
        await asyncio.to_thread(
            self._plane.download_blob,
            sources,
            bytes.fromhex(card.weights),
            memoryview(buffer),
            DOWNLOAD_LIMIT,
        )
        return bytes(buffer)


@asynccontextmanager
async def visiting(base_id: str, peers: Sequence[str], report: Report) -> AsyncIterator[Visit]:
    """Enter the network of a base through `peers`. Raises `BOOTSTRAP_UNREACHABLE`."""
    run_id = bytes.fromhex(base_id)
    with tempfile.TemporaryDirectory(prefix="visit-") as temporary:
        network = await PeerNetwork.start(
            Path(temporary) / "identity.key",
            run_id,
            NetworkConfig(initial_peers=tuple(peers)),
            on_stage=lambda name, message: report(f"{name}: {message}"),
        )
        plane = DataPlane(network.identity, run_id)
        network.carry(plane)
        try:
            yield Visit(network, plane)
        finally:
            plane.stop()
            await network.shutdown()
