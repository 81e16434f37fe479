"""Who calls the data plane: a sealed `DataToken` in the metadata of each gRPC call (pure).

The token is an envelope of the run, addressed to the server's peer id and naming the server's
certificate, so it is of no use on another server, in another run, or a minute later.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.envelope import open_envelope, seal, unpack
from swarm.wire.control_pb2 import DataToken

TOKEN_KEY = "expertswarm-token-bin"  # "-bin": gRPC carries bytes
KINDS = {DataToken.DESCRIPTOR.full_name: DataToken}


def make_token(
    identity: Identity, *, run_id: bytes, server: str, certificate_sha256: bytes, now_ms: int
) -> tuple[tuple[str, bytes], ...]:
    """Metadata for a call to the peer `server`."""
    token = DataToken(certificate_sha256=certificate_sha256)
    sealed = seal(identity, token, run_id=run_id, recipient=server, now_ms=now_ms)
    return ((TOKEN_KEY, sealed),)


def check_token(
    metadata: Iterable[tuple[str, str | bytes]],
    *,
    run_id: bytes,
    server: str,
    certificate_sha256: bytes,
    now_ms: int,
) -> str:
    """The authenticated peer id of the caller.

    Raises `MESSAGE_UNSIGNED` (no token), `SIGNATURE_INVALID` (of another certificate), or as
    `open_envelope`.
    """
    sealed = next((value for key, value in metadata if key == TOKEN_KEY), None)
    if not isinstance(sealed, bytes):
        raise SwarmError(Code.MESSAGE_UNSIGNED, "call without a token")
    opened = open_envelope(sealed, run_id=run_id, recipient=server, now_ms=now_ms)
    token = unpack(opened, KINDS)
    assert isinstance(token, DataToken)
    if token.certificate_sha256 != certificate_sha256:
        raise SwarmError(Code.SIGNATURE_INVALID, "token is for another server certificate")
    return opened.sender
