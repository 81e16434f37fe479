"""Assembly: only verified fragments become a model, whole or not at all, always the same bytes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from swarm.assembly import assemble, load_assembled
from swarm.config import RunManifest, SyncConfig
from swarm.errors import Code, SwarmError
from swarm.model.config import ModelConfig
from swarm.model.fragment_io import write_fragment
from swarm.model.fragments import (
    FragmentLayout,
    fragment_hash,
    initial_fragment,
    state_root,
)
from swarm.model.hf import CONFIG, WEIGHTS
from swarm.model.transformer import Transformer

MODEL = ModelConfig(d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=24, num_experts=3)
TRUNK_ROWS = RunManifest(model=MODEL, sync=SyncConfig(experts_per_peer=1))
EXPERT_ROWS = RunManifest(
    model=MODEL, sync=SyncConfig(experts_per_peer=1, router_rows="expert", trunk_fragments=1)
)
PROVENANCE = {"commit_id": "ab" * 32, "round": 17}
FILES = {CONFIG, WEIGHTS, "expertswarm.json", "tokenizer.json", "tokenizer_config.json"}


def layout_of(manifest: RunManifest) -> FragmentLayout:
    sync = manifest.sync
    return FragmentLayout.of(manifest.model, sync.trunk_fragments, sync.router_rows)


def state(manifest: RunManifest = TRUNK_ROWS, seed: int = 0):
    layout = layout_of(manifest)
    fragments = {n: initial_fragment(manifest.model, layout, n, seed) for n in layout.names}
    return fragments, {name: fragment_hash(values) for name, values in fragments.items()}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("manifest", [TRUNK_ROWS, EXPERT_ROWS])
def test_assembled_model_is_the_model_of_the_fragments(tmp_path, manifest):
    fragments, hashes = state(manifest)
    metadata = assemble(manifest, fragments, hashes, tmp_path / "deep" / "model", PROVENANCE)
    model, read_back = load_assembled(tmp_path / "deep" / "model")
    assert read_back == metadata
    assert metadata["run_id"] == manifest.run_id.hex()
    assert metadata["provenance"] == PROVENANCE
    assert metadata["tokenizer"] == "bytes"
    assert metadata["state_root"] == state_root(hashes).hex()
    assert metadata["fragments"] == {name: value.hex() for name, value in hashes.items()}
    expected = Transformer(manifest.model, seed=None)
    for name, values in fragments.items():
        write_fragment(expected, layout_of(manifest), name, values)
    tokens = torch.arange(20)[None]
    assert torch.equal(model(tokens).logits_BTV, expected(tokens).logits_BTV)


def test_equal_fragments_give_equal_bytes_whatever_their_order(tmp_path):
    fragments, hashes = state()
    assemble(TRUNK_ROWS, fragments, hashes, tmp_path / "a", PROVENANCE)
    turned = dict(reversed(fragments.items()))
    assemble(TRUNK_ROWS, turned, dict(reversed(hashes.items())), tmp_path / "b", PROVENANCE)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a").keys() == FILES


def flip(fragments, hashes):
    fragments["expert.1"] = fragments["expert.1"].copy()
    fragments["expert.1"][5] += 1


def shorten(fragments, hashes):
    fragments["expert.1"] = fragments["expert.1"][:-1].copy()
    hashes["expert.1"] = fragment_hash(fragments["expert.1"])


def other_type(fragments, hashes):
    fragments["expert.1"] = fragments["expert.1"].astype(np.float64)


def swap(fragments, hashes):
    fragments["expert.1"] = fragments["expert.2"]


@pytest.mark.parametrize("damage", [flip, shorten, other_type, swap])
def test_corrupt_fragment_is_named_and_nothing_is_written(tmp_path, damage):
    fragments, hashes = state()
    damage(fragments, hashes)
    with pytest.raises(SwarmError, match=r"expert\.1") as caught:
        assemble(TRUNK_ROWS, fragments, hashes, tmp_path / "model", PROVENANCE)
    assert caught.value.code is Code.FRAGMENT_CORRUPT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("which", [0, 1])
def test_missing_fragment_or_hash_is_named(tmp_path, which):
    given = state()
    del given[which]["trunk.1"]
    with pytest.raises(SwarmError, match=r"trunk\.1") as caught:
        assemble(TRUNK_ROWS, *given, tmp_path / "model", PROVENANCE)
    assert caught.value.code is Code.FRAGMENT_UNAVAILABLE
    assert list(tmp_path.iterdir()) == []


def test_newer_model_replaces_the_older_one(tmp_path):
    assemble(TRUNK_ROWS, *state(seed=0), tmp_path / "model", PROVENANCE)
    (tmp_path / "model" / "notes.txt").write_text("of the older model")
    assemble(TRUNK_ROWS, *state(seed=1), tmp_path / "model", PROVENANCE)
    assemble(TRUNK_ROWS, *state(seed=1), tmp_path / "fresh", PROVENANCE)
    assert contents(tmp_path / "model") == contents(tmp_path / "fresh")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "fresh"}


def test_directory_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SwarmError) as caught:
        assemble(TRUNK_ROWS, *state(), tmp_path, PROVENANCE)
    assert caught.value.code is Code.DIR_NOT_WRITABLE
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_empty_directory_is_used(tmp_path):
    (tmp_path / "model").mkdir()
    assemble(TRUNK_ROWS, *state(), tmp_path / "model", PROVENANCE)
    assert contents(tmp_path / "model").keys() == FILES


def test_file_in_the_way_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(SwarmError) as caught:
            assemble(TRUNK_ROWS, *state(), out, PROVENANCE)
        assert caught.value.code is Code.DIR_NOT_WRITABLE


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_full_disk_leaves_the_older_model_and_no_rest(tmp_path, monkeypatch, fails_at):
    assemble(TRUNK_ROWS, *state(seed=0), tmp_path / "model", PROVENANCE)
    before = contents(tmp_path / "model")
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SwarmError) as caught:
        assemble(TRUNK_ROWS, *state(seed=1), tmp_path / "model", PROVENANCE)
    assert caught.value.code is Code.DISK_FULL
    assert contents(tmp_path / "model") == before
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


@pytest.mark.parametrize("fails_at", [1, 2])
def test_failing_rename_leaves_the_older_model(tmp_path, monkeypatch, fails_at):
    assemble(TRUNK_ROWS, *state(seed=0), tmp_path / "model", PROVENANCE)
    before = contents(tmp_path / "model")
    rename, calls = Path.rename, []

    def failing(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == fails_at:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(SwarmError) as caught:
        assemble(TRUNK_ROWS, *state(seed=1), tmp_path / "model", PROVENANCE)
    assert caught.value.code is Code.DIR_NOT_WRITABLE
    assert contents(tmp_path / "model") == before


def test_changed_weight_is_found_when_the_model_is_loaded(tmp_path):
    assemble(TRUNK_ROWS, *state(), tmp_path / "model", PROVENANCE)
    weights = tmp_path / "model" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(SwarmError) as caught:
        load_assembled(tmp_path / "model")
    assert caught.value.code is Code.FRAGMENT_CORRUPT


def edit(directory: Path, **changes: object) -> None:
    path = directory / "expertswarm.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "expertswarm.json").unlink(),
        lambda d: (d / "expertswarm.json").write_text("{"),
        lambda d: (d / "expertswarm.json").write_text("[]"),
        lambda d: edit(d, format=2),
        lambda d: edit(d, trunk_fragments=99),
        lambda d: edit(d, trunk_fragments="2"),
        lambda d: edit(d, fragments={}),
        lambda d: edit(d, fragments={"trunk.0": "no hex"}),
        lambda d: (d / WEIGHTS).unlink(),
    ],
)
def test_unreadable_directory_is_a_typed_error(tmp_path, damage):
    assemble(TRUNK_ROWS, *state(), tmp_path / "model", PROVENANCE)
    damage(tmp_path / "model")
    with pytest.raises(SwarmError) as caught:
        load_assembled(tmp_path / "model")
    assert caught.value.code is Code.MODEL_UNREADABLE
    assert caught.value.hint
