"""The doctor's judgement: from facts to lines, each with what to do when it is not well."""

from __future__ import annotations

import dataclasses

import pytest

from node import exit_codes
from node.doctor import checks
from node.doctor.checks import Needs, NetworkFacts, needs_of
from node.doctor.lines import Level, Line, exit_code_of
from swarm.errors import Code
from swarm.network.clocks import ClockOffsets

WELL = NetworkFacts(
    asked=2,
    answered=2,
    clock_offset_s=0.1,
    clock_peers=2,
    nat="public",
    nat_reason="two peers reached it",
    up_bps=50e6,
    down_bps=100e6,
)
NEEDS = needs_of(parameters=10_000_000, update_bytes=40_000_000, attempt_s=60)


def facts(**changes: object) -> NetworkFacts:
    return dataclasses.replace(WELL, **changes)


def all_lines(seen: NetworkFacts) -> list[Line]:
    return [
        checks.check_peers(seen),
        checks.check_clock(seen),
        checks.check_nat(seen),
        checks.check_relay(seen),
        checks.check_bandwidth("upload", seen.up_bps, seen, NEEDS),
        *checks.check_versions("0.1.0", (3, 11), checks.HIVEMIND, seen),
    ]


def test_a_public_peer_with_a_right_clock_has_nothing_to_do() -> None:
    lines = all_lines(WELL)
    assert {line.level for line in lines} == {Level.OK}
    assert exit_code_of(lines) == exit_codes.OK


@pytest.mark.parametrize(
    "seen",
    [
        NetworkFacts(),
        NetworkFacts(running=True, company="isolated", company_reason="isolated"),
        NetworkFacts(asked=2, problem="refused", problem_code=Code.PEER_UNREACHABLE),
        facts(nat="symmetric", clock_offset_s=9.0, up_bps=1e4),
    ],
)
def test_whatever_is_not_well_comes_with_what_to_do(seen: NetworkFacts) -> None:
    lines = all_lines(seen)
    assert all(bool(line.advice) is (line.level is not Level.OK) for line in lines)
    assert any(line.level is not Level.OK for line in lines)


@pytest.mark.parametrize(
    ("offset_s", "level", "words"),
    [
        (0.4, Level.OK, "0.4 s from"),
        (-1.5, Level.WARNING, "1.5 s ahead of"),
        (2.9, Level.WARNING, "2.9 s behind"),
        (3.0, Level.FAILURE, "3.0 s behind"),
        (-40.0, Level.FAILURE, "40.0 s ahead of"),
    ],
)
def test_a_clock_must_be_within_three_seconds_of_the_peers(
    offset_s: float, level: Level, words: str
) -> None:
    line = checks.check_clock(facts(clock_offset_s=offset_s))
    assert line.level is level and words in line.message


def test_a_clock_so_wrong_that_peers_refuse_every_message_is_said_to_be_the_cause() -> None:
    line = checks.check_clock(
        facts(clock_peers=0, problem_code=Code.MESSAGE_EXPIRED, problem="sent 90 s ago")
    )
    assert line.level is Level.FAILURE and "ntp" in line.advice


@pytest.mark.parametrize(
    ("code", "word"),
    [(Code.NOT_ADMITTED, "ticket"), (Code.RUN_MISMATCH, "RUN.toml"), (Code.STAGE_TIMEOUT, "peer")],
)
def test_why_no_peer_answers_decides_what_to_do(code: Code, word: str) -> None:
    line = checks.check_peers(facts(answered=0, problem="no", problem_code=code))
    assert line.level is Level.FAILURE and word in line.advice


@pytest.mark.parametrize(
    ("nat", "relays", "reach", "relay"),
    [
        ("public", 0, Level.OK, Level.OK),
        ("port-forwarded", 0, Level.OK, Level.OK),
        ("endpoint-independent", 2, Level.OK, Level.OK),
        ("endpoint-independent", 0, Level.OK, Level.FAILURE),
        ("symmetric", 2, Level.WARNING, Level.OK),
        ("symmetric", 1, Level.WARNING, Level.WARNING),
        ("firewalled", 0, Level.WARNING, Level.FAILURE),
        ("local", 0, Level.WARNING, Level.OK),
        ("unknown", 0, Level.WARNING, Level.WARNING),
    ],
)
def test_who_can_not_be_reached_needs_two_relays(
    nat: str, relays: int, reach: Level, relay: Level
) -> None:
    seen = facts(nat=nat, relays=("r",) * relays)
    assert checks.check_nat(seen).level is reach
    assert checks.check_relay(seen).level is relay


