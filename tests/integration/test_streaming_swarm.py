"""Real nodes that train the next round while one is averaged, with fragments in turn and int8."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

from tiny_run import tiny_manifest, tiny_peers

from node.commands.run import found_run
from node.testnet import LocalTestnet
from swarm.config import StreamConfig
from swarm.wire.node_pb2 import RoundSummary

LIMIT_S = 120


def wait_for_round(testnet: LocalTestnet, number: int) -> list[list[RoundSummary]]:
    """Histories of all nodes, once each has come to the round."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        testnet.raise_if_ended()
        histories = [node.history(0) for node in testnet.nodes]
        if all(history and history[-1].round >= number for history in histories):
            return histories
        assert time.monotonic() < deadline, histories
        time.sleep(0.1)


def test_rounds_ahead_end_with_the_same_bits_also_when_a_worker_is_killed_in_one(
    tmp_path: Path,
) -> None:
    manifest = tiny_manifest(tmp_path / "RUN.toml", 2, inner_steps=40)
    stream = StreamConfig(groups=2, overlap=True, delay_steps=2, correction="delayed")
    sync = dataclasses.replace(manifest.sync, codec="int8", experts_per_peer=2)
    found_run(dataclasses.replace(manifest, stream=stream, sync=sync), tmp_path / "RUN.toml")
    with LocalTestnet(tmp_path / "RUN.toml", tiny_peers(tmp_path, 2), tmp_path) as testnet:
        testnet.start()
        before = wait_for_round(testnet, 4)[0][-1].round
        status = testnet.nodes[1].status()
        assert status is not None
        os.kill(status.worker_pid, signal.SIGKILL)
        histories = wait_for_round(testnet, before + 8)
        assert testnet.nodes[1].status().worker_pid != status.worker_pid
        told = [{s.round: s for s in history} for history in histories]
        common = sorted(told[0].keys() & told[1].keys())
        assert len(common) >= before + 8
        for number in common:
            here, there = told[0][number], told[1][number]
            assert (here.commit_id, here.state_root) == (there.commit_id, there.state_root)
        last = told[1][common[-1]]
        assert last.outcome == "full" and len(last.contributors) == 2
        assert "update_agreement" in last.metrics and 0 < last.metrics["routing_entropy"] <= 1
