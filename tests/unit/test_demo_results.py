"""The record of a testnet and the demo's verdict, from made-up observations."""

from __future__ import annotations

import dataclasses

import pytest

from node.demo.results import KillDrill, Scores, bytes_as_json, find_problems, rounds_as_json
from node.demo.settings import DOMAINS, DemoSettings, demo_manifest
from node.recorder import Recorder, RoundResult
from swarm.wire.node_pb2 import RoundSummary, StatusReply


def status(peer: str, **fields: object) -> StatusReply:
    return StatusReply(peer_id=f"id-{peer}", **{"state": "TRAINING", "pid": 1, **fields})


def summary(number: int, root: str = "aa", **fields: object) -> RoundSummary:
    given = {"commit_id": f"c{number}", "outcome": "full", "seconds": 1.0, **fields}
    return RoundSummary(round=number, state_root=root, **given)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder([("a", "law"), ("b", "maths")])


def test_a_round_is_equal_only_when_all_who_tell_of_it_have_the_same_hash(
    recorder: Recorder,
) -> None:
    both = [status("a"), status("b")]
    recorder.observe(0.0, both, [[summary(1), summary(2)], [summary(1), summary(2, root="bb")]])
    recorder.observe(1.0, both, [[summary(3)], []])
    assert [(r.round, r.compared, r.hashes_equal) for r in recorder.rounds()] == [
        (1, 2, True),
        (2, 2, False),
        (3, 1, True),
    ]


def test_two_commits_of_one_round_are_not_equal(recorder: Recorder) -> None:
    recorder.observe(
        0.0, [status("a"), status("b")], [[summary(1)], [summary(1, commit_id="other")]]
    )
    assert not recorder.rounds()[0].hashes_equal


def test_names_replace_ids_and_voters_are_those_that_anybody_saw(recorder: Recorder) -> None:
    first = summary(1, contributors=["id-b", "id-a"], voters=["id-a"], missing=["id-b: silent"])
    second = summary(1, contributors=["id-b", "id-a"], voters=["id-b"], seconds=2.5)
    recorder.observe(0.0, [status("a"), status("b")], [[first], [second]])
    told = recorder.rounds()[0]
    assert told.contributors == told.voters == ("a", "b")
    assert told.seconds == 2.5


def test_traffic_and_tokens_are_summed_over_a_restart(recorder: Recorder) -> None:
    b = status("b")
    first = status("a", pid=10, bytes_sent=100, bytes_received=5, tokens_trained=7)
    again = status("a", pid=11, bytes_sent=30, bytes_received=1, tokens_trained=2)
    recorder.observe(0.0, [first, b], [[], []])
    recorder.observe(1.0, [None, b], [[], []])
    recorder.observe(2.0, [again, b], [[], []])
    assert bytes_as_json(recorder)["a"] == {"sent": 130, "received": 6}
    assert recorder.nodes[0].tokens_trained == 9


def test_only_time_in_training_or_averaging_counts_as_trained(recorder: Recorder) -> None:
    b = status("b", state="JOINING")
    for now, state in enumerate(("STARTING", "TRAINING", "AVERAGING", "TRAINING")):
        recorder.observe(float(now), [status("a", state=state), b], [[], []])
    recorder.observe(10.0, [None, b], [[], []])
    recorder.observe(20.0, [status("a"), b], [[], []])
    assert recorder.nodes[0].active_s == pytest.approx(9.0)
    assert recorder.nodes[1].active_s == 0.0


def test_a_dead_node_is_shown_dead_with_its_last_numbers(recorder: Recorder) -> None:
    recorder.observe(0.0, [status("a", round=4, loss=2.5), None], [[], []])
    recorder.observe(1.0, [None, None], [[], []])
    first, second = recorder.peer_views(now_ms=0)
    assert (first.state, first.round, first.losses) == ("dead", 4, (2.5,))
    assert second.state == "starting"


def test_history_is_asked_from_where_it_ended(recorder: Recorder) -> None:
    recorder.observe(0.0, [status("a"), None], [[summary(1), summary(2)], []])
    assert (recorder.next_round(0), recorder.next_round(1)) == (2, 0)


