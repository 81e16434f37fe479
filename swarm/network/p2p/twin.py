"""Refuse to run twice with one key: ask the bootstrap peers whether this peer id is in use."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from swarm.config import PROTOCOL_VERSION
from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.admission import Admission
from swarm.network.contacts import peer_of
from swarm.network.p2p.daemon import Daemon
from swarm.network.p2p.dialling import tcp_problem
from swarm.network.transport import Endpoint
from swarm.wire.control_pb2 import Locate, LocateReply

CONTROL_PROTOCOL = f"/expertswarm/control/{PROTOCOL_VERSION}"
PROBE_WAIT = timedelta(seconds=2)
TCP_WAIT = timedelta(seconds=1)


async def look_for_twin(
    peer_id: str,
    run_id: bytes,
    addresses: Sequence[str],
    timeout: timedelta,
    admission: Admission,
) -> None:
    """Raise `IDENTITY_IN_USE` if some process answers under `peer_id`.

    Asked from a throw-away id, before joining: a peer can not dial its own id, and a bootstrap
    peer that has connections to both twins may ask either. hivemind's own check knows RSA only.
    Peers that do not answer are passed over: the bootstrap stage says what is wrong with them.
    To be called before this node listens, or it may take itself for its twin.
    """
    problems = await asyncio.gather(*(tcp_problem(a, TCP_WAIT) for a in addresses))
    addresses = [a for a, problem in zip(addresses, problems, strict=True) if problem is None]
    if not addresses:
        return
    with tempfile.TemporaryDirectory() as directory:
        key_file = Path(directory) / "probe.key"
        endpoint = Endpoint(Identity.load_or_create(key_file), run_id, admission=admission)
        daemon = await Daemon.start(key_file, "127.0.0.1", 0, listen=False, timeout=timeout)
    try:
        replies = await asyncio.gather(*(_locate(daemon, endpoint, a, peer_id) for a in addresses))
    finally:
        await daemon.stop()
    if any(reply.alive for reply in replies):
        raise twin_error(peer_id)


def twin_error(peer_id: str) -> SwarmError:
    """An `IDENTITY_IN_USE` error about this node's own id."""
    return SwarmError(
        Code.IDENTITY_IN_USE,
        f"another running node has the same key (peer {peer_id})",
        "stop it, or remove the key file on one of the two machines to get a new id",
    )


async def _locate(daemon: Daemon, endpoint: Endpoint, address: str, peer_id: str) -> LocateReply:
    peer = peer_of(address)
    try:
        await daemon.connect(peer, [address], PROBE_WAIT)
        request = endpoint.seal(peer, Locate(peer_id=peer_id))
        answer = await daemon.call(peer, CONTROL_PROTOCOL, request, 2 * PROBE_WAIT)
        return endpoint.open_reply(peer, answer, LocateReply)
    except SwarmError:
        return LocateReply(alive=False)
