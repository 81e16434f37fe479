"""A run that begins with an assembly of owners' experts instead of a seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import msgpack
import pytest
import torch
from owners import LETTERS, signed_card, tiny_base, trained

from node import exit_codes
from node.cli import run_command_line
from swarm.assembly import assemble, assemble_experts, load_model, save_assembly
from swarm.assembly.isolated import Offer
from swarm.collective.state import version_message
from swarm.config import GenesisConfig, RunManifest
from swarm.errors import Code, SwarmError
from swarm.experts.artifact import Expert
from swarm.identity import Identity
from swarm.model.config import ModelConfig
from swarm.model.transformer import Transformer
from swarm.training.genesis import read_genesis
from swarm.training.policy import RunPolicy

TOKENS_BT = torch.tensor([[97, 98, 32, 50, 51, 32, 99, 100]])
UNUSED: dict[str, object] = {}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An assembly, one of its experts of low rank, and a run that begins with it."""
    place = tmp_path_factory.mktemp("begun")
    offers = []
    for domain in LETTERS:
        tensors = trained(domain, rank=4 if domain == "sums" else None)
        signed = signed_card(Identity.generate(), domain, tensors, tensors.pack())
        offers.append(Offer(signed, Expert(signed.id, domain, tensors)))
    save_assembly(assemble_experts(tiny_base(), offers), place / "assembly")
    words = ["run", "init", f"{place}/RUN.toml", "--from", f"{place}/assembly", "--peers", "1"]
    assert run_command_line(words) == exit_codes.OK
    return place


def logits(model: Transformer) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS_BT).logits_BTV


def refusal(action: object) -> SwarmError:
    with pytest.raises(SwarmError) as caught:
        action()  # type: ignore[operator]
    return caught.value


def test_what_the_run_begins_with_computes_what_the_assembly_did(place: Path) -> None:
    manifest = RunManifest.load(place / "RUN.toml")
    policy = RunPolicy(manifest)
    policy.begin(read_genesis(place / "RUN.genesis", manifest))
    states = policy.check_genesis()
    fragments = {name: state.theta for name, state in states.items()}
    hashes = {name: state.theta_hash for name, state in states.items()}
    assemble(manifest, fragments, hashes, place / "again", UNUSED)
    begun, _ = load_model(place / "again")
    made, _ = load_model(place / "assembly")
    assert begun.config.router_bias and begun.moe_layers[0].gate.bias["0"].item() > 0  # the margin
    assert torch.equal(logits(begun), logits(made))


def test_a_peer_without_the_weights_knows_what_they_are(place: Path) -> None:
    manifest = RunManifest.load(place / "RUN.toml")
    without, having = RunPolicy(manifest), RunPolicy(manifest)
    having.begin(read_genesis(place / "RUN.genesis", manifest))
    for name in manifest_names(manifest):
        known = version_message(name, having.initial(name))
        assert without.initial_version(name) == having.initial_version(name) == known
    assert refusal(lambda: without.initial("trunk.0")).code is Code.FRAGMENT_UNAVAILABLE


def manifest_names(manifest: RunManifest) -> list[str]:
    return list(RunPolicy(manifest).numel)


def test_weights_that_the_manifest_does_not_name_are_refused(place: Path, tmp_path: Path) -> None:
    manifest = RunManifest.load(place / "RUN.toml")
    first, *others = manifest.genesis.fragments
    renamed = (others[0], first, *others[1:])
    for fragments in (renamed, others, ("no hash", *others)):
        genesis = dataclasses.replace(manifest.genesis, fragments=tuple(fragments))
        error = refusal(lambda g=genesis: RunPolicy(dataclasses.replace(manifest, genesis=g)))
        assert error.code is Code.CONFIG_INVALID
    data = bytearray((place / "RUN.genesis").read_bytes())
    data[-1] ^= 1
    (tmp_path / "RUN.genesis").write_bytes(data)
    error = refusal(lambda: read_genesis(tmp_path / "RUN.genesis", manifest))
    assert error.code is Code.CHECKPOINT_CORRUPT


def test_the_weights_are_in_the_runs_id_and_runs_that_begin_with_a_seed_keep_theirs(
    place: Path,
) -> None:
    manifest = RunManifest.load(place / "RUN.toml")
    plain = dataclasses.replace(manifest, genesis=GenesisConfig(), model=ModelConfig())
    # What a version that knew neither field made of this manifest.
    known = dataclasses.asdict(plain)
    del known["model"]["router_bias"], known["genesis"]["fragments"]
    packed = msgpack.packb(known, use_bin_type=True)
    assert plain.run_id == hashlib.sha256(b"expertswarm-manifest" + packed).digest()
    genesis = dataclasses.replace(manifest.genesis, fragments=())
    assert dataclasses.replace(manifest, genesis=genesis).run_id != manifest.run_id


def test_the_manifest_is_found_in_order_and_the_model_says_what_experts_there_are(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["run", "validate", f"{place}/RUN.toml", "--json"]) == exit_codes.OK
    facts = json.loads(capsys.readouterr().out)
    model, _ = load_model(place / "assembly")
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    words = ["run", "init", f"{tmp_path}/RUN.toml", "--from", f"{place}/assembly"]
    assert run_command_line([*words, "--experts", "4"]) == exit_codes.USAGE
    assert list(tmp_path.iterdir()) == []
