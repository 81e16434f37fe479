"""The compose testnet as a story: built, started, killed at, used, and taken down.

    make testnet                            or: python docker/testnet.py
    python docker/testnet.py --keep         leave it running at the end

Ends with exit code 1, after the last lines of each container, when a step fails. Runs with the
standard library alone, on the machine of the engine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
BASE = "debian:bookworm-slim"
OFFLINE_BASE = "expertswarm-base"
IMAGE = "expertswarm"
LABEL = "org.opencontainers.image.title=expertswarm"
PEERS = ("python", "cpp", "maths", "english")
WITNESS, VICTIM = "python", "maths"
ROUTED = ("maths", "english")
STATE = "/var/lib/expertswarm/testnet"
PULL_LIMIT_S = 120.0
UP_LIMIT_S = 180.0
ROUND_LIMIT_S = 180.0
RETURN_LIMIT_S = 150.0
POLL_S = 2.0

T = TypeVar("T")


class StepError(Exception):
    """A step of the story did not end as it should; the message says which and how."""


class Testnet:
    """The containers of compose.yaml, through whichever compose there is."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._compose = [*compose_program(), "--file", str(HERE / "compose.yaml")]
        self._compose += ["--project-name", "expertswarm-testnet"]

    def compose(self, *arguments: str, limit_s: float = 60.0) -> str:
        """Run a compose command and return what it prints. Raises `StepError`."""
        return output_of([*self._compose, *arguments], limit_s)

    def inside(self, service: str, *command: str, limit_s: float = 60.0) -> str:
        """Run a command in a container and return what it prints. Raises `StepError`."""
        return self.compose("exec", "-T", service, *command, limit_s=limit_s)

    def status(self, service: str) -> dict[str, Any]:
        """What a node says of itself, with its last rounds. Raises `StepError`."""
        told: dict[str, Any] = json.loads(
            self.inside(service, "node", "status", "--json", "--rounds", "20")
        )
        return told

    def down(self) -> None:
        """Remove all containers, networks and volumes. Raises `StepError`."""
        self.compose("down", "--volumes", "--remove-orphans", limit_s=120.0)

    def wait_for(self, what: str, look: Callable[[], T | None], limit_s: float) -> T:
        """Look until there is something to return. Raises `StepError` naming `what`."""
        deadline = time.monotonic() + limit_s
        trouble = ""
        while time.monotonic() < deadline:
            try:
                if found := look():
                    return found
            except StepError as error:  # a node that is not up yet, or just gone
                trouble = str(error)
            time.sleep(POLL_S)
        raise StepError(f"waited {limit_s:g} s for {what}. {trouble}")


def compose_program() -> list[str]:
    """`docker compose` where the plugin is there, else the older `docker-compose`."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True)
    return ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]


def output_of(command: Sequence[str], limit_s: float) -> str:
    """What a command prints. Raises `StepError` with its last words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise StepError(f"no end of `{' '.join(command)}` in {limit_s:g} s") from None
    except FileNotFoundError as error:
        raise StepError(f"{error.filename} is not installed") from None
    if done.returncode != 0:
        last = " ".join(done.stderr.strip().splitlines()[-3:])
        raise StepError(f"`{' '.join(command)}` ended with {done.returncode}: {last}")
    return done.stdout


def build_image(say: Callable[[str], None]) -> None:
    """Build the image; from this machine's mirrors where no registry is reachable."""
    try:
        output_of(["docker", "info"], 30.0)
    except StepError as error:
        hint = 'as root, where there is none: eval "$(docker/engine.sh up /tmp/engine)"'
        raise StepError(f"no Docker engine answers; {hint}. {error}") from error
    try:
        output_of(["docker", "pull", "--quiet", BASE], PULL_LIMIT_S)
    except StepError:
        say("no image registry: base image by debootstrap, wheels by pip on this machine")
        if not output_of(["docker", "images", "--quiet", OFFLINE_BASE], 60.0):
            output_of([str(HERE / "base-image.sh"), OFFLINE_BASE], 300.0)
        try:
            output_of([str(HERE / "wheels.sh"), sys.executable], 300.0)
            build_from(OFFLINE_BASE)
        finally:  # a later build is not to take this version's
            shutil.rmtree(HERE / "wheels", ignore_errors=True)
    else:
        build_from(BASE)
    # What the build needed, and the image that this one replaces.
    output_of(["docker", "image", "prune", "--force", "--filter", f"label={LABEL}"], 60.0)


