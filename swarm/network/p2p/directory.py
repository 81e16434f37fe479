"""The run's entries in the DHT: one dictionary of peer records, one per named value.

Each peer writes only its own entry of a dictionary (subkey = peer id). Every node checks entries
before it stores or passes them on, so an entry can be made, replaced or prolonged by its owner
alone, and nothing else can be put into the DHT.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from swarm.aio import in_time
from swarm.errors import Code, SwarmError
from swarm.network import records
from swarm.network.admission import Admission, not_admitted
from swarm.network.limits import DHT_REQUESTS, RecordQuota, RequestLimits
from swarm.network.p2p.daemon import Daemon, unreachable
from swarm.network.p2p.guarded_dht import Door, door_guard, start_dht
from swarm.network.p2p.hivemind_parts import (
    DHTID,
    DHTRecord,
    MSGPackSerializer,
    PeerID,
    RecordValidatorBase,
    ValidationError,
)
from swarm.network.transport import Clock
from swarm.wire.membership_pb2 import NamedValue, PeerRecord, SignedRecord

ASKED = 8  # nodes nearest to a key; five of them store it, and each answers with all of it
RPC_WAIT = timedelta(seconds=2)
# What this node stores for the others. A dictionary must fit into one message of p2pd, or nobody
# can read it any more.
MAX_DICTIONARIES = 16
MAX_OWNERS = 2048
MAX_DICTIONARY_BYTES = 4 * 2**20
DHT_WAIT = timedelta(seconds=8)
PEERS = "peers"
T = TypeVar("T")


class Directory:
    """This node's view of the DHT. Operations that take too long raise `PEER_UNREACHABLE`.

    Attributes:
        refused: entries that were not let in, by error code.
    """

    def __init__(self, node: Any, run_id: bytes, now: Clock, refused: Counter[str]) -> None:
        self.refused = refused
        self._node = node
        self._run_id = run_id
        self._now = now

    @classmethod
    async def start(
        cls,
        daemon: Daemon,
        run_id: bytes,
        now: Clock,
        refused: Counter[str],
        trusted: Callable[[str], bool],
        admission: Admission,
        introduce: Callable[[str], Awaitable[object]],
    ) -> Directory:
        """A DHT node in this event loop, knowing nobody yet (no forked DHT process).

        `trusted` tells members of the run, see `RequestLimits`. `introduce(peer)` calls a peer
        that has not shown a permission yet, so that it shows one.
        """
        limits = RequestLimits(DHT_REQUESTS, trusted)
        guard = door_guard(limits, admission, Door(admission, introduce), refused)
        node = await start_dht(
            guard,
            limits.done,
            p2p=daemon.p2p,
            record_validator=EntryValidator(run_id, now, refused, admission),
            wait_timeout=RPC_WAIT.total_seconds(),
            # Values are small and must be fresh, and a restarted peer must be asked again soon.
            cache_locally=False,
            cache_nearest=0,
            cache_on_store=False,
            cache_refresh_before_expiry=0,
            reuse_get_requests=False,
            backoff_rate=1.0,
        )
        return cls(node, run_id, now, refused)

    async def meet(self, peer: str) -> None:
        """Enter `peer` here and oneself there, each checking that it reaches the other.

        Raises `PEER_UNREACHABLE`, also when the clocks differ by more than 3 s.
        """
        peer_id = PeerID.from_base58(peer)
        try:
            node_id = await self._node.protocol.call_ping(peer_id, validate=True, strict=True)
        except ValidationError as error:
            raise unreachable(peer, str(error)) from error
        if node_id is None:
            raise unreachable(peer, "its DHT does not answer")
        self._node.blacklist.register_success(peer_id)

    async def explore(self) -> None:
        """Look for the nearest peers, which enters them here and this peer there."""
        with suppress(asyncio.TimeoutError):
            await in_time(
                self._node.find_nearest_nodes([self._node.node_id]), 2 * RPC_WAIT.total_seconds()
            )

    def known(self) -> set[str]:
        """Peers in the routing table: they answered the last time they were asked."""
        return {peer.to_base58() for peer in self._node.protocol.routing_table.peer_id_to_uid}

    async def store(self, name: str, signed: SignedRecord, owner: str, expires_ms: int) -> bool:
        """Put the owner's entry; False when no peer took it (a later one exists)."""
        return bool(
            await _limited(
                self._node.store(
                    self._key(name),
                    signed.SerializeToString(),
                    expires_ms / 1000,
                    subkey=owner,
                    await_all_replicas=False,
                )
            )
        )

    async def peers(self) -> dict[str, tuple[SignedRecord, PeerRecord]]:
        """Unexpired records of all peers, this one's and those of leavers included."""
        found = {}
        for owner, signed in await self._entries(PEERS):
            with self._counting():
                record = records.verify_record(
                    signed, run_id=self._run_id, now_ms=self._now_ms(), peer_id=owner
                )
                found[owner] = signed, record
        return found

    async def values(self, name: str) -> dict[str, NamedValue]:
        """Unexpired values under `name`, by owner."""
        found = {}
        for owner, signed in await self._entries(name):
            with self._counting():
                found[owner] = records.verify_value(
                    signed, run_id=self._run_id, now_ms=self._now_ms(), peer_id=owner
                )
        return found

    async def stop(self) -> None:
        """Stop answering; never raises, never hangs."""
        with suppress(Exception):
            await in_time(self._node.shutdown(), RPC_WAIT.total_seconds())

    async def _entries(self, name: str) -> Iterable[tuple[str, SignedRecord]]:
        found = await _limited(self._node.get(self._key(name), latest=True, beam_size=ASKED))
        if found is None or not isinstance(found.value, dict):
            return []
        entries = []
        for owner, entry in found.value.items():
            with suppress(DecodeError, TypeError):
                entries.append((str(owner), SignedRecord.FromString(entry.value)))
        return entries

    def _key(self, name: str) -> str:
        return entry_key(self._run_id, name)

    def _now_ms(self) -> int:
        return int(self._now() * 1000)

    def _counting(self) -> _Counting:
        return _Counting(self.refused)


