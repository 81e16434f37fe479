"""Who is known: the newest signed record of each live peer, from the DHT and from messages.

    directory = PeerDirectory(network, run_id, now_ms)
    await directory.records()          # peer id -> PeerRecord, refreshed from the DHT when old
    directory.note(signed)             # a record that came with a message
    # `on_record` hears of every valid one, for the addresses in it

Records are only ever taken when their signature, run and lease hold. Relay nodes are no peers in
this sense: nobody founds a run with them or waits for their votes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Protocol

from swarm.errors import SwarmError
from swarm.network.admission import Admission, open_to_all
from swarm.network.records import LEFT, RELAY, expires_at_ms, verify_record
from swarm.wire.membership_pb2 import PeerRecord, SignedRecord

logger = logging.getLogger(__name__)
REFRESH = timedelta(seconds=2)
REFRESH_PER_PEER = timedelta(
    seconds=0.3
)  # a reading is of all records: many need not be read often
LONGEST_REFRESH = timedelta(seconds=15)
MAX_KNOWN = 4096


class RecordSource(Protocol):
    """Where records are read from; the DHT in a real swarm."""

    async def signed_records(self) -> Mapping[str, SignedRecord]:
        """Every record that is stored for this run, unchecked."""
        ...


class PeerDirectory:
    """See the module docstring."""

    def __init__(
        self,
        source: RecordSource,
        run_id: bytes,
        now_s: Callable[[], float],
        on_record: Callable[[PeerRecord], None] = lambda record: None,
        admission: Admission | None = None,
    ) -> None:
        self._admission = admission or open_to_all(run_id)
        self._source = source
        self._on_record = on_record
        self._run_id = run_id
        self._now_s = now_s
        self._known: dict[str, tuple[SignedRecord, PeerRecord]] = {}
        self._refreshed_s = 0.0
        self._lock = asyncio.Lock()

    def _now_ms(self) -> int:
        return round(1000 * self._now_s())

    def note(self, signed: SignedRecord) -> PeerRecord | None:
        """Take a record if it is valid and not older than the known one; None if it is invalid."""
        try:
            record = verify_record(signed, run_id=self._run_id, now_ms=self._now_ms())
            self._admission.check(record.peer_id, record.permission)
        except SwarmError:
            return None
        known = self._known.get(record.peer_id)
        if known is None and len(self._known) >= MAX_KNOWN:
            return record  # it holds, but those who are known must not make room for a flood
        if known is None or known[1].issued_at_ms <= record.issued_at_ms:
            self._known[record.peer_id] = (signed, record)
            self._on_record(record)
        return record

    def signed(self, peer: str) -> SignedRecord | None:
        """The signed record of a peer, if it is still valid."""
        known = self._known.get(peer)
        return known[0] if known is not None and self._valid(known[1]) else None

    def record(self, peer: str) -> PeerRecord | None:
        """The record of a peer, if it is still valid."""
        known = self._known.get(peer)
        return known[1] if known is not None and self._valid(known[1]) else None

    def _expired(self, record: PeerRecord) -> bool:
        return expires_at_ms(record) <= self._now_ms()

    def _valid(self, record: PeerRecord) -> bool:
        return record.state not in (LEFT, RELAY) and not self._expired(record)

    async def records(self) -> Mapping[str, PeerRecord]:
        """Valid records of all known peers; asks the source at most after `refresh_after`.

        Never raises: while the source does not answer, what is known stands until it expires.
        """
        async with self._lock:
            if self._now_s() - self._refreshed_s >= refresh_after(len(self._known)).total_seconds():
                self._refreshed_s = self._now_s()
                try:
                    for signed in (await self._source.signed_records()).values():
                        self.note(signed)
                except SwarmError as error:
                    logger.warning("the DHT does not answer, using what is known: %s", error)
                for peer in [p for p, (_, record) in self._known.items() if self._expired(record)]:
                    del self._known[peer]
        return {p: record for p, (_, record) in self._known.items() if self._valid(record)}


def refresh_after(peers: int) -> timedelta:
    """How old what is known of so many peers may become."""
    return min(max(REFRESH, peers * REFRESH_PER_PEER), LONGEST_REFRESH)
