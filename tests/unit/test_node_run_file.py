"""A run in one file: exported, checked, and imported into a directory that a node starts from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node import exit_codes
from node.cli import run_command_line
from node.commands.run import found_run
from node.node_files import load_fragments, node_lock, save_fragments
from node.run_file import export_run, import_run, read_run
from swarm.collective.consensus import commit_id, make_ballot, vote_text
from swarm.collective.ledger import Ledger
from swarm.collective.state import version_message
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.experts.store import FragmentStore
from swarm.identity import Identity
from swarm.model.config import ModelConfig
from swarm.training.policy import RunPolicy
from swarm.wire import collective_pb2 as pb

MODEL = ModelConfig(d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=16, num_experts=2)


@pytest.fixture
def manifest(tmp_path: Path) -> RunManifest:
    return found_run(RunManifest(name="tiny", model=MODEL), tmp_path / "RUN.toml")


def node_directory(place: Path, manifest: RunManifest, without: tuple[str, ...] = ()) -> Path:
    """A directory as a node leaves it that founded the run alone."""
    identity, policy = Identity.generate(), RunPolicy(manifest)
    states = policy.check_genesis()
    record = pb.RoundRecord(
        run_id=manifest.run_id, branch=b"branch", electorate=[identity.peer_id], unanimous=True,
        roster=[identity.peer_id], outcome=pb.FOUNDED, proposer=identity.peer_id, attempts=1,
    )  # fmt: skip
    for name in sorted(states):
        record.fragments.add(state=version_message(name, states[name]), numel=policy.numel[name])
    data, ballot = record.SerializeToString(), make_ballot((1, identity.peer_id))
    vote = pb.Vote(
        voter=identity.peer_id,
        ballot=ballot,
        record_sha256=commit_id(data),
        signature=identity.sign(vote_text(manifest.run_id, ballot, data)),
    )
    directory = place / "node"
    directory.mkdir()
    Ledger(directory).save_commit(pb.Commit(record=data, votes=[vote]))
    kept = {name: state for name, state in states.items() if name not in without}
    save_fragments(FragmentStore(directory / "fragments"), kept)
    return directory


def test_what_was_exported_is_what_a_node_starts_from(
    tmp_path: Path, manifest: RunManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    source, file, target = node_directory(tmp_path, manifest), tmp_path / "f.run", tmp_path / "new"
    run = ["--run", str(tmp_path / "RUN.toml")]
    words = ["run", "export", str(file), *run, "--dir", str(source)]
    assert run_command_line(words) == exit_codes.OK
    other = ["--run", str(tmp_path / "COPY.toml"), "--dir", str(target), "--json"]
    assert run_command_line(["run", "import", str(file), *other]) == exit_codes.OK
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["round"] == 0 and said["missing"] == []
    assert RunManifest.load(tmp_path / "COPY.toml") == manifest
    ledger = Ledger(target)
    assert ledger.commit_id == Ledger(source).commit_id
    found = load_fragments(FragmentStore(target / "fragments"), ledger.record)
    assert found.keys() == RunPolicy(manifest).numel.keys()
    assert {path.name for path in target.iterdir()} == {
        "commit.bin", "commits", "fragments", "node.lock",
    }  # fmt: skip


def test_a_node_that_does_not_keep_all_exports_what_it_has(
    tmp_path: Path, manifest: RunManifest
) -> None:
    source = node_directory(tmp_path, manifest, without=("expert.1",))
    done = export_run(source, manifest, tmp_path / "f.run")
    assert done.missing == ["expert.1"] == read_run(tmp_path / "f.run").missing


def test_a_damaged_or_forged_file_is_refused(tmp_path: Path, manifest: RunManifest) -> None:
    source, file = node_directory(tmp_path, manifest), tmp_path / "f.run"
    export_run(source, manifest, file)
    whole = file.read_bytes()
    spoiled = {
        "a value": whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:],
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "another run": whole.replace(b'name = \\"tiny\\"', b'name = \\"tony\\"'),
    }
    assert spoiled["another run"] != whole
    for what, data in spoiled.items():
        file.write_bytes(data)
        with pytest.raises(SwarmError) as caught:
            import_run(file, tmp_path / "new", tmp_path / "COPY.toml")
        wanted = Code.COMMIT_INVALID if what == "another run" else Code.CHECKPOINT_CORRUPT
        assert caught.value.code is wanted, what
        assert not (tmp_path / "new").exists() and not (tmp_path / "COPY.toml").exists()


def test_nothing_is_overwritten(tmp_path: Path, manifest: RunManifest) -> None:
    source, file = node_directory(tmp_path, manifest), tmp_path / "f.run"
    export_run(source, manifest, file)
    found_run(RunManifest(name="other", model=MODEL), tmp_path / "OTHER.toml")
    cases = [
        (source, "RUN.toml", Code.USAGE, "has a commit already"),
        (tmp_path / "new", "OTHER.toml", Code.USAGE, "another run"),
    ]
    for directory, name, code, words in cases:
        with pytest.raises(SwarmError, match=words) as caught:
            import_run(file, directory, tmp_path / name)
        assert caught.value.code is code
    with node_lock(tmp_path / "busy"), pytest.raises(SwarmError) as busy:
        import_run(file, tmp_path / "busy", tmp_path / "RUN.toml")
    assert busy.value.code is Code.NODE_ALREADY_RUNNING
    with pytest.raises(SwarmError, match="no commit") as empty:
        export_run(tmp_path / "nowhere", manifest, file)
    assert empty.value.code is Code.USAGE