class EntryValidator(RecordValidatorBase):  # type: ignore[misc]
    """Lets in only entries that `records` verifies, under their owner's name.

    The lease itself is not checked here: the DHT drops what expires, and one entry that expires
    on its way must not make the receiver throw away the whole dictionary. But the DHT's expiration
    time must be the signed one, or old entries could be replayed with a later one.

    Attributes:
        storing: what is validated is to be stored here for others, so there must be room for it.
    """

    def __init__(
        self, run_id: bytes, now: Clock, refused: Counter[str], admission: Admission
    ) -> None:
        self._run_id = run_id
        self._now = now
        self._admission = admission
        self._refused = refused
        self.storing = False
        self._quota = RecordQuota(
            keys=MAX_DICTIONARIES, owners=MAX_OWNERS, volume=MAX_DICTIONARY_BYTES
        )
        self._peers_key = DHTID.generate(source=entry_key(run_id, PEERS)).to_bytes()

    def validate(self, record: DHTRecord) -> bool:
        """Called before the DHT stores an entry, and for each entry it receives."""
        with _Counting(self._refused) as counting:
            self._check(record)
        return not counting.failed

    def _check(self, entry: DHTRecord) -> None:
        try:
            owner = MSGPackSerializer.loads(entry.subkey)
            signed = SignedRecord.FromString(MSGPackSerializer.loads(entry.value))
        except Exception as error:  # msgpack and protobuf raise many types on hostile bytes
            raise SwarmError(Code.MESSAGE_MALFORMED, "not a signed DHT entry") from error
        content: PeerRecord | NamedValue
        if entry.key == self._peers_key:
            content = records.verify_record(
                signed, run_id=self._run_id, now_ms=None, peer_id=str(owner)
            )
            self._admission.check(content.peer_id, content.permission)
        else:
            content = records.verify_value(
                signed, run_id=self._run_id, now_ms=None, peer_id=str(owner)
            )
            key = entry_key(self._run_id, content.name)
            if entry.key != DHTID.generate(source=key).to_bytes():
                raise SwarmError(Code.MESSAGE_MALFORMED, "value under another name")
            if not self._admission.admits(content.peer_id):
                raise not_admitted(content.peer_id, "it has shown no permission")
        if abs(records.expires_at_ms(content) - entry.expiration_time * 1000) > 1:
            raise SwarmError(Code.MESSAGE_MALFORMED, "expiration is not the signed one")
        if self.storing:
            self._quota.take(
                content.peer_id,
                entry.key,
                len(entry.value),
                expires_s=entry.expiration_time,
                now_s=self._now(),
            )


class _Counting:
    """Context manager: a `SwarmError` inside is counted, not raised."""

    def __init__(self, counter: Counter[str]) -> None:
        self._counter = counter
        self.failed = False

    def __enter__(self) -> _Counting:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        if isinstance(error, SwarmError):
            self._counter[error.code.value] += 1
            self.failed = True
            return True
        return False


async def _limited(operation: Awaitable[T]) -> T:
    try:
        return await in_time(operation, DHT_WAIT.total_seconds())
    except asyncio.TimeoutError:
        message = f"the DHT did not answer in {DHT_WAIT.total_seconds():.0f} s"
        raise SwarmError(Code.PEER_UNREACHABLE, message) from None


def entry_key(run_id: bytes, name: str) -> str:
    """DHT key of the dictionary `name` of a run."""
    return f"{run_id.hex()}/{name}"
