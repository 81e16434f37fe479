"""An owner's commands, in one process: a base from a swarm's model, an expert with a budget."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from node import exit_codes
from node.cli import run_command_line
from node.experts.folder import training_path
from swarm.assembly import assemble, load_model
from swarm.config import RunManifest, SyncConfig, TrainingConfig
from swarm.experts.artifact import load_expert
from swarm.experts.base import load_base
from swarm.model.config import ModelConfig
from swarm.model.fragments import FragmentLayout, fragment_hash, initial_fragment

MODEL = ModelConfig(
    d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=24, num_experts=3,
    context_length=32,
)  # fmt: skip
RUN = RunManifest(
    model=MODEL,
    sync=SyncConfig(experts_per_peer=1),
    training=TrainingConfig(sequence_length=32),
)


def text(path: Path, letters: str, seed: int) -> str:
    words = np.random.default_rng(seed).choice(list(letters + " "), (200, 60))
    lines = [json.dumps({"text": "".join(row)}) + "\n" for row in words]
    path.write_text("".join(lines))
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base of a run's model in `base`, an owner's text in `own.jsonl`."""
    place = tmp_path_factory.mktemp("owner")
    layout = FragmentLayout.of(MODEL, RUN.sync.trunk_fragments, RUN.sync.router_rows)
    fragments = {name: initial_fragment(MODEL, layout, name, 0) for name in layout.names}
    hashes = {name: fragment_hash(values) for name, values in fragments.items()}
    assemble(RUN, fragments, hashes, place / "model", {"commit_id": "ab" * 32, "round": 3})
    public = text(place / "public.jsonl", "abcdefgh0123", 0)
    text(place / "own.jsonl", "abcdefgh", 1)
    words = ["--from", f"{place}/model", "--data", public, "--embedding", "ngrams"]
    assert run_command_line(["base", "make", f"{place}/base", *words]) == 0
    return place


def train(place: Path, *more: str) -> int:
    return run_command_line(
        ["expert", "train", "--base", f"{place}/base", "--data", f"{place}/own.jsonl",
         "--steps", "3", "--batch-size", "4", "--sequence-length", "16", *more]
    )  # fmt: skip


def test_an_expert_grows_from_a_swarms_model(place: Path) -> None:
    base = load_base(place / "base")
    assert base.provenance["run_id"] == RUN.run_id.hex()
    assert base.size == 3
    assert base.space.ngrams_LFD is not None
    assert train(place, "--domain", "law", "--out", f"{place}/law") == 0
    expert = load_expert(place / "law", base)
    for layer, origin in enumerate(expert.tensors.origins):  # not far from the run's expert yet
        began = base.model.moe_layers[layer].experts[str(origin)].gate_proj.weight.numpy()
        moved = expert.tensors.matrices(base, layer)[0] - began
        assert 0 < np.linalg.norm(moved) < 0.5 * np.linalg.norm(began)


def test_a_router_is_tuned_on_proxy_text_and_on_public_text(place: Path) -> None:
    assert train(place, "--domain", "own", "--out", f"{place}/own") == 0
    proxy = text(place / "proxy.jsonl", "abcdefgh", 2)
    words = ["assemble", "--base", f"{place}/base", "--expert", f"{place}/own"]
    tuning = ["--tune-router", proxy, "--tune-router", f"{place}/public.jsonl", "--tune-steps", "2"]
    assert run_command_line([*words, "--out", f"{place}/plain"]) == 0
    assert run_command_line([*words, *tuning, "--out", f"{place}/tuned"]) == 0
    plain, tuned = (load_model(place / name)[0].state_dict() for name in ("plain", "tuned"))
    moved = {name for name in plain if not np.array_equal(plain[name], tuned[name])}
    assert moved and all(".gate." in name for name in moved)


def test_what_was_spent_is_on_the_card_and_the_text_is_kept_from_others(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "private"
    budget = ["--dp-epsilon", "8", "--dp-delta", "1e-4", "--max-grad-norm", "0.5"]
    capsys.readouterr()
    assert train(place, "--domain", "law", "--out", f"{out}", *budget, "--json") == 0
    privacy = json.loads(capsys.readouterr().out)["card"]["privacy"]
    assert 0 < privacy["epsilon"] <= 8
    assert (privacy["delta"], privacy["max_grad_norm"]) == (1e-4, 0.5)
    assert privacy["sample_rate"] == 4 / privacy["records"]
    assert run_command_line(["expert", "show", f"{out}"]) == 0
    shown = capsys.readouterr().out
    assert f"epsilon {privacy['epsilon']:g}" in shown
    assert "no guarantee" not in shown
    assert stat.S_IMODE(training_path(out).stat().st_mode) == 0o700


@pytest.mark.parametrize("term", [("--dp-delta", "1e-4"), ("--max-grad-norm", "0.5")])
def test_terms_of_a_budget_that_is_not_given_are_refused_before_anything_is_trained(
    term: tuple[str, str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "leaking"
    assert train(place, "--domain", "law", "--out", f"{out}", *term) == exit_codes.USAGE
    assert "need --dp-epsilon" in capsys.readouterr().err
    assert not training_path(out).exists()


def test_a_card_that_could_not_be_signed_is_refused_before_anything_is_trained(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "long"
    assert train(place, "--domain", "x" * 100, "--out", f"{out}") != 0
    assert "CARD_INVALID" in capsys.readouterr().err
    assert list(training_path(out).iterdir()) == []
