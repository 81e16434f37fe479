"""Whom a node waits for before it trains on: it never goes on alone unless it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from swarm.collective.member import RoundMember
from swarm.config import RunManifest
from swarm.errors import SwarmError
from swarm.wire.control_pb2 import Ping, Pong

LOOK_EVERY_S = 0.5
Say = Callable[[str], None]


async def answering(member: RoundMember, peers: Collection[str]) -> set[str]:
    """Which of these peers answer now."""

    async def answers(peer: str) -> bool:
        try:
            await member.context.transport.call(peer, Ping(), Pong, member.timeouts.heartbeat)
        except SwarmError:
            return False
        return True

    asked = sorted(peers)
    found = await asyncio.gather(*(answers(peer) for peer in asked))
    return {peer for peer, there in zip(asked, found, strict=True) if there}


async def wait_for_return(member: RoundMember, manifest: RunManifest, say: Say) -> None:
    """Let those come back who left a swarm that was stopped whole before this node.

    The last to leave kept its vote and could decide the open round alone, at once. It waits until
    `membership.min_peers` members are back; after the first, for `timeouts.round_s` at most.
    """
    commit, record = member.ledger.commit_id, member.ledger.record
    if record is None or not member.ledger.resignations:
        return
    others = set(record.roster) - {member.me}
    wanted = min(len(record.roster), manifest.membership.min_peers)
    loop = asyncio.get_running_loop()
    deadline_s: float | None = None
    while member.ledger.commit_id == commit:
        back = await answering(member, others)
        if back and deadline_s is None:
            deadline_s = loop.time() + manifest.timeouts.round_s
        if 1 + len(back) >= wanted or (deadline_s is not None and loop.time() >= deadline_s):
            return
        say(f"{1 + len(back)} of {wanted} members are back; --allow-solo would train on")
        await asyncio.sleep(LOOK_EVERY_S)
