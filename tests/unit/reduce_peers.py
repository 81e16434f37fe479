"""Peers that reduce together in one process, without the round protocol.

group = Group({"trunk.0": 5000}, peers=3, codec="int8")
means = group.run()                        # peer -> fragment -> values, or the error
group.links["b"].lane_type = SlowLane      # what the peer's opened lanes are wrapped in
"""

import threading
from datetime import timedelta

import numpy as np

from swarm.collective.crew import without_frames
from swarm.collective.exchange import Exchange, ExchangeRegistry
from swarm.collective.reduce import AttemptFailedError
from swarm.simulation.local_bulk import LocalBulkHub
from swarm.wire import collective_pb2 as pb

STALL = timedelta(seconds=5)
NAMES = "abcdefgh"


def make_plan(
    numel,
    peers,
    *,
    codec="fp32",
    operation=pb.MEAN,
    weights=None,
    norms=(),
    chunk=1024,
    reducers=None,
):
    """Every fragment is contributed to and received by all, in parts for `reducers`."""
    peers = sorted(peers)
    reducers = reducers or peers
    plan = pb.Plan(
        branch=b"branch", round=1, ballot=pb.Ballot(attempt=1, leader=peers[0]),
        members=[pb.Member(peer=p) for p in peers], chunk_elements=chunk, attempt_timeout_ms=60_000,
    )  # fmt: skip
    for name, size in sorted(numel.items()):
        edges = [round(size * i / len(reducers) / 1024) * 1024 for i in range(len(reducers))]
        plan.fragments.add(
            fragment=name, numel=size, contributors=peers, receivers=peers, holders=peers,
            weights=weights or [1 / len(peers)] * len(peers), codec=codec,
            operation=pb.Operation.Name(operation), norms=norms,
            parts=[
                pb.Part(begin=b, end=e, reducer=r)
                for r, b, e in zip(reducers, edges, [*edges[1:], size], strict=True)
                if e > b
            ],
        )  # fmt: skip
    return plan


def updates(numel, peers):
    """Standard normal values, other ones for each peer."""
    return {
        p: {
            f: np.random.default_rng([ord(p), i]).standard_normal(n).astype(np.float32)
            for i, (f, n) in enumerate(sorted(numel.items()))
        }
        for p in peers
    }


class LocalLinks:
    """`swarm.collective.exchange.Links` of one peer; `wrap` may change a lane."""

    def __init__(self, hub, peer):
        self.hub, self.peer = hub, peer
        self.wrap = lambda lane: lane
        self.opened, self.released = [], []

    def open(self, peer):
        lane = self.wrap(self.hub.connect(self.peer, peer))
        self.opened.append(lane)
        return lane

    def release(self, lane):
        if lane.at_rest:
            self.released.append(lane)
        lane.close()


class Group:
    """See the module docstring."""

    def __init__(self, numel, *, peers=3, stall=STALL, **plan):
        self.names = list(NAMES[:peers])
        self.plan = make_plan(numel, self.names, **plan)
        self.deltas = updates(numel, self.names)
        self.hub = LocalBulkHub()
        self.links = {p: LocalLinks(self.hub, p) for p in self.names}
        self.registries = {p: ExchangeRegistry(stall) for p in self.names}
        self.stall = stall
        self.exchanges = {}
        for peer in self.names:
            self.hub.attach(peer, self.registries[peer].handle, lambda blob_hash: None)

    def prepare(self, peer):
        """The exchange of a peer, known to its data plane."""
        deltas, links = self.deltas[peer], self.links[peer]
        exchange = Exchange(self.plan, peer, deltas, links, self.stall, named=True)
        self.exchanges[peer] = exchange
        self.registries[peer].add(exchange)
        return exchange

    def start(self, *, without=()):
        """Run all peers in threads; returns a function that waits for what came out."""
        outcomes = {}

        def work(peer, exchange):
            try:
                outcomes[peer] = exchange.run()
            except AttemptFailedError as error:
                outcomes[peer] = without_frames(error)

        threads = [
            threading.Thread(target=work, args=(p, self.prepare(p)), name=f"run-{p}", daemon=True)
            for p in self.names
            if p not in without
        ]
        for thread in threads:
            thread.start()

        def finish(limit_s=30):
            for thread in threads:
                thread.join(limit_s)
                assert not thread.is_alive(), f"{thread.name} hangs"
            return outcomes

        return finish

    def run(self, **kwargs):
        """Run all peers to the end."""
        return self.start(**kwargs)()

    def close(self):
        """End what is still served."""
        for exchange in self.exchanges.values():
            exchange.cancel("the test is over")


def suspects(outcome):
    """Whom a peer that failed accuses."""
    assert isinstance(outcome, AttemptFailedError), outcome
    return outcome.suspects
