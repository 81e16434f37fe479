"""The units in docs/systemd start commands that there are, and give up what can not work."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest

from node import exit_codes
from node.cli import build_parser
from swarm.errors import Code

UNITS = Path(__file__).resolve().parents[2] / "docs" / "systemd"


def service(name: str) -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read_string((UNITS / name).read_text(encoding="utf-8").replace("\\\n", " "))
    return unit["Service"]


@pytest.mark.parametrize("name", sorted(path.name for path in UNITS.glob("*.service")))
def test_a_unit_starts_a_command_that_there_is(name: str) -> None:
    words = shlex.split(service(name)["ExecStart"].replace("$PEERS", "--peer A --peer B"))
    assert words[0].endswith("/.venv/bin/node")
    assert callable(build_parser().parse_args(words[1:]).run)


@pytest.mark.parametrize(
    ("code", "again"),
    [
        (Code.RUN_ENDED, False), (Code.NOT_ADMITTED, False), (Code.DATA_MISSING, False),
        (Code.USAGE, False), (Code.BOOTSTRAP_UNREACHABLE, True), (Code.WORKER_CRASHED, True),
    ],
)  # fmt: skip
def test_a_volunteer_s_node_is_started_again_when_another_try_may_help(
    code: Code, again: bool
) -> None:
    settings = service("expertswarm.service")
    assert settings["Restart"] == "on-failure"
    assert str(exit_codes.TERMINATED) in settings["SuccessExitStatus"].split()
    given_up = settings["RestartPreventExitStatus"].split()
    assert (str(exit_codes.exit_code(code)) not in given_up) == again
