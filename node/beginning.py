"""What a node has of its run's genesis when it starts."""

from __future__ import annotations

import asyncio
from pathlib import Path

from node.paths import genesis_path
from swarm.collective.state import FragmentState
from swarm.training.genesis import read_genesis
from swarm.training.policy import RunPolicy


async def initial_fragments(
    policy: RunPolicy, manifest_path: Path, next_round: int
) -> dict[str, FragmentState]:
    """All initial fragments; of a run that begins with a model none, unless its file is here.

    What is not here is downloaded, like anything that a node lacks of a commit. `next_round`: after
    the first round the file is of no use any more. Raises `CONFIG_INVALID` as `check_genesis`,
    `CHECKPOINT_CORRUPT` as `read_genesis`.
    """
    if policy.begins_with_model:
        path = genesis_path(manifest_path)
        if next_round > 1 or not path.exists():
            return {}
        policy.begin(await asyncio.to_thread(read_genesis, path, policy.manifest))
    for name in policy.layout.names:  # one by one: a stop does not wait for all of them
        await asyncio.to_thread(policy.initial, name)
    return policy.check_genesis()
