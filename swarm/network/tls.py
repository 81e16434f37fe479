"""The data plane's certificate: a new self-signed P-256 key pair for each start of a node.

It is bound to the peer's key by the signed peer record that carries it, and a client trusts this
one certificate and no other, so there is no authority, no host name and nothing to renew.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from swarm.errors import Code, SwarmError

SERVER_NAME = "peer.expertswarm"
CLOCK_SKEW = datetime.timedelta(days=1)
LIFETIME = datetime.timedelta(days=365)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key, both PEM."""

    certificate_pem: bytes
    private_key_pem: bytes


def new_certificate(now: datetime.datetime) -> Certificate:
    """A certificate for `SERVER_NAME`, valid for a year from `now` (UTC)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def certificate_sha256(certificate_pem: bytes) -> bytes:
    """SHA-256 (32 bytes) of the certificate's DER form. Raises `MESSAGE_MALFORMED`."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        raise SwarmError(Code.MESSAGE_MALFORMED, "not a certificate in PEM form") from error
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
