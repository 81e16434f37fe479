"""What the network looks like from here: told by the running node, or seen on a short visit.

A visit joins the run's network as a node would, from the same port, but trains nothing, publishes
no record, and is gone after a few seconds.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from node.doctor.checks import NetworkFacts
from node.joining import TICKET, load_admission
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.contacts import by_peer
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.network.reachability import HIDDEN, Nat
from swarm.network.speed import measure_speed
from swarm.wire.control_pb2 import Ping, Pong
from swarm.wire.node_pb2 import StatusReply

ASK_LIMIT = timedelta(seconds=5)
REACH_LIMIT_S = 12.0
RELAY_LIMIT_S = 8.0
POLL_S = 0.2


def facts_of(status: StatusReply) -> NetworkFacts:
    """What a running node knows."""
    return NetworkFacts(
        clock_offset_s=status.clock_offset_s,
        clock_peers=status.clock_peers,
        nat=status.nat or Nat.UNKNOWN.value,
        nat_reason=status.nat_reason,
        relays=tuple(status.relays),
        up_bps=status.upload_bps,
        down_bps=status.download_bps,
        company=status.company,
        company_reason=status.company_reason,
        running=True,
        trains=status.role != "relay",
    )


async def visit(manifest: RunManifest, directory: Path, config: NetworkConfig) -> NetworkFacts:
    """Look around. Raises only what keeps p2pd from starting, or a ticket from being read."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as temporary:
        key_file = Path(temporary) / "identity.key"
        if (directory / TICKET).exists():  # a closed run answers only the peer of its ticket
            key_file = directory / "identity.key"
        identity = Identity.load_or_create(key_file)
        admission = load_admission(directory, manifest, identity.peer_id)
        network = await PeerNetwork.start(key_file, manifest.run_id, config, admission=admission)
        try:
            return await _look(network, [*config.initial_peers, *config.known_peers])
        finally:
            await network.shutdown()


async def _look(network: PeerNetwork, addresses: Sequence[str]) -> NetworkFacts:
    asked = list(by_peer(addresses))
    answers = await asyncio.gather(*(_ask(network, peer) for peer in asked))
    answering = [peer for peer, error in zip(asked, answers, strict=True) if error is None]
    errors = [error for error in answers if error is not None]
    speed = None
    versions: dict[str, str] = {}
    if answering:
        await _until(lambda: network.reachability.nat is not Nat.UNKNOWN, REACH_LIMIT_S)
        if network.reachability.nat in HIDDEN:
            await _until(lambda: bool(network.reachability.relays), RELAY_LIMIT_S)
        try:
            speed = await measure_speed(network.call, answering[0], time.monotonic)
            records = await network.records()
            versions = {peer: record.software_version for peer, record in records.items()}
        except SwarmError as error:
            errors.append(error)
    reach = network.reachability
    return NetworkFacts(
        asked=len(asked),
        answered=len(answering),
        problem=errors[0].message if errors else "",
        problem_code=_worst(errors),
        clock_offset_s=network.clocks.median_s,
        clock_peers=len(network.clocks),
        nat=reach.kind,
        nat_reason=reach.reason,
        relays=reach.relays,
        up_bps=speed.up_bps if speed is not None else 0.0,
        down_bps=speed.down_bps if speed is not None else 0.0,
        peer_versions=versions,
    )


async def _ask(network: PeerNetwork, peer: str) -> SwarmError | None:
    try:
        await network.call(peer, Ping(), Pong, ASK_LIMIT)
    except SwarmError as error:
        return error
    return None


def _worst(errors: Sequence[SwarmError]) -> Code | None:
    """The code that explains most; a refusal's own code is at the front of its message."""
    codes = []
    for error in errors:
        inner = error.message.split(": ")
        codes.append(
            Code(inner[1])
            if error.code is Code.PEER_REFUSED and len(inner) > 1 and inner[1] in Code.__members__
            else error.code
        )
    telling = (Code.NOT_ADMITTED, Code.RUN_MISMATCH, Code.MESSAGE_VERSION, Code.MESSAGE_EXPIRED)
    return next((code for code in telling if code in codes), codes[0] if codes else None)


async def _until(condition: Callable[[], bool], limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline_s:
        await asyncio.sleep(POLL_S)
