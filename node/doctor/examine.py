"""All checks in their order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node.control_client import ControlClient
from node.devices import available_devices
from node.doctor import checks, machine
from node.doctor.checks import Needs, NetworkFacts
from node.doctor.lines import Line, failure
from node.doctor.visit import facts_of, visit
from node.known_peers import load_addresses
from swarm import __version__
from swarm.collective import codecs
from swarm.collective.codecs import get_codec
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.network.p2p import NetworkConfig
from swarm.network.p2p.places import wait_for_port
from swarm.wire.node_pb2 import StatusReply


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What `node start` would be told."""

    manifest: RunManifest | None
    directory: Path
    peers: tuple[str, ...]
    host: str
    port: int
    device: str
    threads: int


async def examine(patient: Patient) -> list[Line]:
    """Every line of the report; a check that can not be made says so instead of raising."""
    status = _running(patient.directory)
    needs = _needs(patient.manifest)
    port_problem = ""
    if status is None and patient.port:
        try:
            await wait_for_port(patient.host, patient.port)
        except SwarmError as error:
            port_problem = error.message
    lines = [*_machine_lines(patient, needs)]
    facts = NetworkFacts()
    try:
        if status is not None:
            facts = facts_of(status)
        elif patient.manifest is not None and not port_problem:
            facts = await visit(patient.manifest, patient.directory, _config(patient))
    except SwarmError as error:
        if error.code is not Code.NOT_ADMITTED:
            lines.append(failure("network", str(error), error.hint or "docs/errors.md"))
        facts = NetworkFacts(asked=1, problem=error.message, problem_code=error.code)
    port = status.port if status is not None else patient.port
    lines += [
        checks.check_port(patient.host, port, port_problem, running=status is not None),
        checks.check_peers(facts),
        checks.check_clock(facts),
        checks.check_nat(facts),
        checks.check_relay(facts),
    ]
    if facts.trains:
        lines += [
            checks.check_bandwidth("upload", facts.up_bps, facts, needs),
            checks.check_bandwidth("download", facts.down_bps, facts, needs),
        ]
    hivemind = machine.installed("hivemind")
    return lines + checks.check_versions(__version__, sys.version_info[:2], hivemind, facts)


def _machine_lines(patient: Patient, needs: Needs) -> Iterator[Line]:
    free, problem = machine.free_space(patient.directory)
    yield checks.check_disk(str(patient.directory), free, problem, needs)
    yield checks.check_memory(machine.available_memory(), needs)
    cores = machine.usable_cores()
    yield checks.check_device(patient.device, available_devices(), cores, patient.threads)
    yield checks.check_kernels(codecs.compiled is not None)


def _running(directory: Path) -> StatusReply | None:
    try:
        with ControlClient(directory) as control:
            return control.status()
    except SwarmError:
        return None


def _config(patient: Patient) -> NetworkConfig:
    return NetworkConfig(
        host=patient.host,
        port=patient.port,
        initial_peers=patient.peers,
        known_peers=load_addresses(patient.directory),
        may_be_first=True,  # what keeps peers from answering is a line of the report, no error
    )


def _needs(manifest: RunManifest | None) -> Needs:
    if manifest is None:
        return Needs()
    from swarm.model.fragments import FragmentLayout

    layout = FragmentLayout.of(
        manifest.model, manifest.sync.trunk_fragments, manifest.sync.router_rows
    )
    parameters = sum(layout.numel(name) for name in layout.names)
    update_bytes = get_codec(manifest.sync.codec).encoded_bytes(parameters)
    return checks.needs_of(parameters, update_bytes, manifest.timeouts.attempt_s)
