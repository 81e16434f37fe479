"""Found the testnet's run: its manifest, the keys of its relays, and one ticket for everybody.

    python found.py /var/lib/expertswarm /ticket/testnet relay-1=11.7.0.11 relay-2=11.7.0.12

Runs once, before the others. With the keys the relays' addresses are known before they start, so
the ticket can name them. What is there already is kept: the run goes on.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from datetime import timedelta
from pathlib import Path

from node.commands.run import found_run
from swarm.config import RunManifest, TrainingConfig
from swarm.files import write_atomic
from swarm.identity import Identity
from swarm.model.config import ModelConfig
from swarm.network.tickets import make_ticket

PEERS = 4
PORT = 4001
VALID = timedelta(days=365)


def testnet_manifest() -> RunManifest:
    """A model of which four peers train a round in a few seconds on two cores."""
    base = RunManifest(
        name="testnet",
        model=ModelConfig(d_model=64, num_layers=2, d_ff=128, num_experts=8, context_length=128),
        training=TrainingConfig(inner_steps=20, batch_size=8, sequence_length=128),
    )
    return dataclasses.replace(
        base,
        sync=dataclasses.replace(base.sync, experts_per_peer=2),
        membership=dataclasses.replace(base.membership, min_peers=PEERS),
    )


def main(directory: Path, ticket: Path, relays: list[str]) -> None:
    """Write what is missing."""
    manifest_path = directory / "RUN.toml"
    if manifest_path.exists():
        manifest = RunManifest.load(manifest_path)
    else:
        manifest = found_run(testnet_manifest(), manifest_path)
    addresses = []
    for relay in relays:
        name, _, host = relay.partition("=")
        (directory / name).mkdir(exist_ok=True)
        identity = Identity.load_or_create(directory / name / "identity.key")
        addresses.append(f"/ip4/{host}/tcp/{PORT}/p2p/{identity.peer_id}")
    expires_ms = round(1000 * (time.time() + VALID.total_seconds()))
    text = make_ticket(manifest, None, addresses, expires_at_ms=expires_ms)
    write_atomic(ticket, f"{text}\n".encode())
    print(f"run {manifest.run_id.hex()[:16]}, joined through {', '.join(addresses)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