def build_from(base: str) -> None:
    """Build the image on another. Raises `StepError`."""
    command = ["docker", "build", "--file", str(HERE / "Dockerfile")]
    command += ["--build-arg", f"BASE={base}", "--tag", IMAGE, str(HERE.parent)]
    output_of(command, 900.0)


def full_round(status: dict[str, Any], after: int) -> dict[str, Any] | None:
    """The first round later than `after` that counted the update of every peer."""
    for done in status["rounds"]:
        if int(done["round"]) > after and len(done["contributors"]) == len(PEERS):
            found: dict[str, Any] = done
            return found
    return None


def story(net: Testnet) -> None:
    """Everything the testnet is to show. Raises `StepError`."""
    net.down()  # what a run that was killed has left
    net.compose("up", "--detach", "--no-build", limit_s=UP_LIMIT_S)
    net.say("all containers are up")

    first = net.wait_for(
        "a round of all peers", lambda: full_round(net.status(WITNESS), 0), ROUND_LIMIT_S
    )
    net.say(f"round {first['round']}: {len(PEERS)} of {len(PEERS)}, loss {first['loss']:.3f}")
    show_paths(net)

    kill_and_await(net)

    net.inside(
        WITNESS, "node", "assemble", "--run", f"{STATE}/RUN.toml", "--out", "/tmp/model",
        limit_s=120.0,
    )  # fmt: skip
    prompt = "def main("
    answer = net.inside(
        WITNESS, "node", "generate", "/tmp/model", "--prompt", prompt, "--tokens", "80"
    )
    if len(answer.strip()) <= len(prompt):
        raise StepError(f"the assembled model says nothing: {answer!r}")
    net.say(f"the assembled model continues: {answer.strip()!r}")


def show_paths(net: Testnet) -> None:
    """Say how the peers behind routers are reached. Raises `StepError` if they are not behind."""
    told = {name: net.status(name) for name in ROUTED}
    for name, status in told.items():
        if status["nat"] not in ("endpoint-independent", "symmetric"):
            raise StepError(f"{name} is behind a router, but says {status['nat']!r}")
        net.say(f"{name} is behind a router: {status['nat']}")
    one, other = ROUTED
    paths = {peer["display_name"]: peer["path"] for peer in told[one]["peers"]}
    if paths.get(other) not in ("relay", "punched"):
        raise StepError(f"{one} and {other} have no way through their routers: {paths}")
    net.say(f"{one} and {other} reach each other: {paths[other]}")


def kill_and_await(net: Testnet) -> None:
    """Kill one peer like a power cut, and wait until a round counts it again."""
    # The node is the only child of the container's init, which ends with it.
    net.inside(VICTIM, "bash", "-c", "kill -KILL $(cat /proc/1/task/1/children)")
    began = time.monotonic()
    net.say(f"{VICTIM} killed (SIGKILL)")
    net.wait_for(f"{VICTIM} to be started again", lambda: restarts(net, VICTIM), RETURN_LIMIT_S)
    # The round that is open now may still count what it gave before the kill.
    open_round = int(net.status(WITNESS)["round"]) + 1
    back = net.wait_for(
        f"{VICTIM} to be counted again",
        lambda: full_round(net.status(VICTIM), open_round),
        RETURN_LIMIT_S,
    )
    net.say(f"round {back['round']} counts {VICTIM} again, {time.monotonic() - began:.0f} s later")


def restarts(net: Testnet, service: str) -> int:
    """How often the engine has started a service's container again."""
    container = net.compose("ps", "--quiet", service).strip()
    return int(output_of(["docker", "inspect", "--format", "{{.RestartCount}}", container], 30.0))


def main() -> int:
    """Tell the story, then clean up, whatever happened."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave it running at the end")
    args = parser.parse_args()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", flush=True)

    try:
        build_image(say)
    except StepError as error:
        say(f"failed: {error}")
        return 1
    say("image built")
    net = Testnet(say)
    try:
        story(net)
    except StepError as error:
        say(f"failed: {error}")
        print(net.compose("logs", "--no-color", "--tail", "15"), flush=True)
        return 1
    finally:
        if not args.keep:
            net.down()
            say("taken down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
