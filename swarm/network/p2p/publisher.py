"""This peer's own entries in the DHT: issued, signed, renewed, and replaced by later ones."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from swarm.config import PROTOCOL_VERSION
from swarm.identity import Identity
from swarm.network import records
from swarm.network.p2p.directory import PEERS, Directory
from swarm.network.p2p.twin import twin_error
from swarm.network.transport import Clock
from swarm.wire.membership_pb2 import NamedValue, PeerRecord, SignedRecord


class Publisher:
    """Keeps one peer record and any number of named values.

    Attributes:
        record: the record as last published.
        signed: the same with its signature.
    """

    def __init__(
        self,
        identity: Identity,
        run_id: bytes,
        incarnation: bytes,
        now: Clock,
        permission: bytes,
    ) -> None:
        self._permission = permission
        self.record: PeerRecord | None = None
        self.signed: SignedRecord | None = None
        self._identity = identity
        self._run_id = run_id
        self._incarnation = incarnation
        self._now = now
        self._started_ms = self._now_ms()
        self._expires_ms = 0  # of the record that the DHT has
        self._lock = asyncio.Lock()

    async def publish(self, directory: Directory, record: PeerRecord, addresses: list[str]) -> None:
        """See `PeerNetwork.publish`."""
        async with self._lock:
            mine = PeerRecord()
            mine.CopyFrom(record)
            mine.peer_id, mine.run_id = self._identity.peer_id, self._run_id
            mine.protocol, mine.incarnation = PROTOCOL_VERSION, self._incarnation
            mine.permission = self._permission
            del mine.p2p_addresses[:]
            mine.p2p_addresses.extend(addresses)
            if not self._expires_ms:
                self._expires_ms = await self._stored_expiry(directory)
            for _ in range(2):
                issued = records.issue(mine, self._now_ms(), self._expires_ms)
                signed = records.sign_record(self._identity, issued)
                self._expires_ms = records.expires_at_ms(issued)
                if await directory.store(PEERS, signed, mine.peer_id, self._expires_ms):
                    break
                self._expires_ms = await self._stored_expiry(directory)
            mine.issued_at_ms = issued.issued_at_ms
            self.record, self.signed = mine, signed

    def due(self) -> PeerRecord | None:
        """The record, if a third of its lease is over and it should be published again."""
        if self.record is None:
            return None
        lease_ms = self.record.lease_ttl_ms or records.DEFAULT_LEASE.total_seconds() * 1000
        age_ms = self._now_ms() - self.record.issued_at_ms
        return self.record if age_ms * 3 > lease_ms else None

    async def store_value(
        self, directory: Directory, name: str, value: bytes, lease: timedelta
    ) -> None:
        """See `PeerNetwork.store_value`."""
        owner = self._identity.peer_id
        mine = NamedValue(peer_id=owner, run_id=self._run_id, name=name, value=value)
        mine.lease_ttl_ms = int(lease.total_seconds() * 1000)
        replaced = (await directory.values(name)).get(owner)
        after_ms = records.expires_at_ms(replaced) if replaced is not None else 0
        mine = records.issue(mine, self._now_ms(), after_ms)
        signed = records.sign_value(self._identity, mine)
        await directory.store(name, signed, owner, records.expires_at_ms(mine))

    async def _stored_expiry(self, directory: Directory) -> int:
        """When the record that the DHT has of this peer expires; 0 if it has none."""
        found = (await directory.peers()).get(self._identity.peer_id)
        if found is None:
            return 0
        record = found[1]
        if record.incarnation != self._incarnation and record.issued_at_ms > self._started_ms:
            raise twin_error(self._identity.peer_id)
        return records.expires_at_ms(record)

    def _now_ms(self) -> int:
        return int(self._now() * 1000)