GOOD_SCORES = Scores(
    initial={"law": 8.0, "maths": 8.0},
    assembled={"law": 3.0, "maths": 3.0},
    solo={"a": {"law": 2.5, "maths": 4.0}, "b": {"law": 4.0, "maths": 2.5}},
)
GOOD_DRILL = KillDrill("b", 10.0, restarted_at_s=13.0, rejoined_at_s=21.5, voted_again_round=4)
GOOD_ROUND = RoundResult(
    round=1, outcome="full", seconds=1.0, contributors=("a", "b"), voters=("a", "b"), missing=(),
    attempts=1, commit_id="c", loss=3.0, committed_tokens=10, committed_at_ms=5, compared=2,
    hashes_equal=True,
)  # fmt: skip
GOOD_ROUNDS = [dataclasses.replace(GOOD_ROUND, round=n) for n in (1, 2, 3)]


def test_a_run_in_which_everything_held_has_no_problem() -> None:
    assert find_problems(GOOD_SCORES, GOOD_ROUNDS, GOOD_DRILL) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"assembled": {"law": 8.0, "maths": 1.0}}, "law: the assembled model is not better"),
        ({"assembled": {"law": float("nan"), "maths": 1.0}}, "law: the assembled model"),
        ({"assembled": {"law": 3.0, "maths": 3.5}}, "better on the average than a alone"),
    ],
)
def test_a_model_that_is_not_better_is_a_problem(change: dict, problem: str) -> None:
    scores = dataclasses.replace(GOOD_SCORES, **change)
    assert any(problem in found for found in find_problems(scores, GOOD_ROUNDS, GOOD_DRILL))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rejoined_at_s": None}, "b did not rejoin"),
        ({"voted_again_round": None}, "b did not vote again"),
    ],
)
def test_a_peer_that_did_not_come_back_is_a_problem(change: dict, problem: str) -> None:
    drill = dataclasses.replace(GOOD_DRILL, **change)
    assert any(problem in found for found in find_problems(GOOD_SCORES, GOOD_ROUNDS, drill))


def test_different_hashes_too_few_rounds_and_nothing_compared_are_problems() -> None:
    different = [dataclasses.replace(GOOD_ROUND, hashes_equal=False), *GOOD_ROUNDS[1:]]
    alone = [dataclasses.replace(r, compared=1) for r in GOOD_ROUNDS]
    for rounds, problem in (
        (different, "round 1: the peers have different hashes"),
        (GOOD_ROUNDS[:2], "only 2 rounds"),
        (alone, "could be compared"),
    ):
        assert any(problem in p for p in find_problems(GOOD_SCORES, rounds, GOOD_DRILL)), problem


def test_the_json_has_the_promised_fields() -> None:
    assert GOOD_SCORES.by_domain()["law"] == {
        "initial": 8.0,
        "assembled": 3.0,
        "solo": {"a": 2.5, "b": 4.0},
    }
    assert {"round", "outcome", "hashes_equal", "seconds"} <= set(rounds_as_json(GOOD_ROUNDS)[0])
    drill = GOOD_DRILL.as_json()
    assert (drill["at_s"], drill["rejoined_after_s"], drill["voted_again"]) == (10.0, 11.5, True)
    missing = KillDrill("b", 10.0).as_json()
    assert (missing["rejoined_after_s"], missing["voted_again"]) == (None, False)


@pytest.mark.parametrize("tokens_per_second", [1.0, 3_000.0, 1_000_000.0])
@pytest.mark.parametrize("seconds", [2.0, 120.0, 3600.0])
def test_the_manifest_fits_any_machine(tokens_per_second: float, seconds: float) -> None:
    manifest = demo_manifest(seconds, tokens_per_second)
    assert 2 <= manifest.training.inner_steps <= 500
    assert manifest.training.warmup_tokens < manifest.training.total_tokens
    assert manifest.sync.experts_per_peer * len(DOMAINS) == manifest.model.num_experts
    assert manifest.membership.min_peers == len(DOMAINS)


def test_every_path_of_the_demo_is_in_its_directory(tmp_path) -> None:
    settings = DemoSettings(240, tmp_path)
    assert settings.swarm_s == 120
    paths = [settings.manifest_path, settings.assembled_dir, settings.corpus_dir("maths")]
    assert all(path.is_relative_to(tmp_path) for path in [*paths, settings.solo_dir("maths")])
