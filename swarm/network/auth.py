"""Who opens a lane: a sealed `DataToken` in its `LaneHello` (pure).

The token is an envelope of the run, addressed to the server's peer id and naming the server's
certificate, so it is of no use on another server, in another run, or a minute later.
"""

from __future__ import annotations

from swarm.errors import Code, SwarmError
from swarm.identity import Identity
from swarm.network.admission import Admission
from swarm.network.envelope import open_envelope, seal, unpack
from swarm.wire.control_pb2 import DataToken

KINDS = {DataToken.DESCRIPTOR.full_name: DataToken}


def make_token(
    identity: Identity,
    *,
    run_id: bytes,
    server: str,
    certificate_sha256: bytes,
    now_ms: int,
    permission: bytes,
) -> bytes:
    """The token for a lane to the peer `server`."""
    token = DataToken(certificate_sha256=certificate_sha256)
    return seal(
        identity, token, run_id=run_id, recipient=server, now_ms=now_ms, permission=permission
    )


def check_token(
    sealed: bytes,
    *,
    run_id: bytes,
    server: str,
    certificate_sha256: bytes,
    now_ms: int,
    admission: Admission,
) -> str:
    """The authenticated peer id of the opener.

    Raises `MESSAGE_UNSIGNED` (no token), `SIGNATURE_INVALID` (of another certificate),
    `NOT_ADMITTED`, or as `open_envelope`.
    """
    if not sealed:
        raise SwarmError(Code.MESSAGE_UNSIGNED, "a lane without a token")
    opened = open_envelope(sealed, run_id=run_id, recipient=server, now_ms=now_ms)
    admission.check(opened.sender, opened.permission)
    token = unpack(opened, KINDS)
    assert isinstance(token, DataToken)
    if token.certificate_sha256 != certificate_sha256:
        raise SwarmError(Code.SIGNATURE_INVALID, "token is for another server certificate")
    return opened.sender
