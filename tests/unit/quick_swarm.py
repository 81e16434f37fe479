"""A simulated swarm whose time limits are short, for stories of faults."""

import asyncio

from swarm.config import TimeoutPolicy
from swarm.simulation.swarm import SimulatedSwarm, toy_manifest

QUICK = TimeoutPolicy(
    heartbeat_s=0.4, chunk_s=0.8, attempt_s=2.0, round_s=2.5, join_s=6.0, lease_s=7.0
)


def run(story, limit_s=60):
    asyncio.run(asyncio.wait_for(story, limit_s))


def quick_swarm(peers, min_peers=None, timeouts=QUICK):
    manifest = toy_manifest(min_peers=min_peers or peers, timeouts=timeouts)
    return SimulatedSwarm(peers, manifest=manifest)


def leader_of(swarm):
    order = swarm.peers[0].member.succession()
    return next(p for p in swarm.peers if p.peer_id == order[0])


def trunk_of(record):
    return next(o for o in record.fragments if o.state.fragment == "trunk.0")
