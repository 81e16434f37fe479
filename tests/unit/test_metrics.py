"""`/metrics` says what the status says, in OpenMetrics; `/healthz` whether the node runs."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

import pytest
from dashboard_looks import IDS, status
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from node.metrics.families import CONTENT_TYPE, openmetrics
from node.metrics.server import health, metrics_server
from node.network_options import metrics_address
from swarm.errors import Code, SwarmError
from swarm.wire.node_pb2 import StatusReply

BOARD = Path(__file__).resolve().parents[2] / "docker/grafana/dashboards/expertswarm.json"


def samples(text: str) -> dict[tuple[str, str], float]:
    """(name, labels as text) -> value."""
    return {
        (s.name, ",".join(s.labels[k] for k in sorted(s.labels))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_metrics_are_openmetrics_and_say_what_the_status_says() -> None:
    text = openmetrics(status(dead=True)).decode()
    assert text.endswith("# EOF\n")
    found = samples(text)
    assert found["expertswarm_round", ""] == 25
    assert found["expertswarm_sent_bytes_total", ""] == 62_500_000
    assert found["expertswarm_state", "TRAINING"] == 1
    assert found["expertswarm_state", "AVERAGING"] == 0
    assert found["expertswarm_peers", ""] == 3
    assert found["expertswarm_members", ""] == 4
    assert found["expertswarm_swarm_tokens_per_second", ""] == 3_400
    assert found["expertswarm_peer_up", f"python,cleo,relay,{IDS[2]}"] == 0
    assert found["expertswarm_peer_last_counted_round", f"bert,{IDS[1]}"] == 24
    assert found["expertswarm_expert_holders", "7"] == 0
    assert found["expertswarm_refused_messages_total", "MESSAGE_UNSIGNED"] == 2
    assert found["expertswarm_bandwidth_bits_per_second", "up"] == 40e6
    assert ("expertswarm_bandwidth_bits_per_second", "down") not in found


def test_a_node_that_has_just_started_has_metrics_too() -> None:
    assert (
        samples(openmetrics(StatusReply(state="STARTING")).decode())["expertswarm_round", ""] == 0
    )


def test_a_node_that_waits_is_healthy_and_one_that_ends_is_not() -> None:
    assert health(StatusReply(state="JOINING", reason="alone"))[0] is HTTPStatus.OK
    assert health(StatusReply(state="FINISHING"))[0] is HTTPStatus.SERVICE_UNAVAILABLE
    assert health(None)[0] is HTTPStatus.SERVICE_UNAVAILABLE


def get(url: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, "", error.read()


async def snapshot() -> StatusReply:
    return status()


def test_they_are_served_over_http_while_the_daemon_runs() -> None:
    said: list[str] = []

    async def scrape() -> None:
        with metrics_server(("127.0.0.1", 0), snapshot, said.append):
            url = said[0].removeprefix("metrics: ")
            root = url.removesuffix("/metrics")
            code, kind, body = await asyncio.to_thread(get, url)
            assert (code, kind, body) == (200, CONTENT_TYPE, openmetrics(status()))
            code, _, body = await asyncio.to_thread(get, f"{root}/healthz")
            assert (code, json.loads(body)["state"]) == (200, "TRAINING")
            code, _, _ = await asyncio.to_thread(get, f"{root}/other")
            assert code == 404
            port = int(root.rpartition(":")[2])
            with pytest.raises(SwarmError) as caught:
                with metrics_server(("127.0.0.1", port), snapshot, said.append):
                    raise AssertionError("two servers on one port")
            assert caught.value.code is Code.PORT_IN_USE
        with pytest.raises(urllib.error.URLError):
            await asyncio.to_thread(get, url)

    asyncio.run(scrape())


def test_clients_that_send_nothing_cost_a_bounded_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.metrics.server.MOST_CLIENTS", 3)
    said: list[str] = []

    def crowd(address: tuple[str, int]) -> None:
        with contextlib.ExitStack() as open_ones:
            silent = [
                open_ones.enter_context(socket.create_connection(address, 5)) for _ in range(6)
            ]
            refused = silent[3:]
            assert [one.recv(1) for one in refused] == [b"", b"", b""]
            assert threading.active_count() - before <= 3

    async def scrape() -> None:
        with metrics_server(("127.0.0.1", 0), snapshot, said.append):
            url = said[0].removeprefix("metrics: ")
            host, _, port = url.removeprefix("http://").removesuffix("/metrics").partition(":")
            await asyncio.to_thread(crowd, (host, int(port)))
            deadline_s = time.monotonic() + 10
            while True:  # the silent ones have hung up, which their threads notice
                with contextlib.suppress(OSError, http.client.HTTPException):
                    code, _, _ = await asyncio.to_thread(get, url)
                    assert code == 200
                    return
                assert time.monotonic() < deadline_s

    before = threading.active_count() + 2  # the server's thread, and the one that crowds
    asyncio.run(scrape())


def test_every_metric_on_the_grafana_board_is_one_that_a_node_has() -> None:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    queries = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    named = set(re.findall(r"\bexpertswarm_\w+(?=[{ )\[]|$)", " ".join(queries)))
    known = {name for name, _ in samples(openmetrics(status()).decode())}
    assert len(named) > 10
    assert named <= known


def test_a_port_alone_is_for_this_machine_alone() -> None:
    assert metrics_address("9100") == ("127.0.0.1", 9100)
    assert metrics_address("0.0.0.0:9100") == ("0.0.0.0", 9100)