@pytest.mark.parametrize(
    ("bps", "level"),
    [(0.0, Level.WARNING), (1e6, Level.FAILURE), (15e6, Level.WARNING), (50e6, Level.OK)],
)
def test_a_round_has_to_go_through_within_an_attempt(bps: float, level: Level) -> None:
    line = checks.check_bandwidth("upload", bps, WELL, NEEDS)
    assert line.level is level


@pytest.mark.parametrize(
    ("share", "disk", "memory"),
    [
        (0.4, Level.FAILURE, Level.FAILURE),
        (0.9, Level.FAILURE, Level.WARNING),
        (1.5, Level.WARNING, Level.OK),
        (3.0, Level.OK, Level.OK),
    ],
)
def test_space_and_memory_are_held_against_what_the_run_needs(
    share: float, disk: Level, memory: Level
) -> None:
    needs = Needs(disk=1000, memory=1000)
    assert checks.check_disk("d", round(1000 * share), "", needs).level is disk
    assert checks.check_memory(round(1000 * share), needs).level is memory


def test_a_directory_that_can_not_be_written_fails_however_much_is_free() -> None:
    assert checks.check_disk("d", 10**12, "read only", NEEDS).level is Level.FAILURE


def test_a_device_that_is_not_there_names_those_that_are() -> None:
    line = checks.check_device("cuda", ["cpu"], 2, 1)
    assert line.level is Level.FAILURE and "cpu" in line.advice
    assert checks.check_device("cuda:1", ["cuda", "cpu"], 2, 1).level is Level.OK
    assert checks.check_device("auto", ["cpu"], 2, 4).level is Level.WARNING


def test_kernels_that_are_not_compiled_are_a_warning() -> None:
    assert checks.check_kernels(False).level is Level.WARNING
    assert checks.check_kernels(True).level is Level.OK


@pytest.mark.parametrize(
    ("python", "hivemind", "peers", "level"),
    [
        ((3, 11), checks.HIVEMIND, {}, Level.OK),
        ((3, 9), checks.HIVEMIND, {}, Level.FAILURE),
        ((3, 11), "1.1.11", {}, Level.FAILURE),
        ((3, 11), "", {}, Level.FAILURE),
        ((3, 11), checks.HIVEMIND, {"p": "0.2.0"}, Level.WARNING),
    ],
)
def test_versions(
    python: tuple[int, int], hivemind: str, peers: dict[str, str], level: Level
) -> None:
    (line,) = checks.check_versions("0.1.0", python, hivemind, facts(peer_versions=peers))
    assert line.level is level


def test_a_port_in_use_is_a_failure_unless_it_is_the_node_itself() -> None:
    assert checks.check_port("0.0.0.0", 4001, "in use", running=False).level is Level.FAILURE
    assert checks.check_port("0.0.0.0", 4001, "", running=True).level is Level.OK


def test_one_failure_makes_the_exit_code_and_warnings_do_not() -> None:
    line = Line("x", Level.WARNING, "m", "a")
    assert exit_code_of([line]) == exit_codes.OK
    assert exit_code_of([line, Line("y", Level.FAILURE, "m", "a")]) == exit_codes.FAILED


def test_one_wrong_clock_among_several_does_not_make_ours_wrong() -> None:
    clocks = ClockOffsets()
    for number, ahead_s in enumerate((0.0, 0.1, 500.0)):
        clocks.note(f"peer{number}", 100.0, 100.2, round(1000 * (100.1 + ahead_s)))
    assert clocks.median_s == pytest.approx(0.1)
    for number in range(1000):
        clocks.note(f"sybil{number}", 100.0, 100.2, 100_000)
    assert len(clocks) <= 64
