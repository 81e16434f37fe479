"""The demo as a newcomer runs it: every promise of `node demo` from its own results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from node.demo.settings import DOMAINS

LIMIT_S = 900


@pytest.mark.heavy
@pytest.mark.timeout(LIMIT_S + 60)
def test_the_demo_succeeds_and_its_results_show_it(tmp_path: Path) -> None:
    results, out = tmp_path / "out.json", tmp_path / "out"
    command = [sys.executable, "-m", "node", "demo", "--plain"]
    command += ["--json", str(results), "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
    found = json.loads(results.read_text())
    assert found["ok"] is True
    assert found["problems"] == []

    assert tuple(found["domains"]) == DOMAINS
    for scores in found["domains"].values():
        assert scores["assembled"] < scores["initial"]
        assert tuple(scores["solo"]) == DOMAINS
    mean = sum(s["assembled"] for s in found["domains"].values()) / len(DOMAINS)
    for peer in DOMAINS:
        assert mean < sum(s["solo"][peer] for s in found["domains"].values()) / len(DOMAINS)

    assert all(item["hashes_equal"] for item in found["rounds"])
    assert sum(item["peers_compared"] == len(DOMAINS) for item in found["rounds"]) >= 3
    assert found["kill"]["voted_again"] is True
    assert found["kill"]["rejoined_after_s"] > found["kill"]["restarted_after_s"] > 0
    assert all(min(b["sent"], b["received"]) > 0 for b in found["bytes"].values())
    for shares in found["routing"].values():
        assert sum(shares) == pytest.approx(1.0)
    assert all(sample["text"] for sample in found["samples"].values())

    made = json.loads((out / "assembled" / "expertswarm.json").read_text())
    assert made["run_id"] == found["settings"]["run_id"]
    assert made["provenance"]["round"] >= found["rounds"][-1]["round"]
