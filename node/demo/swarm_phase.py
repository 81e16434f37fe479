"""The swarm's half of the demo: all peers train, one is killed and has to come back by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from node.demo.results import KillDrill
from node.demo.settings import DEAD_S, VICTIM, DemoSettings
from node.recorder import ACTIVE_STATES
from node.swarm_watch import SwarmWatch
from node.testnet import LocalTestnet
from swarm.errors import Code, SwarmError

FOUNDING_LIMIT = timedelta(seconds=180)
RETURN_LIMIT = timedelta(seconds=120)
QUIET_LIMIT = timedelta(seconds=90)


class SwarmPhase:
    """Drives a testnet through start, training, kill, return and a last commit of everybody."""

    def __init__(self, settings: DemoSettings, testnet: LocalTestnet, watch: SwarmWatch) -> None:
        self.settings = settings
        self.testnet = testnet
        self.watch = watch
        self.recorder = watch.recorder
        self.drill = KillDrill(settings.peers[VICTIM].name, at_s=0.0)
        self._began = 0.0
        self._restarted_ms = 0

    def run(self) -> KillDrill:
        """Train for the settings' time. A failed return is told in the drill, not raised.

        Raises `STAGE_TIMEOUT` when the run is not founded in time, or the error of a node that
        ended by itself.
        """
        self.watch.phase = "starting the peers"
        self.testnet.start(on_poll=self.watch.look)
        self.watch.phase = "founding the run"
        if not self._look_until(self._all_active, FOUNDING_LIMIT.total_seconds()):
            raise SwarmError(Code.STAGE_TIMEOUT, "the peers did not all begin to train")
        self._began = time.monotonic()
        self.watch.phase = "training"
        self._look_until(lambda: False, self.settings.swarm_s / 2)
        self._kill_and_restart()
        rest_s = self.settings.swarm_s - self._elapsed_s()
        self._look_until(lambda: False, rest_s, self._note_return)
        self.watch.phase = "waiting for the killed peer"
        self._look_until(self._has_returned, RETURN_LIMIT.total_seconds(), self._note_return)
        self.watch.phase = "waiting for a commit of everybody"
        done_before = max((item.round for item in self.recorder.rounds()), default=0)
        self._look_until(lambda: self._is_quiet(done_before), QUIET_LIMIT.total_seconds())
        return self.drill

    def _kill_and_restart(self) -> None:
        self.drill.at_s = self._elapsed_s()
        self.watch.event(f"{self.drill.peer} is killed (SIGKILL)")
        self.testnet.kill(VICTIM)
        self._look_until(lambda: False, DEAD_S)
        self.drill.restarted_at_s = self._elapsed_s()
        self._restarted_ms = int(time.time() * 1000)
        self.watch.event(f"{self.drill.peer} is started again")
        self.testnet.restart(VICTIM)

    def _note_return(self) -> None:
        if self.drill.rejoined_at_s is None and self._is_member_and_trains():
            self.drill.rejoined_at_s = self._elapsed_s()
            after_s = self.drill.rejoined_at_s - self.drill.at_s
            self.watch.event(f"{self.drill.peer} is back {after_s:.1f} s after the kill")
        if self.drill.voted_again_round is None and self.drill.rejoined_at_s is not None:
            for item in self.recorder.rounds():
                if item.committed_at_ms > self._restarted_ms and self.drill.peer in item.voters:
                    self.drill.voted_again_round = item.round
                    self.watch.event(f"{self.drill.peer} voted in round {item.round}")
                    break

    def _is_member_and_trains(self) -> bool:
        """The restarted process trains, and another peer has it in its roster."""
        victim = self.recorder.nodes[VICTIM]
        if not victim.alive or victim.status is None or victim.status.state not in ACTIVE_STATES:
            return False
        return any(
            peer.peer_id == victim.peer_id and peer.in_roster
            for node in self.recorder.nodes
            if node is not victim and node.alive and node.status is not None
            for peer in node.status.peers
        )

    def _has_returned(self) -> bool:
        return self.drill.voted_again_round is not None

    def _all_active(self) -> bool:
        return all(
            node.alive and node.status is not None and node.status.state in ACTIVE_STATES
            for node in self.recorder.nodes
        )

    def _is_quiet(self, after_round: int) -> bool:
        """A round later than `after_round` had everybody's update and equal hashes everywhere."""
        everybody = len(self.recorder.nodes)
        return any(
            item.round > after_round
            and item.hashes_equal
            and len(item.contributors) == item.compared == everybody
            for item in self.recorder.rounds()
        )

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def _look_until(
        self,
        condition: Callable[[], bool],
        limit_s: float,
        on_look: Callable[[], None] = lambda: None,
    ) -> bool:
        """Look at the testnet until `condition` holds (True) or the time is over (False)."""
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() >= deadline:
                return False
            self.watch.look()
            on_look()
            self.testnet.raise_if_ended()
            time.sleep(min(self.watch.interval_s, max(0.0, deadline - time.monotonic())))
        return True
