"""A volunteer's limits: how they are written, kept and explained, and when a node may train."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.limits import LIMITS, Limits, load_limits, save_limits
from node.node_toml import FILE_NAME, NODE, read_section, write_section
from node.settings import NodeSettings, settle
from node.units import parse_bytes, parse_duration, parse_rate, parse_share
from node.verdict import COOL_BY_C, Conditions, Verdict, Wish, decide
from swarm.errors import Code, SwarmError

NOON = datetime(2026, 3, 5, 12, 0)
FREE = Conditions()


def limits(**texts: str) -> Limits:
    return Limits().changed({name.replace("_", "-"): text for name, text in texts.items()})


# ---- as people write them -------------------------------------------------------------------


def test_sizes_rates_times_and_shares_are_read_as_people_write_them() -> None:
    assert [parse_bytes(t) for t in ("4gb", "500 MB", "1GiB", "7")] == [4e9, 5e8, 2**30, 7]
    assert [parse_rate(t) for t in ("10mbit", "10Mbit/s", "2MB/s")] == [1e7, 1e7, 1.6e7]
    assert [parse_duration(t) for t in ("90s", "30min", "2h", "1.5d")] == [90, 1800, 7200, 129600]
    assert parse_share("60%") == 0.6


@pytest.mark.parametrize("parse", [parse_bytes, parse_rate, parse_duration, parse_share])
@pytest.mark.parametrize("text", ["", "much", "-3gb", "0", "3 parsecs", "nan", "1e9", "200%"])
def test_what_is_no_quantity_is_refused(parse: object, text: str) -> None:
    with pytest.raises(SwarmError) as caught:
        parse(text)  # type: ignore[operator]
    assert caught.value.code is Code.CONFIG_INVALID


@pytest.mark.parametrize("name", LIMITS)
def test_every_limit_takes_its_example_and_is_shown_and_kept_as_written(
    name: str, tmp_path: Path
) -> None:
    chosen = Limits().changed({name: LIMITS[name].example})
    assert getattr(chosen, LIMITS[name].field)
    assert chosen.shown() == {name: LIMITS[name].example}
    save_limits(tmp_path, chosen)
    assert load_limits(tmp_path) == chosen
    assert chosen.changed({name: "off"}) == Limits()


@pytest.mark.parametrize(
    ("name", "text", "code", "hint"),
    [
        ("uplod", "10mbit", Code.CONFIG_UNKNOWN_KEY, "did you mean upload?"),
        ("upload", "9kbit", Code.CONFIG_INVALID, "for example: upload=10mbit"),
        ("hours", "22", Code.CONFIG_INVALID, "for example: hours=22-07"),
        ("hours", "25-3", Code.CONFIG_INVALID, "hours=off clears it"),
        ("hours", "7-7", Code.CONFIG_INVALID, "for example"),
        ("mains", "perhaps", Code.CONFIG_INVALID, "mains=yes"),
        ("vram", "0%", Code.CONFIG_INVALID, "vram=60%"),
    ],
)
def test_a_wrong_limit_is_refused_with_what_would_be_right(
    name: str, text: str, code: Code, hint: str
) -> None:
    with pytest.raises(SwarmError) as caught:
        Limits().changed({name: text})
    assert caught.value.code is code and hint in caught.value.hint


def test_a_file_written_by_hand_may_use_numbers_and_booleans(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("[limits]\ncpu-threads = 2\nmains = true\nidle = 'off'\n")
    assert load_limits(tmp_path).shown() == {"cpu-threads": "2", "mains": "yes"}


@pytest.mark.parametrize("text", ["[limit]\n", "limits = 3\n", "[limits]\nhour = '1-2'\n", "[["])
def test_a_file_that_makes_no_sense_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(SwarmError) as caught:
        load_limits(tmp_path)
    assert caught.value.code in (Code.CONFIG_UNKNOWN_KEY, Code.CONFIG_UNREADABLE)


def test_limits_leave_the_other_section_of_the_file_alone(tmp_path: Path) -> None:
    write_section(tmp_path, NODE, {"name": 'A "quoted" \\ name'})
    save_limits(tmp_path, limits(hours="22-07"))
    assert read_section(tmp_path, NODE) == {"name": 'A "quoted" \\ name'}


# ---- what is trained on ---------------------------------------------------------------------


def test_a_start_remembers_its_data_and_the_next_one_need_not_be_told(tmp_path: Path) -> None:
    told = settle(tmp_path, NodeSettings(data=str(tmp_path / "law.txt"), name="anna"))
    assert told == NodeSettings(str(tmp_path / "law.txt"), "law", "anna")
    assert settle(tmp_path, NodeSettings()) == told
    assert settle(tmp_path, NodeSettings(domain="courts")).domain == "courts"
    assert settle(tmp_path, NodeSettings(), "demo:maths").data == told.data


@pytest.mark.parametrize("name", ["gesetze 😀", 'a"b\\c', "two\nlines", "\x7f\x00"])
def test_a_start_remembers_names_of_all_kinds(name: str, tmp_path: Path) -> None:
    told = settle(tmp_path, NodeSettings(data="demo:maths", domain=name))
    assert settle(tmp_path, NodeSettings()) == told and told.domain == name


def test_without_data_the_ticket_s_suggestion_holds_and_without_one_it_is_asked_for(
    tmp_path: Path,
) -> None:
    with pytest.raises(SwarmError, match="what should it train on"):
        settle(tmp_path, NodeSettings())
    assert settle(tmp_path, NodeSettings(), "demo:maths") == NodeSettings("demo:maths", "maths")


# ---- the verdict ----------------------------------------------------------------------------

TEXTS = st.fixed_dictionaries(
    {},
    optional={
        "hours": st.sampled_from(["22-07", "9-17", "0-6,12:30-14", "23:59-0:01"]),
        "mains": st.just("yes"),
        "idle": st.sampled_from(["30s", "10min"]),
        "temperature": st.integers(40, 95).map(str),
        "daily-traffic": st.sampled_from(["1mb", "5gb"]),
        "memory": st.sampled_from(["200mb", "8gb"]),
    },
)
CONDITIONS = st.builds(
    Conditions,
    on_mains=st.sampled_from([None, True, False]),
    idle_s=st.none() | st.floats(0, 5000),
    temperature_c=st.none() | st.floats(10, 110),
    traffic_bytes=st.integers(0, 10**10),
    needed_bytes=st.integers(0, 10**10),
)
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31))
WISHES = st.builds(Wish, paused=st.booleans(), until=st.none() | MOMENTS)


@given(conditions=CONDITIONS, now=MOMENTS)
def test_without_limits_and_wishes_nothing_forbids_training(
    conditions: Conditions, now: datetime
) -> None:
    assert decide(Limits(), conditions, Wish(), now) == Verdict()


@given(texts=TEXTS, more=TEXTS, conditions=CONDITIONS, wish=WISHES, now=MOMENTS)
def test_a_further_limit_never_allows_what_was_forbidden(
    texts: dict[str, str], more: dict[str, str], conditions: Conditions, wish: Wish, now: datetime
) -> None:
    few = Limits().changed(texts)
    many = few.changed({name: text for name, text in more.items() if name not in texts})
    if not decide(few, conditions, wish, now).may_train:
        assert not decide(many, conditions, wish, now).may_train


@given(texts=TEXTS, conditions=CONDITIONS, now=MOMENTS)
def test_each_limit_forbids_by_itself_exactly_when_all_together_do(
    texts: dict[str, str], conditions: Conditions, now: datetime
) -> None:
    alone = [
        decide(Limits().changed({name: text}), conditions, Wish(), now).may_train
        for name, text in texts.items()
    ]
    together = decide(Limits().changed(texts), conditions, Wish(), now)
    assert together.may_train is all(alone)


@given(conditions=CONDITIONS, texts=TEXTS, wish=WISHES, now=MOMENTS)
def test_a_resume_never_helps_against_a_limit_and_a_pause_always_holds(
    conditions: Conditions, texts: dict[str, str], wish: Wish, now: datetime
) -> None:
    chosen = Limits().changed(texts)
    paused = Wish(paused=True, until=now + timedelta(seconds=1))
    assert not decide(chosen, conditions, paused, now).may_train
    over = decide(chosen, conditions, paused, now + timedelta(seconds=1))
    free = decide(chosen, conditions, Wish(), now + timedelta(seconds=1))
    assert over == free


@pytest.mark.parametrize(
    ("hours", "clock", "reason"),
    [
        ("22-07", (22, 0), ""),
        ("22-07", (6, 59), ""),
        ("22-07", (7, 0), "out of hours until 22:00"),
        ("9-17,20-24", (17, 0), "out of hours until 20:00"),
        ("9-17,20-24", (23, 59), ""),
        ("9-17", (18, 0), "out of hours until Fri 09:00"),
    ],
)
def test_hours_begin_and_end_to_the_minute_also_over_midnight(
    hours: str, clock: tuple[int, int], reason: str
) -> None:
    now = NOON.replace(hour=clock[0], minute=clock[1])
    assert decide(limits(hours=hours), FREE, Wish(), now).reason == reason


def test_a_hot_machine_must_cool_down_by_some_degrees_before_it_goes_on() -> None:
    cap = limits(temperature="80")

    def at(degrees: float, before: Verdict) -> Verdict:
        return decide(cap, Conditions(temperature_c=degrees), Wish(), NOON, before)

    assert at(79.9, Verdict()).may_train
    hot = at(80.0, Verdict())
    assert hot.reason == "too hot: the limit is 80 °C; it goes on below 75 °C"
    assert not at(80 - COOL_BY_C, hot).may_train
    assert at(80 - COOL_BY_C - 0.1, hot).may_train


def test_used_up_traffic_is_known_although_another_reason_is_given() -> None:
    verdict = decide(
        limits(daily_traffic="1mb"), Conditions(traffic_bytes=10**6), Wish(paused=True), NOON
    )
    assert verdict.reason.startswith("you asked") and verdict.spent
