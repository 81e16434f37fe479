"""The run manifest: what it refuses, what it writes, and that the run id never drifts."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from swarm.config import SECTIONS, RunManifest
from swarm.errors import Code, SwarmError

GOLDEN_RUN_ID = "de68b0832dadd3d749ae18f4616fb577514dd75392e9ff4bc0ac06eacaeba3ec"


def refused(text: str, path: Path) -> SwarmError:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SwarmError) as caught:
        RunManifest.load(path)
    return caught.value


@pytest.mark.parametrize(
    ("text", "named", "hint"),
    [
        ("[training]\nbatchsize = 4", "training.batchsize", "training.batch_size"),
        ("[sync]\ncodecs = 'fp32'", "sync.codecs", "sync.codec"),
        ("nam = 'x'", "nam", "name"),
        ("[trainig]\nbatch_size = 4", "trainig", "training"),
        ("zzzzzz = 1", "zzzzzz", "known: format, name"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(
    text: str, named: str, hint: str, tmp_path: Path
) -> None:
    error = refused(text, tmp_path / "run.toml")
    assert error.code is Code.CONFIG_UNKNOWN_KEY
    assert named in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[training]\nbatch_size = 'many'", "training.batch_size"),
        ("[training]\nbatch_size = true", "training.batch_size"),
        ("[training]\nbatch_size = 0", "training.batch_size"),
        ("[training]\nsequence_length = 100000", "training.sequence_length"),
        ("[sync]\nexperts_per_peer = 9", "sync.experts_per_peer"),
        ("[sync]\nforward = 'held'", "sync.router_rows"),
        ("[sync]\ncodec = 'zip'", "sync.codec"),
        ("[model]\nnum_heads = 5", "model."),
        ("[outer]\nmomentum = 1.0", "outer.momentum"),
        ("[sync]\ncontribution = 'parameters'\ncodec = 'int8'", "sync.codec"),
        ("[sync]\ncontribution = 'parameters'", "sync.aggregation"),
        ("[sync]\ncontribution = 'parameters'\naggregation = 'mean'", "outer.optimizer"),
        ("[stream]\ngroups = 7", "stream.groups"),
        ("[stream]\ngroups = 15", "stream.groups"),
        ("[stream]\ndelay_steps = 31", "stream.delay_steps"),
        ("[stream]\ncorrection = 'late'", "stream.correction"),
        ("[merge]\nstrength = 1.5", "merge.strength"),
        (
            "[merge]\nevery_rounds = 1\n[sync]\nforward = 'held'\nrouter_rows = 'expert'",
            "merge.every_rounds",
        ),
        ("[balance]\nown_factor = 0", "balance.own_factor"),
        ("[membership]\non_majority_lost = 'panic'", "membership.on_majority_lost"),
        ("model = 3", "model"),
        ("format = 2", "format"),
    ],
)
def test_a_bad_value_is_refused_with_the_name_of_its_field(
    text: str, named: str, tmp_path: Path
) -> None:
    error = refused(text, tmp_path / "run.toml")
    assert error.code is Code.CONFIG_INVALID
    assert named in error.message


@pytest.mark.parametrize("text", ["not toml at all [", "name = 'a'\nname = 'b'"])
def test_a_file_that_is_not_toml_is_unreadable(text: str, tmp_path: Path) -> None:
    assert refused(text, tmp_path / "run.toml").code is Code.CONFIG_UNREADABLE


def test_a_missing_file_and_a_binary_file_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.toml", "binary.toml"):
        with pytest.raises(SwarmError) as caught:
            RunManifest.load(tmp_path / name)
        assert caught.value.code is Code.CONFIG_UNREADABLE
        assert name in caught.value.message


LADDER = ["heartbeat_s", "chunk_s", "attempt_s", "round_s", "join_s", "lease_s"]


@pytest.mark.parametrize(("low", "high"), list(itertools.pairwise(LADDER)))
def test_each_timeout_must_be_below_the_next(low: str, high: str, tmp_path: Path) -> None:
    limit = getattr(RunManifest().timeouts, high)
    error = refused(f"[timeouts]\n{low} = {limit}", tmp_path / "run.toml")
    assert error.code is Code.CONFIG_INVALID
    assert f"timeouts.{low}" in error.message
    assert f"timeouts.{high}" in error.message


@pytest.mark.parametrize("name", ['say "hello" \\ бег', "gesetze 😀", "two\nlines", "\x7f\x00"])
def test_written_and_read_again_a_manifest_is_the_same(name: str, tmp_path: Path) -> None:
    manifest = dataclasses.replace(RunManifest(), name=name)
    path = tmp_path / "run.toml"
    path.write_text(manifest.to_toml(), encoding="utf-8")
    assert RunManifest.load(path) == manifest
    assert RunManifest.load(path).run_id == manifest.run_id


def test_every_field_is_written_with_a_comment() -> None:
    text = RunManifest().to_toml()
    for part in [RunManifest(), *(getattr(RunManifest(), name) for name in SECTIONS)]:
        for field in dataclasses.fields(part):
            if field.name not in SECTIONS:
                assert f"# {field.metadata['doc']}\n{field.name} = " in text


def test_an_integer_is_accepted_where_a_float_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[timeouts]\nlease_s = 300", encoding="utf-8")
    assert RunManifest.load(path).timeouts.lease_s == 300.0


def test_the_run_id_is_the_same_today_and_in_every_version() -> None:
    assert RunManifest().run_id.hex() == GOLDEN_RUN_ID


def test_any_changed_field_is_another_run() -> None:
    base = RunManifest()
    changed = [
        dataclasses.replace(base, name="other"),
        dataclasses.replace(base, training=dataclasses.replace(base.training, batch_size=17)),
        dataclasses.replace(base, genesis=dataclasses.replace(base.genesis, seed=1)),
    ]
    assert len({m.run_id for m in [base, *changed]}) == len(changed) + 1
