"""`node start` with something wrong: a typed error, its exit code, no traceback, nothing left."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from running_node import RunningNode
from tiny_run import tiny_manifest, tiny_peers

from node import exit_codes
from node.testnet import free_port
from swarm.config import RunManifest
from swarm.identity import Identity
from swarm.wire.node_pb2 import StatusReply

LIMIT_S = 90


class Lonely(NamedTuple):
    """A node, its place, and the address of nobody that it was given."""

    place: Path
    address: str
    process: subprocess.Popen[str]


def founded(place: Path) -> Path:
    tiny_manifest(place / "RUN.toml", peers=1)
    tiny_peers(place, 1)
    return place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return founded(tmp_path)


def words_of(place: Path, **options: str) -> list[str]:
    given = {"run": "RUN.toml", "data": "text-0", "domain": "law"} | options
    given.setdefault("listen", f"127.0.0.1:{free_port()}")
    words = ["start", "--allow-solo"]
    for name, value in given.items():
        words += [f"--{name}", str(place / value) if name in ("run", "data") else value]
    return words


def command(place: Path, directory: str = "node", **options: str) -> list[str]:
    words = [*words_of(place, **options), "--dir", str(place / directory)]
    return [sys.executable, "-m", "node", *words]


def fails(place: Path, **options: str) -> tuple[int, str]:
    ended = subprocess.run(
        command(place, **options), capture_output=True, text=True, timeout=LIMIT_S
    )
    return ended.returncode, the_error(place, ended.stderr)


def the_error(place: Path, output: str) -> str:
    """What an ended node wrote, if that is one error and nothing is left of it."""
    errors = [line for line in output.splitlines() if line.startswith("error ")]
    assert len(errors) == 1, output
    assert "Traceback" not in output
    assert not (place / "node" / "node.sock").exists()
    return output


@contextlib.contextmanager
def running(place: Path, directory: str = "node") -> Iterator[StatusReply]:
    """A node that trains; yields its status."""
    node = RunningNode(place / directory, place / "output.txt", words_of(place))
    try:
        yield node.wait(lambda s: s.state == "TRAINING", "training", LIMIT_S)
        node.terminate()
    finally:
        node.kill()


@pytest.fixture(scope="module", autouse=True)
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lonely]:
    """A node that looks for its bootstrap peer for half a minute, while the other tests run."""
    place = founded(tmp_path_factory.mktemp("lonely"))
    address = f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/{Identity.generate().peer_id}"
    with subprocess.Popen(
        command(place, peer=address), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        log, deadline = place / "node" / "logs" / "node.log", time.monotonic() + LIMIT_S
        while "data ready" not in (log.read_text() if log.exists() else ""):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)  # until all its processes are there, which none of the tests leaves
        yield Lonely(place, address, process)
        process.terminate()


def test_data_that_is_not_there(place: Path) -> None:
    code, error = fails(place, data="nowhere")
    assert code == exit_codes.DATA
    assert "error DATA_MISSING" in error
    assert str(place / "nowhere") in error


def test_data_without_any_text(place: Path) -> None:
    (place / "binary").mkdir()
    (place / "binary" / "a.txt").write_bytes(b"\xff\xfe" * 100)
    code, error = fails(place, data="binary")
    assert code == exit_codes.DATA
    assert "error DATA_EMPTY" in error
    assert "skipped_not_utf8 1" in error


def test_a_port_that_is_taken(place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, error = fails(place, listen=f"127.0.0.1:{port}")
    assert code == exit_codes.NETWORK
    assert "error PORT_IN_USE" in error
    assert str(port) in error


@pytest.mark.parametrize("address", ["nonsense", "/ip4/127.0.0.1/tcp/4001", "10.0.0.1:4001"])
def test_an_address_that_is_none_is_refused(address: str, place: Path) -> None:
    code, error = fails(place, peer=address)
    assert code in (exit_codes.CONFIG, exit_codes.NETWORK, exit_codes.USAGE)
    assert "INTERNAL" not in error
    assert address in error


def test_a_key_file_that_others_can_read_or_that_is_damaged(place: Path) -> None:
    key = place / "node" / "identity.key"
    key.parent.mkdir()
    Identity.generate().save(key)
    key.chmod(0o644)
    code, error = fails(place)
    assert (code, "IDENTITY_PERMISSIONS" in error) == (exit_codes.IDENTITY, True)
    key.write_bytes(b"not a key")
    key.chmod(0o600)
    code, error = fails(place)
    assert (code, "IDENTITY_CORRUPT" in error) == (exit_codes.IDENTITY, True)


def test_a_directory_that_can_not_be_made(place: Path) -> None:
    (place / "file").write_text("")
    code, error = fails(place, directory="file/node")
    assert code == exit_codes.STORAGE
    assert "error DIR_NOT_WRITABLE" in error


def test_a_manifest_whose_initial_state_is_not_ours(place: Path) -> None:
    manifest = RunManifest.load(place / "RUN.toml")
    wrong = dataclasses.replace(
        manifest, genesis=dataclasses.replace(manifest.genesis, state_root="00" * 32)
    )
    (place / "RUN.toml").write_text(wrong.to_toml())
    code, error = fails(place)
    assert code == exit_codes.CONFIG
    assert "genesis.state_root" in error


def test_a_second_daemon_in_the_same_directory_and_another_run_in_it(place: Path) -> None:
    with running(place):
        second = subprocess.run(
            command(place), capture_output=True, text=True, timeout=LIMIT_S
        )  # fmt: skip
        assert second.returncode == exit_codes.WORKER
        assert "error NODE_ALREADY_RUNNING" in second.stderr
    (place / "other").mkdir()
    other = tiny_manifest(place / "other" / "RUN.toml", peers=1)
    code, error = fails(place, run="other/RUN.toml")
    assert code == exit_codes.CONFIG
    assert "error RUN_MISMATCH" in error
    assert other.run_id.hex()[:16] in error
    assert RunManifest.load(place / "RUN.toml").run_id.hex()[:16] in error


def test_a_swarm_with_another_manifest_shows_both_run_ids(place: Path) -> None:
    (place / "other").mkdir()
    other = tiny_manifest(place / "other" / "RUN.toml", peers=1)
    with running(place, directory="first") as status:
        code, error = fails(place, run="other/RUN.toml", peer=status.addresses[0])
    assert code == exit_codes.CONFIG
    assert "error RUN_MISMATCH" in error
    assert other.run_id.hex()[:16] in error
    assert status.run_id[:16] in error


def test_a_bootstrap_peer_that_is_not_there_is_named(lonely: Lonely) -> None:
    _, output = lonely.process.communicate(timeout=LIMIT_S)
    error = the_error(lonely.place, output)
    assert lonely.process.returncode == exit_codes.NETWORK
    assert "error BOOTSTRAP_UNREACHABLE" in error
    assert lonely.address in error
