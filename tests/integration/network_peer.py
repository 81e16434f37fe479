"""A process that owns one PeerNetwork, driven by JSON lines; a child of the network tests.

    python tests/integration/network_peer.py '{"key": "...", "port": 4700, "peers": []}'

Prints {"ready": ...} or {"error": code} and then one answer to each command on standard input:
{"do": "records"}, {"do": "ping", "peer": ID}, {"do": "paths"}, {"do": "stop"}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

STARTED = time.monotonic()

from swarm.errors import SwarmError  # noqa: E402
from swarm.network.p2p import NetworkConfig, PeerNetwork  # noqa: E402
from swarm.wire.control_pb2 import Ping, Pong  # noqa: E402
from swarm.wire.membership_pb2 import PeerRecord  # noqa: E402

RUN_ID = b"r" * 32


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


async def answer(network: PeerNetwork, command: dict[str, Any]) -> None:
    if command["do"] == "records":
        say(records=sorted(await network.records()))
    elif command["do"] == "paths":
        say(paths=await network.paths())
    elif command["do"] == "ping":
        began = time.monotonic()
        try:
            await network.call(command["peer"], Ping(), Pong, timedelta(seconds=3))
            say(ok=True, seconds=time.monotonic() - began)
        except SwarmError as error:
            say(ok=False, code=error.code.value, seconds=time.monotonic() - began)


async def main(options: dict[str, Any]) -> None:
    imported = time.monotonic()
    config = NetworkConfig(
        port=options.get("port", 0),
        initial_peers=tuple(options.get("peers", ())),
        bootstrap_timeout=timedelta(seconds=options.get("bootstrap_s", 30)),
    )
    stages: list[tuple[float, str, str]] = []
    try:
        network = await PeerNetwork.start(
            Path(options["key"]),
            RUN_ID,
            config,
            on_stage=lambda name, message: stages.append(
                (round(time.monotonic() - imported, 2), name, message)
            ),
        )
    except SwarmError as error:
        say(error=error.code.value, message=error.message)
        return
    lease_ms = options.get("lease_ms", 30_000)
    await network.publish(PeerRecord(display_name="test", lease_ttl_ms=lease_ms))
    ended = time.monotonic()
    say(
        ready=network.peer_id,
        addresses=network.addresses,
        import_seconds=imported - STARTED,
        start_seconds=ended - imported,
        stages=stages,
    )
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        if command["do"] == "stop":
            break
        await answer(network, command)
    await network.shutdown()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
