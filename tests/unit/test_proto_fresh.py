"""The committed stubs are those that proto/ makes, and they live beside hivemind's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WIRE = ROOT / "swarm" / "wire"

LOAD_TOGETHER = """
import hivemind.proto.averaging_pb2, hivemind.proto.dht_pb2, hivemind.proto.p2pd_pb2
import hivemind.proto.runtime_pb2, hivemind.proto.auth_pb2
from swarm.wire import collective_pb2, control_pb2, data_pb2, membership_pb2, node_pb2
from swarm.wire import node_pb2_grpc, volunteer_pb2, volunteer_pb2_grpc
plan = collective_pb2.Plan(round=7, electorate=["a", "b"])
assert collective_pb2.Plan.FromString(plan.SerializeToString()) == plan
print("loaded")
"""


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_stubs_are_what_the_proto_files_make(tmp_path: Path) -> None:
    made = run_python("proto/generate.py", str(tmp_path))
    assert made.returncode == 0, made.stderr
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in WIRE.glob("*_pb2*.py*")}
    assert sorted(fresh) == sorted(committed)
    stale = [name for name in fresh if fresh[name] != committed[name]]
    assert not stale, f"stale stubs {stale}; run: make proto"


def test_stubs_load_in_one_process_with_those_of_hivemind() -> None:
    loaded = run_python("-W", "error::UserWarning:google", "-c", LOAD_TOGETHER)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip() == "loaded"
