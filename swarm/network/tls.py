"""The data plane's certificate: a new self-signed P-256 key pair for each start of a node.

It is bound to the peer's key by the signed peer record that carries it, and a client trusts this
one certificate and no other, so there is no authority, no host name and nothing to renew.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
import ssl
import tempfile
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from swarm.errors import Code, SwarmError

SERVER_NAME = "peer.expertswarm"
CLOCK_SKEW = datetime.timedelta(days=1)
LIFETIME = datetime.timedelta(days=365)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key."""

    certificate_pem: bytes
    private_key: ec.EllipticCurvePrivateKey


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
    return Certificate(certificate.public_bytes(Encoding.PEM), key)


def certificate_sha256(certificate_pem: bytes) -> bytes:
    """SHA-256 (32 bytes) of the certificate's DER form. Raises `MESSAGE_MALFORMED`."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        raise SwarmError(Code.MESSAGE_MALFORMED, "not a certificate in PEM form") from error
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


def server_tls(certificate: Certificate) -> ssl.SSLContext:
    """TLS 1.3 for the owner of `certificate`, without session tickets. Raises `DISK_FULL`.

    A ticket would come after the handshake and be in the way when a lane leaves TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    # Python's ssl reads keys from files only; on disk this one is of use to nobody.
    password = secrets.token_bytes(32).hex().encode()
    key = certificate.private_key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
    )
    try:
        with tempfile.NamedTemporaryFile(prefix="expertswarm-") as file:
            file.write(key + certificate.certificate_pem)
            file.flush()
            context.load_cert_chain(file.name, password=password)
    except ssl.SSLError:
        raise
    except OSError as error:
        raise SwarmError(
            Code.DISK_FULL, f"{tempfile.gettempdir()}: {error.strerror or error}"
        ) from error
    return context


def client_tls(certificate_pem: bytes) -> ssl.SSLContext:
    """TLS 1.3 with the owner of this certificate and nobody else. Raises `MESSAGE_MALFORMED`."""
    certificate_sha256(certificate_pem)  # a readable error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    only = x509.load_pem_x509_certificate(certificate_pem)  # whatever else was written around it
    context.load_verify_locations(cadata=only.public_bytes(Encoding.DER))
    return context
