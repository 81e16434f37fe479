"""The image and the containers of this directory, through the programs of Docker.

build_image(print)
net = Containers(print)
net.compose("up", "--detach")
net.inside("python", "node", "status")
net.down()
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
BASE = "debian:bookworm-slim"
OFFLINE_BASE = "expertswarm-base"
WHEELS = "build/wheels"  # by wheels.sh
IMAGE, DEPENDENCIES = "expertswarm", "expertswarm-dependencies"
LABEL = "org.opencontainers.image.title=expertswarm"
PROJECT = "expertswarm-testnet"
PULL_LIMIT_S = 120.0
BUILD_LIMIT_S = 900.0
PRUNE_LIMIT_S = 300.0
POLL_S = 2.0

T = TypeVar("T")
Say = Callable[[str], None]


class StepError(Exception):
    """A step of the story did not end as it should; the message says which and how."""


class Containers:
    """The containers of compose.yaml, through whichever compose there is."""

    def __init__(self, say: Say, variables: Mapping[str, str] | None = None) -> None:
        self.say = say
        self._compose = [*compose_program(), "--file", str(HERE / "compose.yaml")]
        self._compose += ["--project-name", PROJECT]
        host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        socket = {"DOCKER_SOCKET": host.removeprefix("unix://")}
        self._environment = {**os.environ, **socket, **(variables or {})}

    def compose(self, *arguments: str, limit_s: float = 60.0) -> str:
        """Run a compose command and return what it prints. Raises `StepError`."""
        return output_of([*self._compose, *arguments], limit_s, self._environment)

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


def output_of(
    command: Sequence[str], limit_s: float, environment: Mapping[str, str] | None = None
) -> str:
    """What a command prints. Raises `StepError` with its last words."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, env=environment
        )
    except subprocess.TimeoutExpired:
        raise StepError(f"no end of `{' '.join(command)}` in {limit_s:g} s") from None
    except FileNotFoundError as error:
        raise StepError(f"{error.filename} is not installed") from None
    if done.returncode != 0:
        last = " ".join(done.stderr.strip().splitlines()[-3:])
        raise StepError(f"`{' '.join(command)}` ended with {done.returncode}: {last}")
    return done.stdout


def build_image(say: Say) -> None:
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
        with ThreadPoolExecutor() as pool:
            wheels = pool.submit(output_of, [str(HERE / "wheels.sh"), sys.executable], 300.0)
            if not output_of(["docker", "images", "--quiet", OFFLINE_BASE], 60.0):
                output_of([str(HERE / "base-image.sh"), OFFLINE_BASE], 300.0)
            wheels.result()
        say("base image and wheels are there")
        build_from(OFFLINE_BASE, "--build-arg", f"WHEELS={WHEELS}")
    else:
        build_from(BASE)


def prune() -> None:
    """Remove what the build left behind, and the image that it replaced. Raises `StepError`."""
    output_of(["docker", "image", "prune", "--force", "--filter", f"label={LABEL}"], PRUNE_LIMIT_S)


def build_from(base: str, *options: str) -> None:
    """Build the image on another. Raises `StepError`.

    Its dependencies have a name of their own, by which their layers survive `prune`.
    """
    command = ["docker", "build", "--file", str(HERE / "Dockerfile")]
    command += ["--build-arg", f"BASE={base}", *options]
    for target in (["--target", "dependencies", "--tag", DEPENDENCIES], ["--tag", IMAGE]):
        output_of([*command, *target, str(HERE.parent)], BUILD_LIMIT_S)
