"""Sealed records: what protects the frames of a direct lane after its handshake (pure, no I/O).

    seals = Seals.of(opener_secret, acceptor_secret, opener=True)
    for buffers in seals.seal(header, views, size): ...         # to be written one after the other
    seals.open(header, sealed, target)                          # or a SwarmError

A frame is its header in the clear, then its payload in pieces of at most `RECORD_BYTES`, each
encrypted with AES-128-GCM and followed by a 16-byte tag; an empty payload is one empty piece. The
header is authenticated with every piece. The nonce is a counter of the direction, so a record that
is replayed, dropped, reordered or reflected does not open. TLS 1.3 does the same with records of
16 KiB; these are larger, which makes them several times cheaper in Python.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarm.errors import Code, SwarmError

# The fastest of 2**16 to 2**20, as both copies stay in the CPU's cache, with room for the scales of
# a chunk: 512 KiB of int8 or int4 levels are one record, not one and a small one.
RECORD_BYTES = 9 * 2**16
TAG_BYTES = 16
KEY_BYTES = 16
SECRET_BYTES = 32
# AES-GCM with one key is safe far beyond this (bound of an attacker's advantage 2^-61).
WORN_OUT_BYTES = 2**38
NONCE = struct.Struct("<4xQ")


class Seals:
    """Both directions' keys, counters and reusable buffers of one end of a lane."""

    def __init__(self, send_key: bytes, receive_key: bytes) -> None:
        self.incoming = memoryview(bytearray(RECORD_BYTES + TAG_BYTES))
        self._outgoing = memoryview(bytearray(RECORD_BYTES + TAG_BYTES))
        self._send = AESGCM(send_key)
        self._receive = AESGCM(receive_key)
        self._sent = 0
        self._received = 0

    @classmethod
    def of(cls, opener_secret: bytes, acceptor_secret: bytes, *, opener: bool) -> Seals:
        """The keys of a lane from what both ends have told each other under TLS."""
        keys = HKDF(SHA256(), 2 * KEY_BYTES, salt=None, info=b"expertswarm lane").derive(
            opener_secret + acceptor_secret
        )
        of_opener, of_acceptor = keys[:KEY_BYTES], keys[KEY_BYTES:]
        return cls(of_opener, of_acceptor) if opener else cls(of_acceptor, of_opener)

    def seal(
        self, header: bytes, views: Sequence[memoryview], size: int
    ) -> Iterator[list[memoryview]]:
        """The frame's records, each as buffers to write before the next one is asked for."""
        for begin in range(0, max(size, 1), RECORD_BYTES):
            piece = _piece(views, begin, min(size, begin + RECORD_BYTES))
            count = self._send.encrypt_into(
                NONCE.pack(self._sent), piece, header, self._outgoing[: len(piece) + TAG_BYTES]
            )
            self._sent += 1
            sealed = self._outgoing[:count]
            yield [memoryview(header), sealed] if begin == 0 else [sealed]

    def open(self, header: bytes, sealed: memoryview, target: memoryview) -> None:
        """Decrypt one record into `target`. Raises `MESSAGE_MALFORMED` when it is not genuine."""
        nonce = NONCE.pack(self._received)
        self._received += 1
        try:
            self._receive.decrypt_into(nonce, sealed, header, target)
        except InvalidTag:
            raise SwarmError(Code.MESSAGE_MALFORMED, "a sealed record was tampered with") from None


def _piece(views: Sequence[memoryview], begin: int, end: int) -> memoryview:
    """Bytes `begin` to `end` of the buffers in a row; copied only where it spans several."""
    parts = []
    for view in views:
        part = view[max(0, begin) : max(0, end)]
        if part.nbytes:
            parts.append(part)
        begin, end = begin - view.nbytes, end - view.nbytes
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
