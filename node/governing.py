"""How a daemon's governor is tied to its parts: what it counts, and what obeys it."""

from __future__ import annotations

import dataclasses
from datetime import date
from typing import TYPE_CHECKING

from node.daemon_status import State
from node.governor import Governor, Sensors
from node.limits import Limits
from node.verdict import Conditions, Verdict

if TYPE_CHECKING:
    from node.daemon import Daemon


def govern(daemon: Daemon, sensors: Sensors) -> Governor:
    """The governor of a daemon whose parts are there. Raises as `load_limits`."""

    def conditions(limits: Limits) -> Conditions:
        """What the machine's sensors and this node's own counters say."""
        return dataclasses.replace(
            sensors(limits),
            traffic_bytes=daemon.daily.today(date.today()),
            needed_bytes=daemon.training.least_bytes,
        )

    def keep_to(limits: Limits) -> None:
        daemon.data_plane.limit_rates(limits.upload_bps, limits.download_bps)
        daemon.training.keep_to(limits)

    def obey(verdict: Verdict) -> None:
        daemon.data_plane.set_serving(not verdict.spent)

    governor = Governor(daemon.config.directory, conditions)
    governor.on_limits, governor.on_verdict = keep_to, obey
    keep_to(governor.limits)
    return governor


def finish_round(daemon: Daemon) -> None:
    """Stop after the open round; at once where the node has no part in one."""
    status = daemon.status
    daemon.governor.finishing = True
    if status.state in (State.TRAINING, State.AVERAGING):
        status.report(f"round {daemon.ledger.next_round} is the last one before it stops")
    else:
        daemon.stop("asked to finish")
