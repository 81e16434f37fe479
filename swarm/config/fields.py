"""What the parts of the run manifest are built with."""

from __future__ import annotations

from swarm.errors import Code, SwarmError


def doc(text: str) -> dict[str, str]:
    """Field metadata holding the comment that is written into a new manifest."""
    return {"doc": text}


def require(condition: bool, field_name: str, problem: str) -> None:
    """Raise `CONFIG_INVALID` naming `field_name` unless `condition` holds."""
    if not condition:
        raise SwarmError(Code.CONFIG_INVALID, f"{field_name}: {problem}")
