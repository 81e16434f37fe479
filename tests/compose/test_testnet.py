"""The containers of docker/ on a real engine: built, NATed, killed, assembled, taken down.

Where no engine answers, docker/engine.sh makes one, which needs root and Debian's packages.
REQUIRE_DOCKER=1 makes a machine without one a failure.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = Path("/tmp/expertswarm-engine")
ENGINE_LIMIT_S = 300.0  # it may have to be installed
FILES = ["--file", "docker/compose.yaml", "--file", "docker/compose.chaos.yaml"]

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1200)]


def engine(action: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "docker" / "engine.sh"), action, str(ENGINE)]
    return subprocess.run(command, capture_output=True, text=True, timeout=ENGINE_LIMIT_S)


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Variables with which programs find an engine; one that was made here is ended again."""
    made = engine("up")
    if made.returncode != 0:
        why = f"no Docker engine, and none can be made: {made.stderr.strip()[-400:]}"
        if os.environ.get("REQUIRE_DOCKER") == "1":
            pytest.fail(why)
        pytest.skip(why)
    variables = dict(pair.split("=", 1) for pair in shlex.split(made.stdout) if "=" in pair)
    yield {**os.environ, **variables}
    if variables:
        assert engine("down").returncode == 0


def test_both_compose_programs_accept_the_files(environment: dict[str, str]) -> None:
    accepted = 0
    for program in (["docker", "compose"], ["docker-compose"]):
        try:
            subprocess.run([*program, "version"], capture_output=True, check=True)
        except (subprocess.CalledProcessError, FileNotFoundError):
            continue  # this machine has the other one
        command = [*program, *FILES, "--profile", "metrics", "config", "--quiet"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        accepted += 1
    assert accepted


def test_the_testnet_trains_behind_routers_survives_a_kill_and_answers(
    environment: dict[str, str],
) -> None:
    command = [sys.executable, "docker/testnet.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    for step in (
        "4 of 4", "symmetric", "counts maths again", "is killed", "is cut off",
        "counts all of them again", "model continues", "taken down",
    ):  # fmt: skip
        assert step in done.stdout
