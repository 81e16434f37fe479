"""Looks at a testnet again and again: asks the nodes, keeps the record, shows the snapshot."""

from __future__ import annotations

import time

from node.recorder import Recorder
from node.screen import Screen
from node.swarm_view import Snapshot
from node.testnet import LocalTestnet


class SwarmWatch:
    """`look` once per `interval_s`; set `phase` and call `event` for what the view shows above."""

    def __init__(
        self, testnet: LocalTestnet, title: str, screen: Screen, total_s: float = 0.0
    ) -> None:
        self.interval_s = 0.5
        self.phase = ""
        self.recorder = Recorder([(node.plan.name, node.plan.domain) for node in testnet.nodes])
        self._testnet = testnet
        self._title = title
        self._screen = screen
        self._total_s = total_s
        self._started = time.monotonic()
        self._events: list[str] = []

    @property
    def elapsed_s(self) -> float:
        """Seconds since the watch began."""
        return time.monotonic() - self._started

    def event(self, text: str) -> None:
        """Add a line to the view."""
        self._events.append(text)

    def look(self) -> None:
        """Ask every node once and show the result."""
        statuses = self._testnet.statuses()
        histories = [
            node.history(self.recorder.next_round(index)) if status else []
            for index, (node, status) in enumerate(zip(self._testnet.nodes, statuses, strict=True))
        ]
        self.recorder.observe(time.monotonic(), statuses, histories)
        self._screen.show(
            Snapshot(
                title=self._title,
                phase=self.phase,
                elapsed_s=self.elapsed_s,
                total_s=self._total_s,
                peers=self.recorder.peer_views(int(time.time() * 1000)),
                rounds=self.recorder.round_views(),
                events=tuple(self._events),
            )
        )
