"""A node's status as OpenMetrics. Pure; names and units follow https://prometheus.io/docs/practices.

Every number is one of `StatusReply`, so that `/metrics` and `node status --json` never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from node.daemon_status import State
from node.status_view import short_id
from swarm.wire.node_pb2 import StatusReply

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREFIX = "expertswarm"


def openmetrics(status: StatusReply) -> bytes:
    """The text that `/metrics` answers with."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(metrics(status)))
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text


class _Once(Collector):
    """Hands out metrics that are already there."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = list(found)

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        return self._found


def metrics(status: StatusReply) -> Iterator[Metric]:
    """All metrics of a node."""
    yield from _node(status)
    yield from _run(status)
    yield from _peers(status)
    yield from _experts(status)


def _node(status: StatusReply) -> Iterator[Metric]:
    facts = {
        "run": status.run_name, "run_id": status.run_id, "peer_id": status.peer_id,
        "name": status.display_name, "domain": status.domain, "version": status.version,
        "role": status.role, "device": status.device,
    }  # fmt: skip
    yield InfoMetricFamily(f"{PREFIX}_node", "This node and its run", value=facts)
    states = {state.value: state.value == status.state for state in State}
    yield StateSetMetricFamily(f"{PREFIX}_state", "What the node does now", value=states)
    yield _gauge("state_since_seconds", "Unix time of its begin", status.since_ms / 1000)
    yield _gauge("step", "Inner steps done in this round", status.step)
    yield _gauge("steps_per_round", "Inner steps of a round of this node", status.steps_per_round)
    yield _gauge("training_loss", "Last training loss, nats per token", status.loss)
    yield _gauge("tokens_per_second", "Training speed of this node", status.tokens_per_second)
    yield _counter("trained_tokens", "Tokens trained since the node's start", status.tokens_trained)
    for way, count in (("sent", status.bytes_sent), ("received", status.bytes_received)):
        yield _counter(f"{way}_bytes", f"Bytes of updates and fragments {way}", count)
    rates = GaugeMetricFamily(
        f"{PREFIX}_bandwidth_bits_per_second", "Best measured rate; absent: not measured",
        labels=["direction"],
    )  # fmt: skip
    for direction, rate in (("up", status.upload_bps), ("down", status.download_bps)):
        if rate:
            rates.add_metric([direction], rate)
    yield rates
    refused = CounterMetricFamily(f"{PREFIX}_refused_messages", "Refused, by code", labels=["code"])
    for code in sorted(status.refused):
        refused.add_metric([code], status.refused[code])
    yield refused


def _run(status: StatusReply) -> Iterator[Metric]:
    yield _gauge("round", "Last committed round", status.round)
    yield _gauge(
        "last_counted_round",
        "Last round that counted this node's update",
        status.last_counted_round,
    )
    yield _gauge("committed_tokens", "Tokens in the run's commits", status.committed_tokens)
    alive = [peer for peer in status.peers if peer.alive]
    yield _gauge("peers", "Peers that answer, this node too", len(alive))
    yield _gauge("members", "Peers in the roster", sum(peer.in_roster for peer in status.peers))
    speed = sum(peer.tokens_per_second for peer in alive)
    yield _gauge("swarm_tokens_per_second", "Training speed of all peers that answer", speed)


def _peers(status: StatusReply) -> Iterator[Metric]:
    labels = ["peer", "name"]
    up = GaugeMetricFamily(f"{PREFIX}_peer_up", "1: it answers", labels=[*labels, "path", "domain"])
    speed = GaugeMetricFamily(f"{PREFIX}_peer_tokens_per_second", "As it says", labels=labels)
    counted = GaugeMetricFamily(
        f"{PREFIX}_peer_last_counted_round", "Last round that counted its update", labels=labels
    )
    for peer in status.peers:
        who = [peer.peer_id, peer.display_name or short_id(peer.peer_id)]
        up.add_metric([*who, peer.path, peer.domain], float(peer.alive))
        speed.add_metric(who, peer.tokens_per_second if peer.alive else 0.0)
        counted.add_metric(who, peer.last_counted_round)
    yield from (up, speed, counted)


def _experts(status: StatusReply) -> Iterator[Metric]:
    holders = GaugeMetricFamily(f"{PREFIX}_expert_holders", "Who train it", labels=["expert"])
    version = GaugeMetricFamily(f"{PREFIX}_expert_version", "Its version", labels=["expert"])
    load = GaugeMetricFamily(
        f"{PREFIX}_expert_load", "Its tokens in the last round, in even shares", labels=["expert"]
    )
    for row in status.experts:
        holders.add_metric([str(row.expert)], len(row.holders))
        version.add_metric([str(row.expert)], row.version)
        load.add_metric([str(row.expert)], row.load)
    yield from (holders, version, load)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)
