"""Parts of a volunteer's daemon by themselves: governor, sensors, log, counts, names."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from node import log_files, sensors
from node.control_client import ControlClient
from node.control_server import NodeControl, control_server
from node.daemon_status import Status
from node.daily_traffic import SAVE_EVERY_BYTES, DailyTraffic
from node.governor import Governor
from node.limits import Limits, load_limits
from node.log_files import LogReader, log_path, node_log, set_aside_if_long
from node.names import friendly_name
from node.verdict import Conditions, Verdict
from node.volunteer_server import VolunteerControl
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.network.tickets import make_ticket, read_ticket
from swarm.wire.node_pb2 import StatusReply


class Machine:
    """Conditions and a clock that a test sets."""

    def __init__(self) -> None:
        self.conditions = Conditions(on_mains=True)
        self.now = datetime(2026, 3, 5, 12, 0)

    def governor(self, directory: Path) -> Governor:
        return Governor(directory, lambda limits: self.conditions, lambda: self.now)


async def forever() -> None:
    await asyncio.sleep(3600)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(scenario(), 10)

    asyncio.run(main())


# ---- the governor ---------------------------------------------------------------------------


def test_work_is_cancelled_when_it_is_not_allowed_any_more_and_its_error_is_passed_on(
    tmp_path: Path,
) -> None:
    machine = Machine()

    async def failing() -> None:
        raise SwarmError(Code.DISK_FULL, "the end")

    async def scenario() -> None:
        governor = machine.governor(tmp_path)
        work = asyncio.create_task(governor.while_allowed(forever()))
        await asyncio.sleep(0)
        assert not (await governor.pause(0)).may_train
        await work
        said: list[str] = []
        waiting = asyncio.create_task(governor.until_allowed(said.append))
        await asyncio.sleep(0.01)
        await governor.set_limits({"hours": "1-2"})
        await governor.resume()
        await asyncio.sleep(0.01)
        await governor.set_limits({"hours": "off"})
        await waiting
        assert [line.split()[0] for line in said] == ["you", "out"]
        with pytest.raises(SwarmError, match="the end"):
            await governor.while_allowed(failing())

    play(scenario)


def test_a_timed_pause_and_a_changed_machine_are_noticed_without_being_told(
    tmp_path: Path,
) -> None:
    machine = Machine()

    async def scenario() -> None:
        governor = machine.governor(tmp_path)
        running = asyncio.create_task(governor.run())
        await governor.set_limits({"mains": "yes"})
        await governor.pause(60)
        machine.now += timedelta(seconds=61)
        await governor.until_allowed(lambda reason: None)
        machine.conditions = Conditions(on_mains=False)
        await governor.while_allowed(forever())
        assert governor.verdict.reason == "on battery"
        running.cancel()

    play(scenario)
    assert load_limits(tmp_path).shown() == {"mains": "yes"}


def test_a_pause_outlives_the_process_until_its_end_or_until_it_is_ended(tmp_path: Path) -> None:
    machine = Machine()

    def restarted() -> Verdict:
        return machine.governor(tmp_path).verdict

    async def scenario() -> None:
        governor = machine.governor(tmp_path)
        await governor.pause(7200)
        assert restarted().reason == "you asked it to pause until 14:00"
        machine.now += timedelta(hours=2)
        assert restarted().may_train
        await governor.pause(0)
        machine.now += timedelta(days=400)
        assert restarted().reason == "you asked it to pause; node resume ends that"
        await governor.resume()
        assert restarted().may_train
        (tmp_path / "pause.json").write_text("{]")
        assert not restarted().may_train

    play(scenario)


def test_a_pause_that_can_not_be_saved_holds_all_the_same(tmp_path: Path) -> None:
    async def scenario() -> None:
        directory = tmp_path / "node"
        governor = Machine().governor(directory)
        directory.write_text("a file where the directory should be")
        with pytest.raises(SwarmError) as caught:
            await governor.pause(0)
        assert caught.value.code is Code.DIR_NOT_WRITABLE
        assert not governor.verdict.may_train

    play(scenario)


def test_what_the_daemon_refuses_is_the_error_of_the_command(tmp_path: Path) -> None:
    machine = Machine()

    async def scenario() -> None:
        governor = machine.governor(tmp_path)
        servicer = NodeControl(Status(lambda line: None), unasked, lambda reason: None)
        volunteer = VolunteerControl(governor, lambda: None)
        async with control_server(tmp_path, servicer, volunteer):
            with ControlClient(tmp_path) as control, pytest.raises(SwarmError) as caught:
                await asyncio.to_thread(control.pause, 1e12)
        assert caught.value.code is Code.CONFIG_INVALID and "node resume" in caught.value.hint
        assert governor.verdict.may_train

    async def unasked() -> StatusReply:
        raise AssertionError

    play(scenario)


def test_a_wrong_limit_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        governor = Machine().governor(tmp_path)
        told: list[Limits] = []
        governor.on_limits = told.append
        with pytest.raises(SwarmError):
            await governor.set_limits({"hours": "22-07", "upload": "slow"})
        assert governor.limits == Limits() and not told
        await governor.set_limits({"upload": "1mbit"})
        assert [limits.upload_bps for limits in told] == [1e6]

    play(scenario)


# ---- sensors --------------------------------------------------------------------------------


def test_a_terminal_that_was_typed_in_tells_how_long_a_machine_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "_output", lambda *command: "")
    assert sensors.idle_seconds(1000.0, tmp_path) is None
    (tmp_path / "pts").mkdir()
    for name, used_s in (("tty1", 100.0), ("pts/3", 940.0), ("pts/ptmx", 999.0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (used_s, used_s))
    assert sensors.idle_seconds(1000.0, tmp_path) == 60.0
    monkeypatch.setattr(sensors, "_output", lambda *command: "IdleHint=no\nIdleSinceHint=0\n")
    assert sensors.idle_seconds(1000.0, tmp_path) == 0.0
    monkeypatch.setattr(
        sensors, "_output", lambda *command: "IdleHint=yes\nIdleSinceHint=970000000\n"
    )
    assert sensors.idle_seconds(1000.0, tmp_path) == 30.0


def test_a_gpu_is_a_sensor_too_and_a_tool_that_fails_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sensors.psutil, "sensors_temperatures", dict, raising=False)
    monkeypatch.setattr(sensors, "_output", lambda *command: "61\n[N/A]\n")
    assert sensors.hottest_c() == 61.0
    monkeypatch.undo()
    assert sensors._output("false") == sensors._output("no-such-tool") == ""


def test_only_what_a_limit_asks_for_is_measured() -> None:
    assert sensors.measure(Limits()) == Conditions()


# ---- counts, log, names ---------------------------------------------------------------------


def test_the_traffic_of_a_day_is_counted_over_restarts_and_begins_anew_at_midnight(
    tmp_path: Path,
) -> None:
    moved = 0
    traffic = DailyTraffic(tmp_path, lambda: moved)
    moved = 3 * SAVE_EVERY_BYTES
    assert traffic.today(date(2026, 3, 5)) == moved
    moved += 10
    assert traffic.today(date(2026, 3, 5)) == 3 * SAVE_EVERY_BYTES + 10
    traffic.save()
    moved = 0
    again = DailyTraffic(tmp_path, lambda: moved)
    moved = 5
    assert again.today(date(2026, 3, 5)) == 3 * SAVE_EVERY_BYTES + 15
    assert again.today(date(2026, 3, 6)) == 0
    (tmp_path / "traffic.json").write_text("{]")
    assert DailyTraffic(tmp_path, lambda: moved).today(date(2026, 3, 6)) == 0


def test_a_log_is_rotated_and_read_on_in_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "MAX_BYTES", 400)
    path, reader = log_path(tmp_path), LogReader(log_path(tmp_path))
    assert reader.added() == []
    with node_log(tmp_path) as say:
        say("first")
        assert reader.last(5)[0].endswith(" first")
        for number in range(100):
            say(f"line {number}")
        assert reader.added()[-1].endswith("line 99")
    files = sorted(file.name for file in path.parent.iterdir())
    assert files == ["node.log", "node.log.1", "node.log.2", "node.log.3"]
    assert sum(file.stat().st_size for file in path.parent.iterdir()) <= 4 * 400
    with open(path, "a") as file:
        file.write("half a")
        file.flush()
        assert reader.added() == []
        file.write(" line\n")
        file.flush()
        assert reader.added() == ["half a line"]
    set_aside_if_long(path)
    assert path.exists()
    path.write_text("x" * 500)
    set_aside_if_long(path)
    assert not path.exists()


def test_a_peer_has_one_friendly_name_and_others_have_others() -> None:
    names = {friendly_name(f"12D3KooW{number}") for number in range(200)}
    assert len(names) > 190
    assert friendly_name("12D3KooW7") == friendly_name("12D3KooW7")
    assert all(len(name.split("-")) == 3 for name in names)


def test_a_ticket_may_suggest_a_built_in_text_but_no_file_of_the_machine() -> None:
    def suggested(data: str) -> str:
        text = make_ticket(RunManifest(), None, (), expires_at_ms=round(1000 * time.time()) + 10**6,
                           data=data)  # fmt: skip
        return read_ticket(text).data

    assert suggested("demo:english") == "demo:english"
    assert suggested("/home/anna/.ssh") == suggested("demo:../x") == suggested("") == ""
