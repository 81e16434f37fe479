"""Connecting a daemon: its network, its part in the rounds, and what it tells others of itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from node.company import CompanyReporter
from node.known_peers import load_addresses
from node.publishing import RecordPublisher
from swarm.collective.context import Context, RoundEvent
from swarm.collective.member import RoundMember
from swarm.collective.state import CanonicalState, FragmentState
from swarm.network.membership import PeerDirectory
from swarm.network.p2p import NetworkConfig, PeerNetwork

if TYPE_CHECKING:
    from node.daemon import Daemon


async def open_network(
    daemon: Daemon, fragments: dict[str, FragmentState], emit: Callable[[RoundEvent], None]
) -> None:
    """Join the run's network and publish this peer's record.

    Sets `network`, `member`, `publisher` and `company` of the daemon. `fragments`: what it has of
    the newest commit that it knows; `emit` gets the events of its rounds. Raises what
    `PeerNetwork.start` does.
    """
    config = daemon.config
    address = daemon.data_plane.start(config.host, 0)
    daemon.network = network = await PeerNetwork.start(
        config.directory / "identity.key",
        daemon.manifest.run_id,
        NetworkConfig(
            host=config.host,
            port=config.port,
            initial_peers=config.peers,
            known_peers=load_addresses(config.directory),
            announce=config.announce,
            relay=config.relay,
            mdns=config.mdns,
        ),
        on_stage=lambda name, message: daemon.status.report(f"{name}: {message}"),
        admission=daemon.admission,
    )
    directory = PeerDirectory(
        network, daemon.manifest.run_id, time.time, network.learn, daemon.admission
    )
    await _take_part(daemon, network, directory, CanonicalState(fragments), emit)
    port = int(address.rpartition(":")[2])
    daemon.publisher = RecordPublisher(
        config, network, directory, daemon.ledger, daemon.status, daemon.data_plane, port
    )
    daemon.company = CompanyReporter(
        network,
        lambda: daemon.ledger.record.roster if daemon.ledger.record is not None else (),
        lambda: daemon.data_plane.traffic.received,
        daemon.status.report,
    )
    await daemon.publisher.begin()


async def _take_part(
    daemon: Daemon,
    network: PeerNetwork,
    directory: PeerDirectory,
    state: CanonicalState,
    emit: Callable[[RoundEvent], None],
) -> None:
    """Make the member of the round protocol, and let others reach it and its fragments."""
    daemon.member = member = RoundMember(
        Context(
            manifest=daemon.manifest,
            identity=daemon.identity,
            transport=network,
            bulk=daemon.data_plane,
            directory=directory,
            ledger=daemon.ledger,
            state=state,
            policy=daemon.policy,
            clock=time.monotonic,
            wall_clock=time.time,
            emit=emit,
            capability=lambda: daemon.training.capability,
            archive=daemon.keeper,
            change=daemon.changes.newest,
        )
    )
    daemon.changes.follow(daemon.ledger.record)
    daemon.data_plane.set_reduce_handler(member.registry.handle)
    daemon.data_plane.set_blob_source(state.blob)
    network.carry(daemon.data_plane)
    await network.serve_streams(daemon.data_plane.accept_tunnel)
