"""How the dashboard writes names and times. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping

from node.dashboard.snapshot import Snapshot
from node.status_view import short_id


def names_of(snapshot: Snapshot) -> dict[str, str]:
    """Peer id -> what to call it."""
    return {p.peer_id: p.display_name or short_id(p.peer_id) for p in snapshot.status.peers}


def with_names(text: str, names: Mapping[str, str]) -> str:
    """`text` with names in place of the peer ids in it."""
    for peer_id, name in names.items():
        text = text.replace(peer_id, name)
    return text


def clock(at_ms: int) -> str:
    """`13:45:10`, local time; a dash for none."""
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000)) if at_ms else "-"
