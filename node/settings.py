"""What `node start` trains on and is called, remembered from one start to the next."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from node.node_toml import FILE_NAME, NODE, read_section, write_section
from swarm.errors import Code, SwarmError

BUILT_IN = "demo:"


@dataclass(frozen=True)
class NodeSettings:
    """The `[node]` of node.toml; empty where nothing was said."""

    data: str = ""
    """Absolute path of the text to train on, or a built-in corpus."""

    domain: str = ""
    """What the data is about; others see it."""

    name: str = ""
    """Display name."""


def settle(directory: Path, given: NodeSettings, suggested: str = "") -> NodeSettings:
    """What holds now, and from now on: what is given, else what was before, else the ticket's.

    `suggested` is a built-in corpus from a ticket. Raises `USAGE` when there is nothing to train
    on, or as `read_section` and `write_section` do.
    """
    known = dataclasses.asdict(load_settings(directory))
    known |= {key: text for key, text in dataclasses.asdict(given).items() if text}
    if given.data and not given.data.startswith(BUILT_IN):
        known["data"] = str(Path(given.data).expanduser().absolute())
    known["data"] = known["data"] or suggested
    if not known["data"]:
        raise SwarmError(
            Code.USAGE,
            "what should it train on?",
            "give --data PATH, or a built-in text such as --data demo:english",
        )
    known["domain"] = known["domain"] or Path(known["data"].removeprefix(BUILT_IN)).stem
    settings = NodeSettings(**known)
    write_section(directory, NODE, {key: text for key, text in known.items() if text})
    return settings


def load_settings(directory: Path) -> NodeSettings:
    """What was settled before. Raises as `read_section`, also for an unknown key."""
    section = read_section(directory, NODE)
    names = [field.name for field in dataclasses.fields(NodeSettings)]
    for key in section:
        if key not in names:
            raise SwarmError(
                Code.CONFIG_UNKNOWN_KEY,
                f"{directory / FILE_NAME}: [{NODE}] has no {key!r}",
                f"known: {', '.join(names)}",
            )
    return NodeSettings(**section)
