"""The coordinator of a run: the changes that it signs, each told to one peer."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rules import RUN_ID

from swarm.collective.changes import CHANGE_DOMAIN, in_effect
from swarm.identity import Identity
from swarm.wire import collective_pb2 as pb

if TYPE_CHECKING:
    from peer import Peer
    from world import World

KEY = Identity(Ed25519PrivateKey.from_private_bytes(b"k" * 32))


@functools.cache
def signed_change(number: int, paused: bool) -> pb.SignedChange:
    change = pb.RunChange(run_id=RUN_ID, number=number, paused=paused)
    payload = change.SerializeToString(deterministic=True)
    return pb.SignedChange(payload=payload, signature=KEY.sign(CHANGE_DOMAIN + payload))


class Steering:
    """The changes of one world, and who was told of the newest."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.made: set[bytes] = set()

    def tell(self, peer: Peer, paused: bool) -> None:
        """A new change comes to a peer, which keeps it on its disk."""
        peer.change = signed_change(len(self.made) + 1, paused)
        self.made.add(peer.change.payload)
        self._world.seen["change told"] += 1
        if self._world.telling:
            self._world.tell(f"{peer.id} is told of change {len(self.made)}")

    def is_in_effect(self) -> bool:
        """True when every change that a living peer was told of is, or a newer one."""
        living = [p for p in self._world.peers.values() if p.alive]
        return all(
            in_effect(p.memory.record).number >= pb.RunChange.FromString(p.change.payload).number
            for p in living
        )
