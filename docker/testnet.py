"""The compose testnet as a story: built, started, killed at, used, and taken down.

    make testnet                            or: python docker/testnet.py
    python docker/testnet.py --keep         leave it running at the end
    python docker/testnet.py --no-build     with the image of the last time

Ends with exit code 1, after the last lines of each container, when a step fails. Runs with the
standard library alone, on the machine of the engine.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from containers import HERE, Containers, StepError, build_image, output_of, prune

PEERS = ("python", "cpp", "maths", "english")
WITNESS, VICTIM = "python", "maths"
ROUTED = ("maths", "english")
STATE = "/var/lib/expertswarm/testnet"
UP_LIMIT_S = 180.0
ROUND_LIMIT_S = 180.0
RETURN_LIMIT_S = 150.0
FAULTS_LIMIT_S = 120.0
CHAOS = {"CHAOS_EVERY": "1", "CHAOS_FOR": "6"}  # seconds


def full_round(status: dict[str, Any], after: int) -> dict[str, Any] | None:
    """The first round later than `after` that counted the update of every peer."""
    for done in status["rounds"]:
        if int(done["round"]) > after and len(done["contributors"]) == len(PEERS):
            found: dict[str, Any] = done
            return found
    return None


def story(net: Containers) -> None:
    """Everything the testnet is to show. Raises `StepError`."""
    net.down()  # what a run that was killed has left
    net.compose("up", "--detach", "--no-build", limit_s=UP_LIMIT_S)
    net.say("all containers are up")

    first = net.wait_for(
        "a round of all peers", lambda: full_round(net.status(WITNESS), 0), ROUND_LIMIT_S
    )
    net.say(f"round {first['round']}: {len(PEERS)} of {len(PEERS)}, loss {first['loss']:.3f}")
    show_paths(net)
    print(net.compose("run", "--rm", "--no-deps", "-T", "dashboard"), flush=True)

    kill_and_await(net)
    disturb(net)

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


def show_paths(net: Containers) -> None:
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


def kill_and_await(net: Containers) -> None:
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


def disturb(net: Containers) -> None:
    """Let compose.chaos.yaml kill and cut off one each, and wait for a round of all peers."""
    chaos = ("--file", str(HERE / "compose.chaos.yaml"))
    net.compose(*chaos, "up", "--detach", "--no-build", "--no-deps", "chaos")

    def two_faults() -> list[str] | None:
        lines = net.compose(*chaos, "logs", "--no-color", "chaos").splitlines()
        done = [line for line in lines if " is killed " in line or " is cut off " in line]
        return done if sum(line.endswith(" is back") for line in lines) >= 2 else None

    for line in net.wait_for("two faults", two_faults, FAULTS_LIMIT_S)[:2]:
        net.say(line.partition("| ")[2])
    net.compose(*chaos, "rm", "--stop", "--force", "chaos")
    # The third fault may have begun; its victim comes back when chaos is stopped.
    last = net.wait_for("a status", lambda: int(net.status(WITNESS)["round"]), RETURN_LIMIT_S)
    after = net.wait_for(
        "a round of all peers", lambda: full_round(net.status(WITNESS), last), ROUND_LIMIT_S
    )
    net.say(f"round {after['round']} counts all of them again")


def restarts(net: Containers, service: str) -> int:
    """How often the engine has started a service's container again."""
    container = net.compose("ps", "--quiet", service).strip()
    return int(output_of(["docker", "inspect", "--format", "{{.RestartCount}}", container], 30.0))


def main() -> int:
    """Tell the story, then clean up, whatever happened."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave it running at the end")
    parser.add_argument("--no-build", action="store_true", help="take the image that is there")
    args = parser.parse_args()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", flush=True)

    if not args.no_build:
        try:
            build_image(say)
            say("image built")
            prune()
        except StepError as error:
            say(f"failed: {error}")
            return 1
    net = Containers(say, CHAOS)
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
