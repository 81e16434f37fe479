"""A peer's identity: one Ed25519 key that names it, signs for it and encrypts its connections.

    identity = Identity.load_or_create(Path("node/identity.key"))
    identity.peer_id                                    # "12D3KooW..."
    verify(identity.peer_id, data, identity.sign(data))  # True

The file holds libp2p's protobuf form of the private key, so that p2pd reads the same file. The
public key is inside the peer id, so a signature is checked from the peer id alone.
Formats: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
"""

from __future__ import annotations

import errno
import functools
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from swarm.errors import Code, SwarmError

PRIVATE_KEY_HEADER = bytes.fromhex("08011240")  # protobuf: type Ed25519, data of 64 bytes
PUBLIC_KEY_HEADER = bytes.fromhex("08011220")  # protobuf: type Ed25519, data of 32 bytes
MULTIHASH_HEADER = bytes.fromhex("0024")  # "identity" multihash of 36 bytes
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
PEER_ID_LENGTH = 52


class Identity:
    """An Ed25519 key pair and the peer id made from it."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        public_key = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._public_key = public_key
        self.peer_id = peer_id_of(public_key)

    @classmethod
    def generate(cls) -> Identity:
        """A new identity that is stored nowhere."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """Read the key file at `path`; make it (mode 0600) when there is none.

        Raises `IDENTITY_CORRUPT`, `IDENTITY_PERMISSIONS` (others can read it), `DISK_FULL` or
        `DIR_NOT_WRITABLE`.
        """
        try:
            status = path.stat()
        except FileNotFoundError:
            identity = cls.generate()
            identity.save(path)
            return identity
        except OSError as error:
            raise SwarmError(Code.DIR_NOT_WRITABLE, f"{path}: {error.strerror}") from error
        if status.st_mode & 0o077:
            raise SwarmError(
                Code.IDENTITY_PERMISSIONS,
                f"{path} can be read by others (mode {status.st_mode & 0o777:04o})",
                f"chmod 600 {path}",
            )
        try:
            return cls.from_bytes(path.read_bytes())
        except (OSError, ValueError) as error:
            raise SwarmError(
                Code.IDENTITY_CORRUPT,
                f"{path} is not a readable Ed25519 key: {error}",
                "restore it from a backup, or remove it to get a new identity",
            ) from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Identity:
        """Parse libp2p's protobuf form (68 bytes). Raises `ValueError`."""
        if len(data) != 68 or not data.startswith(PRIVATE_KEY_HEADER):
            raise ValueError(f"expected 68 bytes of an Ed25519 key, got {len(data)} bytes")
        identity = cls(Ed25519PrivateKey.from_private_bytes(data[4:36]))
        if identity._public_key != data[36:]:
            raise ValueError("its public half does not belong to its private half")
        return identity

    def to_bytes(self) -> bytes:
        """The private key in libp2p's protobuf form (68 bytes)."""
        seed = self._private_key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return PRIVATE_KEY_HEADER + seed + self._public_key

    def save(self, path: Path) -> None:
        """Write the key file, mode 0600, whole or not at all.

        Raises `DISK_FULL` or `DIR_NOT_WRITABLE`.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)
                file.write(self.to_bytes())
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            code = Code.DISK_FULL if error.errno == errno.ENOSPC else Code.DIR_NOT_WRITABLE
            raise SwarmError(code, f"can not write {path}: {error.strerror}") from error

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature (64 bytes) over `data`."""
        return self._private_key.sign(data)


def verify(peer_id: str, data: bytes, signature: bytes) -> bool:
    """Whether `signature` over `data` was made with the key of `peer_id`; never raises."""
    try:
        public_key_of(peer_id).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def peer_id_of(public_key: bytes) -> str:
    """Peer id (base58, "12D3Koo...") of a raw Ed25519 public key (32 bytes)."""
    number = int.from_bytes(MULTIHASH_HEADER + PUBLIC_KEY_HEADER + public_key, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = BASE58[digit] + digits
    return "1" + digits  # the multihash starts with exactly one zero byte


@functools.lru_cache(maxsize=4096)
def public_key_of(peer_id: str) -> Ed25519PublicKey:
    """The public key inside a peer id. Raises `ValueError` if it is not an Ed25519 peer id."""
    if len(peer_id) != PEER_ID_LENGTH or peer_id[0] != "1":
        raise ValueError(f"not an Ed25519 peer id: {peer_id[:80]!r}")
    number = 0
    for character in peer_id[1:]:
        number = number * 58 + BASE58.index(character)
    header = MULTIHASH_HEADER + PUBLIC_KEY_HEADER
    try:
        data = number.to_bytes(len(header) + 32, "big")
    except OverflowError as error:
        raise ValueError(f"not an Ed25519 peer id: {peer_id!r}") from error
    if not data.startswith(header):
        raise ValueError(f"not an Ed25519 peer id: {peer_id!r}")
    return Ed25519PublicKey.from_public_bytes(data[len(header) :])
