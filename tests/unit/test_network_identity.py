from __future__ import annotations

import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import Code, SwarmError
from swarm.identity import Identity, public_key_of, verify

# From https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md, "Test vectors".
LIBP2P_KEY = bytes.fromhex(
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)


def test_key_of_the_libp2p_specification_is_read_and_written_back():
    identity = Identity.from_bytes(LIBP2P_KEY)
    assert identity.to_bytes() == LIBP2P_KEY
    assert identity.peer_id.startswith("12D3Koo") and len(identity.peer_id) == 52


def test_first_start_makes_a_private_key_file_and_the_next_one_reads_it(tmp_path):
    path = tmp_path / "node" / "identity.key"
    made = Identity.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load_or_create(path).peer_id == made.peer_id
    assert [p.name for p in path.parent.iterdir()] == ["identity.key"]


def test_key_file_is_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        Identity.load_or_create(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_key_that_others_can_read_is_refused_with_the_command_that_repairs_it(tmp_path, mode):
    path = tmp_path / "key"
    Identity.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(SwarmError) as caught:
        Identity.load_or_create(path)
    assert caught.value.code is Code.IDENTITY_PERMISSIONS
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\x08\x00" + data[2:],  # an RSA key by its type
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],  # public half of another key
        lambda data: b"-----BEGIN PRIVATE KEY-----",
    ],
)
def test_damaged_key_file_is_named_and_left_alone(tmp_path, damage):
    path = tmp_path / "key"
    Identity.load_or_create(path)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(SwarmError) as caught:
        Identity.load_or_create(path)
    assert caught.value.code is Code.IDENTITY_CORRUPT
    assert str(path) in caught.value.message
    assert path.read_bytes() == damaged


def test_directory_that_can_not_be_made_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SwarmError) as caught:
        Identity.load_or_create(tmp_path / "file" / "key")
    assert caught.value.code is Code.DIR_NOT_WRITABLE


def test_signature_holds_for_its_data_and_signer_only():
    alice, bob = Identity.generate(), Identity.generate()
    signature = alice.sign(b"data")
    assert verify(alice.peer_id, b"data", signature)
    assert not verify(alice.peer_id, b"date", signature)
    assert not verify(bob.peer_id, b"data", signature)
    assert not verify(alice.peer_id, b"data", signature[:-1])
    assert not verify(alice.peer_id, b"data", b"")


def test_peer_id_holds_the_public_key():
    private_key = Ed25519PrivateKey.generate()
    assert public_key_of(Identity(private_key).peer_id) == private_key.public_key()


@given(st.one_of(st.text(max_size=60), st.text("123456789ABCDEFGHJK", min_size=52, max_size=52)))
def test_verify_never_raises_for_a_hostile_peer_id(peer_id):
    assert not verify(peer_id, b"data", b"s" * 64)
