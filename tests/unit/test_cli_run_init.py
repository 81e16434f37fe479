"""`node run init`: a manifest that everybody can read and check, and a private key."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from node import exit_codes
from node.cli import run_command_line
from swarm.config import RunManifest
from swarm.errors import SwarmError
from swarm.identity import Identity, public_key_of
from swarm.model.fragments import FragmentLayout, fragment_hash, initial_fragment, state_root
from swarm.presets import preset


def init(tmp_path: Path, *words: str) -> RunManifest:
    path = tmp_path / "RUN.toml"
    assert run_command_line(["run", "init", str(path), *words]) == exit_codes.OK
    return RunManifest.load(path)


def test_the_manifest_can_be_read_and_holds_the_initial_state(tmp_path: Path) -> None:
    manifest = init(tmp_path, "--experts", "4", "--peers", "2", "--seed", "5")
    layout = FragmentLayout.of(
        manifest.model, manifest.sync.trunk_fragments, manifest.sync.router_rows
    )
    hashes = {
        name: fragment_hash(initial_fragment(manifest.model, layout, name, 5))
        for name in layout.names
    }
    assert manifest.genesis.state_root == state_root(hashes).hex()
    assert manifest.genesis.seed == 5


def test_the_key_is_private_and_belongs_to_the_manifest(tmp_path: Path) -> None:
    manifest = init(tmp_path)
    key = tmp_path / "RUN.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = public_key_of(Identity.load_or_create(key).peer_id).public_bytes_raw()
    assert manifest.run_public_key == public.hex()


def test_a_closed_run_wants_tickets(tmp_path: Path) -> None:
    assert init(tmp_path, "--closed").membership.admission == "ticket"


def test_two_runs_of_the_same_numbers_are_different_runs(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = init(tmp_path / "a"), init(tmp_path / "b")
    assert first.genesis == second.genesis
    assert first.run_id != second.run_id


@pytest.mark.parametrize(
    ("words", "experts", "held", "peers"),
    [
        ([], 8, 2, 2),
        (["--peers", "4"], 8, 2, 4),
        (["--peers", "8"], 8, 1, 8),
        (["--peers", "16"], 8, 1, 16),
        (["--experts", "1", "--peers", "1"], 1, 1, 1),
        (["--experts", "6", "--experts-per-peer", "3"], 6, 3, 2),
    ],
)
def test_experts_are_shared_among_the_founding_peers(
    words: list[str], experts: int, held: int, peers: int, tmp_path: Path
) -> None:
    manifest = init(tmp_path, *words)
    assert manifest.model.num_experts == experts
    assert manifest.sync.experts_per_peer == held
    assert manifest.membership.min_peers == peers


def test_the_name_is_given_or_that_of_the_file(tmp_path: Path) -> None:
    assert init(tmp_path).name == "RUN"
    assert init(tmp_path, "--name", "law", "--force").name == "law"


def test_a_preset_writes_its_values_into_the_file(tmp_path: Path) -> None:
    spes = init(tmp_path, "--preset", "spes", "--peers", "4")
    assert (spes.outer.optimizer, spes.sync.contribution) == ("fedavg", "parameters")
    assert (spes.sync.weights, spes.sync.forward) == ("equal", "full")
    assert spes.merge.every_rounds == 5 and spes.sync.experts_per_peer == 2
    assert 'contribution = "parameters"' in (tmp_path / "RUN.toml").read_text()
    diloco = init(tmp_path, "--preset", "diloco", "--force")
    assert diloco.sync.experts_per_peer == 8 and diloco.outer.optimizer == "nesterov"
    held = init(tmp_path, "--preset", "held", "--force")
    assert (held.sync.forward, held.sync.router_rows) == ("held", "expert")
    streaming = init(tmp_path, "--preset", "streaming", "--force")
    assert streaming.stream.overlap and streaming.stream.groups == 2


def test_finer_experts_are_more_and_narrower_and_as_much_work(tmp_path: Path) -> None:
    whole = init(tmp_path, "--experts", "4")
    finer = init(tmp_path, "--experts", "4", "--finer", "3", "--force")
    assert (finer.model.num_experts, finer.model.top_k, finer.sync.experts_per_peer) == (12, 6, 6)
    assert finer.model.d_ff * finer.model.num_experts == whole.model.d_ff * 4


def test_an_unknown_preset_is_refused_with_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "RUN.toml")
    assert run_command_line(["run", "init", path, "--preset", "spse"]) == exit_codes.USAGE
    assert "did you mean spes?" in capsys.readouterr().err
    with pytest.raises(SwarmError, match="diloco"):
        preset("spse", RunManifest())


def test_json_names_the_files_and_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = init(tmp_path, "--json")
    assert json.loads(capsys.readouterr().out) == {
        "manifest": str(tmp_path / "RUN.toml"),
        "key": str(tmp_path / "RUN.key"),
        "name": "RUN",
        "run_id": manifest.run_id.hex(),
    }
