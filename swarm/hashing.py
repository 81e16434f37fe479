"""The hash of everything that is bulk: fragments, tensors, blobs. BLAKE3, 32 bytes.

Four times the speed of SHA-256 here, which every peer pays for every value of every round. Small
things (records, certificates, manifests) are hashed by SHA-256 where they are.
"""

from __future__ import annotations

from blake3 import blake3

__all__ = ["blake3", "bulk_hash"]


def bulk_hash(data: bytes | bytearray | memoryview) -> bytes:
    """The 32 bytes that name `data` everywhere."""
    return blake3(data).digest()
