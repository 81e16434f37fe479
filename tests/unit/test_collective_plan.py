"""The plan is a pure function with properties that every part of the protocol leans on."""

import itertools
import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.collective.plan import (
    WEIGHT_CLIP,
    PlanInputs,
    make_plan,
    normalized_weights,
    reducer_jobs,
    reducers_of,
    rendezvous_order,
)
from swarm.config import TimeoutPolicy
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import SignedRecord

PEERS = [f"peer{i}" for i in range(7)]
bandwidths = st.one_of(st.just(0.0), st.floats(1e3, 1e9))


@st.composite
def inputs(draw):
    numel = {f"fragment.{i}": draw(st.integers(1, 700_000)) for i in range(draw(st.integers(1, 4)))}
    members = draw(st.lists(st.sampled_from(PEERS), min_size=1, unique=True))
    offers = {
        peer: {f: draw(st.sampled_from([0.0, 1.0, 37.5, 1e6])) for f in numel} for peer in members
    }
    return PlanInputs(
        run_id=b"run",
        branch=b"branch",
        round=draw(st.integers(0, 1000)),
        ballot=pb.Ballot(attempt=1, leader=members[0]),
        base_commit=b"base",
        electorate=members,
        unanimous=False,
        offers=offers,
        numel=numel,
        records={p: SignedRecord() for p in members},
        codec="fp32",
        equal_weights=draw(st.booleans()),
        readers_keep_all=draw(st.booleans()),
        timeouts=TimeoutPolicy(),
        upload_bps={p: draw(bandwidths) for p in members},
        download_bps={p: draw(bandwidths) for p in members},
    )


@settings(max_examples=60, deadline=None)
@given(inputs())
def test_every_element_has_exactly_one_reducer_who_contributes_to_it(given_inputs):
    plan = make_plan(given_inputs)
    for fragment in plan.fragments:
        edges = sorted((p.begin, p.end) for p in fragment.parts)
        assert edges[0][0] == 0 and edges[-1][1] == given_inputs.numel[fragment.fragment]
        assert all(a[1] == b[0] for a, b in itertools.pairwise(edges))
        assert {p.reducer for p in fragment.parts} <= set(fragment.contributors)
        assert set(fragment.contributors) <= set(fragment.receivers)
        assert abs(sum(fragment.weights) - 1) < 1e-5


@settings(max_examples=60, deadline=None)
@given(inputs())
def test_jobs_cover_every_part_once_in_chunks_of_at_most_a_mebibyte(given_inputs):
    plan = make_plan(given_inputs)
    covered: dict[str, int] = {}
    for reducer in reducers_of(plan):
        jobs = reducer_jobs(plan, reducer)
        assert [job.index for job in jobs] == list(range(len(jobs)))
        for job in jobs:
            assert 0 < job.elements * 4 <= 1 << 20
            covered[job.fragment] = covered.get(job.fragment, 0) + job.elements
    assert covered == {f.fragment: f.numel for f in plan.fragments}


@settings(max_examples=40, deadline=None)
@given(inputs(), st.randoms())
def test_the_plan_does_not_depend_on_the_order_of_reports(given_inputs, shuffler: random.Random):
    def shuffled(table):
        items = list(table.items())
        shuffler.shuffle(items)
        return dict(items)

    other = PlanInputs(
        **{
            **given_inputs.__dict__,
            "offers": {p: shuffled(o) for p, o in shuffled(given_inputs.offers).items()},
            "numel": shuffled(given_inputs.numel),
        }
    )
    assert make_plan(other) == make_plan(given_inputs)


def test_a_fragment_that_nobody_offers_is_not_in_the_plan():
    base = PlanInputs(
        run_id=b"r", branch=b"", round=1, ballot=pb.Ballot(), base_commit=b"", electorate=["a"],
        unanimous=False, offers={"a": {"x": 0.0, "y": 5.0}}, numel={"x": 10, "y": 10},
        records={"a": SignedRecord()}, codec="fp32", equal_weights=False, readers_keep_all=True,
        timeouts=TimeoutPolicy(),
    )  # fmt: skip
    assert [f.fragment for f in make_plan(base).fragments] == ["y"]


def test_weights_are_clipped_to_four_times_the_median_and_sum_to_one():
    weights = normalized_weights({"a": 100.0, "b": 100.0, "c": 1e9}, WEIGHT_CLIP)
    assert abs(weights["c"] - 400 / 600) < 1e-6 and abs(weights["a"] - 100 / 600) < 1e-6


def test_weights_without_a_clip_stay_in_proportion():
    weights = normalized_weights({"a": 1.0, "b": 999.0}, math.inf)
    assert abs(weights["b"] - 0.999) < 1e-6


def test_removing_a_peer_does_not_reorder_the_succession_of_the_others():
    order = rendezvous_order(b"key", PEERS)
    for gone in PEERS:
        assert rendezvous_order(b"key", [p for p in PEERS if p != gone]) == [
            p for p in order if p != gone
        ]
    assert rendezvous_order(b"other key", PEERS) != order
