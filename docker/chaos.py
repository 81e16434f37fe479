"""Kills peers and cuts homes off, one after the other, through the engine's socket.

    python chaos.py --kill python --kill maths --cut router-a --every 40 --for 15

A cut takes the router's line to the internet down, as when somebody pulls the cable: its peer sees
no interface go down, only silence. See compose.chaos.yaml.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import signal
import socket
import sys
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

SOCKET = "/var/run/docker.sock"
LIMIT_S = 60.0
INTERNET = "11.7.0."
SERVICE, PROJECT = "com.docker.compose.service", "com.docker.compose.project"
# The line is found by its address, and keeps it while it is down.
LINE = f"$(ip -4 -oneline address show | awk 'index($4, \"{INTERNET}\") == 1 {{print $2}}')"


class EngineConnection(http.client.HTTPConnection):
    """HTTP over the engine's Unix socket."""

    def connect(self) -> None:
        """Called by `request`."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect(SOCKET)


def call(method: str, path: str, body: object = None) -> Any:
    """One call of the engine's API. Raises `OSError`, also for an answer that says no."""
    connection = EngineConnection("engine", timeout=LIMIT_S)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        reply = connection.getresponse()
        text = reply.read().decode(errors="replace")
    if reply.status >= 400:
        raise OSError(f"{method} {path}: {reply.status} {text.strip()}")
    return json.loads(text) if text.startswith(("{", "[")) else None


def containers_of_this_project() -> dict[str, str]:
    """Id of the container of each service beside this one."""
    own = call("GET", f"/containers/{socket.gethostname()}/json")
    labels = {"label": [f"{PROJECT}={own['Config']['Labels'][PROJECT]}"]}
    filters = urllib.parse.quote(json.dumps(labels))
    found = call("GET", f"/containers/json?all=true&filters={filters}")
    return {item["Labels"][SERVICE]: item["Id"] for item in found}


@contextlib.contextmanager
def killed(container: str) -> Iterator[None]:
    """Killed without a warning; started again at the end."""
    call("POST", f"/containers/{container}/kill?signal=KILL")
    try:
        yield
    finally:
        call("POST", f"/containers/{container}/start")


@contextlib.contextmanager
def cut(router: str) -> Iterator[None]:
    """Without a line to the internet; mended at the end."""
    run_inside(router, f"ip link set dev {LINE} down")
    try:
        yield
    finally:
        run_inside(router, f"ip link set dev {LINE} up")


def run_inside(container: str, script: str) -> None:
    """Run a line of bash in a container. Raises `OSError` when it fails."""
    made = call("POST", f"/containers/{container}/exec", {"Cmd": ["bash", "-c", script]})
    call("POST", f"/exec/{made['Id']}/start", {"Detach": False})  # answers at its end
    if status := call("GET", f"/exec/{made['Id']}/json")["ExitCode"]:
        raise OSError(f"`{script}` ended with {status}")


def main() -> None:
    """Disturb until the container is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kill", action="append", default=[], metavar="SERVICE")
    parser.add_argument("--cut", action="append", default=[], metavar="SERVICE")
    parser.add_argument("--every", type=float, default=40.0, metavar="SECONDS")
    parser.add_argument("--for", type=float, default=15.0, metavar="SECONDS", dest="duration")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # mends what is broken at the moment
    choice = random.Random(args.seed)
    faults = [("killed", killed, args.kill), ("cut off", cut, args.cut)]
    for number in range(1 << 31):
        name, fault, services = faults[number % 2]
        time.sleep(args.every)
        service = choice.choice(services)
        print(f"{service} is {name} for {args.duration:g} s", flush=True)
        with fault(containers_of_this_project()[service]):
            time.sleep(args.duration)
        print(f"{service} is back", flush=True)


if __name__ == "__main__":
    main()
