"""A relay node none of whose friends answers: it serves, says so, and meets them when they come."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.integration.tiny_run import tiny_manifest
from tests.nat.lab_node import LabNodes
from tests.nat.netlab import Lab

MAX_RESIDENT = 150 << 20  # bytes: without torch, without a model


def test_a_relay_starts_although_the_others_are_gone_and_meets_them_when_they_are_back(
    lab: Lab, tmp_path: Path
) -> None:
    tiny_manifest(tmp_path / "RUN.toml", peers=2)
    relays = LabNodes(lab, tmp_path)
    try:
        relays.relay("pub1")
        address = relays.address("pub1")
        relays["pub1"].kill()
        relays.relay("pub2", address)
        second = relays["pub2"]
        second.wait(lambda s: s.state == "RELAYING", "service although it is alone", 20)
        second.wait(lambda s: s.company == "isolated", "word that nobody answers", 15)
        relays.relay("pub1")
        second.wait(lambda s: s.company == "together", "meeting with the other", 20)
        second.wait(lambda s: sum(p.alive for p in s.peers) == 2, "list of both", 20)
        status = second.status()
        assert status is not None and status.worker_pid == 0
        assert psutil.Process(status.pid).memory_info().rss < MAX_RESIDENT
    finally:
        relays.stop()
