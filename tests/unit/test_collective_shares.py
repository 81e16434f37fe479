"""Parts follow the measured links: a slow peer is not asked to reduce, equal peers share alike."""

from __future__ import annotations

import itertools
import math
import random
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import swarm.collective.shares as share_module
from swarm.collective.codecs import get_codec
from swarm.collective.minimax import minimize_largest
from swarm.collective.plan import PlanInputs, make_plan, rendezvous_order
from swarm.collective.shares import (
    ALIGNMENT,
    LEAST_ELEMENTS,
    Rates,
    attempt_timeout,
    chunk_elements,
    predicted_seconds,
    share_parts,
    striped,
)
from swarm.config import TimeoutPolicy
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import SignedRecord

PEERS = [f"peer{i}" for i in range(7)]
MBIT = 1e6
MIB = 1 << 18  # elements of fp32
CHUNK = 1 << 16

rate = st.one_of(st.just(0.0), st.floats(1e5, 1e10))
known_rate = st.floats(10.0, 100.0).map(lambda v: v * MBIT)


def fragment(name, numel, contributors, receivers=None, codec="fp32"):
    """A fragment's plan that has no parts yet."""
    return pb.FragmentPlan(
        fragment=name, numel=numel, codec=codec, contributors=sorted(contributors),
        receivers=sorted(receivers or contributors),
    )  # fmt: skip


def same_rates(table):
    return Rates(table, table)


def shared(fragments, rates, chunk=CHUNK):
    """Plan with the parts of `fragments`."""
    orders = [rendezvous_order(f.fragment.encode(), f.contributors) for f in fragments]
    peers = sorted({p for f in fragments for p in (*f.contributors, *f.receivers)})
    plan = pb.Plan(members=[pb.Member(peer=p) for p in peers])
    for bare, parts in zip(fragments, share_parts(fragments, orders, rates, chunk), strict=True):
        plan.fragments.add().CopyFrom(bare)
        plan.fragments[-1].parts.extend(parts)
    return plan


def reduced(plan):
    """Elements that each peer reduces."""
    sizes = dict.fromkeys((m.peer for m in plan.members), 0)
    for part in (p for f in plan.fragments for p in f.parts):
        sizes[part.reducer] += part.end - part.begin
    return sizes


@st.composite
def rounds(draw, rates=rate, least=1, most=3_000_000):
    """Fragments of one round and the rates of its peers."""
    members = draw(st.lists(st.sampled_from(PEERS), min_size=1, unique=True))
    fragments = [
        fragment(
            f"fragment.{i}",
            draw(st.integers(least, most)),
            (contributors := draw(st.lists(st.sampled_from(members), min_size=1, unique=True))),
            members if draw(st.booleans()) else contributors,
            draw(st.sampled_from(["fp32", "bf16", "int8"])),
        )
        for i in range(draw(st.integers(1, 5)))
    ]
    up, down = ({p: draw(rates) for p in members} for _ in range(2))
    return fragments, Rates(up, down)


@settings(max_examples=80, deadline=None)
@given(rounds())
def test_every_element_has_one_reducer_who_contributes_and_edges_are_aligned(given_round):
    fragments, rates = given_round
    for f in shared(fragments, rates).fragments:
        assert f.parts[0].begin == 0 and f.parts[-1].end == f.numel
        assert all(a.end == b.begin for a, b in itertools.pairwise(f.parts))
        assert all(part.begin < part.end for part in f.parts)
        assert all(part.begin % ALIGNMENT == 0 for part in f.parts)
        reducers = [part.reducer for part in f.parts]
        assert set(reducers) <= set(f.contributors)
        order = rendezvous_order(f.fragment.encode(), f.contributors)
        assert reducers == [p for p in order if p in reducers]


@settings(max_examples=80, deadline=None)
@given(rounds())
def test_no_part_is_too_small_to_be_worth_a_message(given_round):
    fragments, rates = given_round
    plan = shared(fragments, rates)
    room = sum(f.numel for f in fragments) // (4 * len(plan.members))
    least = min(CHUNK, max(LEAST_ELEMENTS, room)) - ALIGNMENT  # an edge moves by half a block
    for f in plan.fragments:
        assert len(f.parts) == 1 or min(p.end - p.begin for p in f.parts) >= least


@settings(max_examples=40, deadline=None)
@given(rounds(), st.randoms())
def test_parts_do_not_depend_on_the_order_of_fragments_and_reports(given_round, shuffler):
    fragments, rates = given_round
    plan = shared(fragments, rates)
    mixed = random.Random(shuffler.random()).sample(fragments, len(fragments))
    backwards = Rates(*(dict(reversed(t.items())) for t in (rates.upload_bps, rates.download_bps)))
    other = shared(mixed, backwards)
    assert {f.fragment: f for f in other.fragments} == {f.fragment: f for f in plan.fragments}


@settings(max_examples=40, deadline=None)
@given(rounds(), st.sampled_from([1e-3, 0.1, 0.7, 3.0, 1024.0]))
def test_scaling_all_rates_changes_nothing(given_round, factor):
    fragments, rates = given_round
    tables = (rates.upload_bps, rates.download_bps)
    scaled = Rates(*({p: v * factor for p, v in t.items()} for t in tables))
    assert shared(fragments, scaled) == shared(fragments, rates)


@settings(max_examples=60, deadline=None)
@given(rounds(rates=known_rate, least=64 * MIB, most=512 * MIB))
def test_a_plan_is_never_slower_than_equal_shares(given_round):
    fragments, rates = given_round
    sent, received = (dict.fromkeys(rates.upload_bps, 0.0) for _ in range(2))
    for f in fragments:
        size = 8 * get_codec(f.codec).encoded_bytes(f.numel)
        for p in f.contributors:
            sent[p] += size * (1 + (len(f.receivers) - 2) / len(f.contributors))
            received[p] += size * (len(f.contributors) - 2) / len(f.contributors)
        for p in f.receivers:
            received[p] += size
    equal_s = max(
        max(sent[p] / rates.upload_bps[p], received[p] / rates.download_bps[p]) for p in sent
    )
    assert predicted_seconds(shared(fragments, rates), rates) <= equal_s * 1.002


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1_000_000), st.data())
def test_a_fragment_of_any_size_is_never_slower_than_in_equal_parts(numel, data):
    peers = data.draw(st.lists(st.sampled_from(PEERS), min_size=2, unique=True))
    rates = Rates(*({p: data.draw(known_rate) for p in peers} for _ in range(2)))
    fragments = [fragment("f", numel, peers)]
    equal_s = predicted_seconds(shared(fragments, Rates({}, {})), rates)
    assert predicted_seconds(shared(fragments, rates), rates) <= equal_s


def waterline(peers, rates, elements):
    """Smallest time of one fp32 fragment that all contribute to and all receive, by bisection."""
    limits = [min(rates.upload_bps[p], rates.download_bps[p]) / (32 * elements) for p in peers]
    low, high = 1 / min(limits), len(peers) / min(limits)
    for _ in range(100):
        middle = (low + high) / 2
        fits = sum((r * middle - 1) / (len(peers) - 2) for r in limits) >= 1
        low, high = (low, middle) if fits else (middle, high)
    return high


def shared_exactly(fragments, rates):
    """As if rates were measured without an error: every gain counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(share_module, "WORTHWHILE", 1.0)
        return shared(fragments, rates)


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 7), st.data())
def test_one_fragment_is_shared_as_by_filling_water(count, data):
    peers = PEERS[:count]
    rates = Rates(*({p: data.draw(known_rate) for p in peers} for _ in range(2)))
    elements = 256 * MIB
    best_s = waterline(peers, rates, elements)
    planned_s = predicted_seconds(shared_exactly([fragment("f", elements, peers)], rates), rates)
    assert best_s * (1 - 1e-6) <= planned_s <= best_s * 1.01


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_no_other_split_of_two_different_fragments_is_faster(data):
    """Compared with all splits of a grid; ours may be better than any of them, not worse."""
    peers = PEERS[:4]
    rates = Rates(*({p: data.draw(known_rate) for p in peers} for _ in range(2)))
    fragments = [
        fragment("a", data.draw(st.integers(64, 512)) * MIB, peers[:3], peers),
        fragment("b", data.draw(st.integers(64, 512)) * MIB, peers[1:], data.draw(
            st.sampled_from([peers[1:], peers]))),
    ]  # fmt: skip
    steps = 20
    thirds = [
        (i / steps, j / steps, 1 - (i + j) / steps)
        for i in range(steps + 1)
        for j in range(steps + 1 - i)
    ]
    points = np.array(thirds)
    best_s = math.inf
    for first in points:
        up = np.zeros((len(points), len(peers)))
        down = np.zeros_like(up)
        for f, shares in zip(
            fragments, (np.broadcast_to(first, points.shape), points), strict=True
        ):
            columns = [peers.index(p) for p in f.contributors]
            up[:, columns] += f.numel * (1 + shares * (len(f.receivers) - 2))
            down[:, columns] += f.numel * shares * (len(f.contributors) - 2)
            down[:, [peers.index(p) for p in f.receivers]] += f.numel
        up *= 32 / np.array([rates.upload_bps[p] for p in peers])
        down *= 32 / np.array([rates.download_bps[p] for p in peers])
        best_s = min(best_s, float(np.maximum(up, down).max(axis=1).min()))
    assert predicted_seconds(shared_exactly(fragments, rates), rates) <= best_s * 1.01


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.data())
def test_the_largest_load_is_proven_smallest_by_prices(num_groups, size, data):
    """Weak duality: prices on the loads bound what any shares can reach from below."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    group_of = np.repeat(np.arange(num_groups), size)
    fixed, loads = rng.uniform(0, 1, 6), rng.uniform(0, 1, (6, group_of.size))
    shares = minimize_largest(fixed, loads, group_of)
    assert shares.min() >= 0
    assert np.allclose(np.bincount(group_of, shares), 1.0)
    reached = fixed + loads @ shares
    bounds = []
    for gap in np.geomspace(1e-6, 1e-2, 200):
        prices = 1 / (reached.max() * (1 + gap) - reached)
        prices /= prices.sum()
        columns = prices @ loads
        least = sum(columns[group_of == g].min() for g in range(num_groups))
        bounds.append(prices @ fixed + least)
    assert max(bounds) <= reached.max() <= max(bounds) * 1.003


def test_a_slow_peer_among_fast_ones_is_not_asked_to_reduce():
    rates = same_rates({"a": 100 * MBIT, "b": 100 * MBIT, "c": 100 * MBIT, "slow": 20 * MBIT})
    plan = shared([fragment("f", 16 * MIB, rates.upload_bps)], rates)
    own_bytes_s = 32 * 16 * MIB / (20 * MBIT)
    assert predicted_seconds(plan, rates) == pytest.approx(own_bytes_s, rel=1e-3)
    assert reduced(plan)["slow"] == 0
    assert 1.5 * own_bytes_s == pytest.approx(2 * 3 / 4 * own_bytes_s)  # a ring's bound


def test_a_slow_peer_reduces_none_of_many_small_tensors_either():
    rates = same_rates({"a": 100 * MBIT, "b": 100 * MBIT, "c": 100 * MBIT, "slow": 20 * MBIT})
    plan = shared([fragment(f"f{i:03}", 50_000, rates.upload_bps) for i in range(200)], rates)
    sizes = reduced(plan)
    assert sizes.pop("slow") <= 100_000
    assert max(sizes.values()) - min(sizes.values()) <= 100_000


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_equal_or_unknown_links_get_equal_parts(count):
    peers = PEERS[:count]
    for rates in (Rates({}, {}), same_rates(dict.fromkeys(peers, 80 * MBIT))):
        plan = shared([fragment("f", 64 * MIB, peers)], rates)
        sizes = reduced(plan).values()
        assert len(plan.fragments[0].parts) == count
        assert max(sizes) - min(sizes) <= ALIGNMENT


def test_what_measuring_gets_wrong_does_not_make_parts_uneven():
    """Of four links of 100 Mbit/s, as they were measured in a round."""
    upload = dict(zip(PEERS, (118e6, 117.6e6, 112.8e6, 129.9e6), strict=False))
    download = dict(zip(PEERS, (125.7e6, 114.1e6, 95.6e6, 116.8e6), strict=False))
    plan = shared([fragment("f", 16 * MIB, PEERS[:4])], Rates(upload, download))
    assert {p.end - p.begin for p in plan.fragments[0].parts} == {4 * MIB}


def test_two_peers_with_uneven_links_take_halves():
    plan = shared([fragment("f", 4 * MIB, ["a", "b"])], same_rates({"a": 1e6, "b": 1e9}))
    assert [p.end - p.begin for p in plan.fragments[0].parts] == [2 * MIB, 2 * MIB]


def test_an_unknown_link_counts_as_the_mean_of_the_known():
    peers = ["a", "b", "c", "unknown"]
    rates = same_rates({"a": 50 * MBIT, "b": 70 * MBIT, "c": 90 * MBIT, "unknown": 0.0})
    told = same_rates({**rates.upload_bps, "unknown": 70 * MBIT})
    fragments = [fragment("f", 16 * MIB, peers)]
    assert shared(fragments, rates) == shared(fragments, told)


def test_a_slow_upload_counts_even_when_the_download_is_fast():
    peers = ["a", "b", "c", "home"]
    rates = Rates({p: 100 * MBIT for p in peers} | {"home": 10 * MBIT}, dict.fromkeys(peers, 1e9))
    assert reduced(shared([fragment("f", 16 * MIB, peers)], rates))["home"] == 0


def test_a_fragment_of_few_is_shared_with_regard_to_what_they_reduce_for_all():
    """Two of four peers hold an expert as large as the trunk: the other two reduce the trunk."""
    peers = ["a", "b", "c", "d"]
    rates = same_rates(dict.fromkeys(peers, 100 * MBIT))
    plan = shared(
        [fragment("expert", 16 * MIB, ["a", "b"], peers), fragment("trunk", 16 * MIB, peers)], rates
    )
    trunk = {p.reducer: p.end - p.begin for p in plan.fragments[1].parts}
    assert trunk.keys() == {"c", "d"}
    assert predicted_seconds(plan, rates) == pytest.approx(32 * 48 * MIB / 1e8, rel=0.01)


def test_tiny_fragments_have_one_reducer_each_and_use_every_peer():
    peers = PEERS[:4]
    plan = shared([fragment(f"f{i:02}", 1000, peers) for i in range(40)], Rates({}, {}))
    assert all(len(f.parts) == 1 for f in plan.fragments)
    assert set(reduced(plan).values()) == {10_000}


def test_a_single_small_tensor_is_still_shared():
    plan = shared([fragment("f", 4 * LEAST_ELEMENTS, PEERS[:4])], Rates({}, {}))
    assert [p.end - p.begin for p in plan.fragments[0].parts] == [LEAST_ELEMENTS] * 4


@pytest.mark.parametrize("claim", [math.inf, math.nan, -5.0, 1e300, 5e-324])
def test_an_absurd_claim_of_a_rate_breaks_nothing(claim):
    rates = same_rates({"a": 1e8, "b": 1e8, "c": 1e8, "liar": claim})
    plan = shared([fragment("f", 16 * MIB, rates.upload_bps)], rates)
    assert plan.fragments[0].parts[-1].end == 16 * MIB
    assert predicted_seconds(plan, rates) > 0


def test_prediction_counts_every_byte_of_the_busiest_link():
    """Three peers; a reduces all: it gets 2 B and sends 2 B, b and c send B and get B."""
    plan = pb.Plan(members=[pb.Member(peer=p) for p in "abc"])
    plan.fragments.add().CopyFrom(fragment("f", 1000, "abc"))
    plan.fragments[0].parts.add(begin=0, end=1000, reducer="a")
    assert predicted_seconds(plan, same_rates(dict.fromkeys("abc", 32_000.0))) == 2.0
    assert predicted_seconds(plan, same_rates({"a": 64_000.0, "b": 32_000.0, "c": 16_000.0})) == 2.0


def test_nothing_is_predicted_of_unknown_links_or_of_transfers_without_parts():
    peers = PEERS[:3]
    rates = same_rates(dict.fromkeys(peers, 1e8))
    plan = shared([fragment("f", MIB, peers)], rates)
    assert predicted_seconds(plan, rates) < math.inf
    assert predicted_seconds(plan, same_rates({PEERS[0]: 1e8, PEERS[1]: 1e8})) == math.inf
    plan.fragments.add().CopyFrom(fragment("state", MIB, peers))
    assert predicted_seconds(plan, rates) == math.inf


@pytest.mark.parametrize(
    ("predicted_s", "limit_s"), [(0.0, 20), (1.0, 20), (10.0, 46), (20.0, 60), (math.inf, 60)]
)
def test_an_attempt_gets_four_times_the_predicted_time_within_limits(predicted_s, limit_s):
    policy = TimeoutPolicy(heartbeat_s=3.0, attempt_s=60.0)
    assert attempt_timeout(predicted_s, policy) == timedelta(seconds=limit_s)


@pytest.mark.parametrize(
    ("mbit", "codec", "elements"),
    [
        (0, "fp32", 1 << 17), (0, "int8", 1 << 19), (0, "bf16", 1 << 18),
        (1000, "fp32", 1 << 18), (100, "fp32", 1 << 16),
        (100, "int8", 1 << 18), (20, "fp32", 1 << 14), (1, "fp32", 1 << 14),
        (1000, "bf16", 1 << 19), (1000, "int8", 1 << 19), (1000, "int4", 1 << 20),
        (9e4, "int4", 1 << 20),
    ],
)  # fmt: skip
def test_a_chunk_takes_a_moment_on_the_slowest_link(mbit, codec, elements):
    rates = same_rates({"a": mbit * MBIT, "b": 1e9 if mbit else 0.0})
    assert chunk_elements(rates, ["a", "b"], [codec]) == elements


def test_the_plan_has_the_parts_chunk_and_time_limit_that_follow_from_the_rates():
    peers = ["a", "b", "c", "slow"]
    table = {"a": 100 * MBIT, "b": 100 * MBIT, "c": 100 * MBIT, "slow": 40 * MBIT}
    plan = make_plan(
        PlanInputs(
            run_id=b"r", branch=b"", round=1, ballot=pb.Ballot(), base_commit=b"",
            electorate=peers, unanimous=False, offers={p: {"f": 1.0} for p in peers},
            numel={"f": 32 * MIB}, records={p: SignedRecord() for p in peers}, codec="fp32",
            equal_weights=True, readers_keep_all=True,
            upload_bps=table, download_bps=table, timeouts=TimeoutPolicy(attempt_s=60.0),
        )
    )  # fmt: skip
    own_bytes_s = 32 * 32 * MIB / (40 * MBIT)
    assert reduced(plan)["slow"] == 0
    assert plan.chunk_elements == 1 << 14
    assert plan.attempt_timeout_ms == round(1000 * (4 * own_bytes_s + 6)) < 60_000


# ---- before anything is measured ------------------------------------------------------------


relayed_part = st.sampled_from([0.0, 0.2, 0.5, 1.0])


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_who_has_only_relays_reduces_little_from_the_first_round_on(data):
    """Behind a symmetric router, say: whatever it reduces, a relay has to carry twice."""
    peers = PEERS[: data.draw(st.integers(4, 7))]
    relayed = dict.fromkeys(peers, 0.0) | {"peer1": 1.0}
    numel = data.draw(st.integers(4, 64)) * MIB
    plan = shared([fragment("f", numel, peers)], Rates({}, {}, relayed))
    assert reduced(plan)["peer1"] < 0.5 * numel / len(peers)
    assert min(reduced(plan)[p] for p in peers if p != "peer1") > 0.9 * numel / len(peers)


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_more_relayed_paths_never_make_a_larger_share(data):
    peers = PEERS[: data.draw(st.integers(3, 6))]
    relayed = {p: data.draw(relayed_part) for p in peers}
    plan = shared([fragment("f", 64 * MIB, peers)], Rates({}, {}, relayed))
    for one, other in itertools.permutations(peers, 2):
        if relayed[one] > relayed[other]:
            assert reduced(plan)[one] <= reduced(plan)[other] + LEAST_ELEMENTS


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_what_is_measured_counts_and_not_what_the_paths_promised(data):
    peers = PEERS[: data.draw(st.integers(2, 6))]
    tables = [{p: data.draw(known_rate) for p in peers} for _ in range(2)]
    relayed = {p: data.draw(relayed_part) for p in peers}
    fragments = [fragment("f", 16 * MIB, peers)]
    assert shared(fragments, Rates(*tables, relayed)) == shared(fragments, Rates(*tables))
    everybody = dict.fromkeys(peers, 0.0)
    assert shared(fragments, Rates({}, {}, everybody)) == shared(fragments, Rates({}, {}))


# ---- stripes --------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    odd=st.integers(1, ALIGNMENT),
    most=st.integers(0, 80),
)
@settings(max_examples=100, deadline=None)
def test_stripes_keep_everybodys_share_and_cover_the_fragment_once(sizes, odd, most):
    edges = list(itertools.accumulate((n * ALIGNMENT for n in sizes), initial=0))
    edges[-1] += odd - ALIGNMENT  # only the end of a fragment is at an odd place
    parts = [
        pb.Part(begin=b, end=e, reducer=peer)
        for peer, b, e in zip(PEERS, edges, edges[1:], strict=False)
    ]
    stripes = striped(parts, LEAST_ELEMENTS, most)
    assert [p.begin for p in stripes] == [0, *(p.end for p in stripes[:-1])]
    assert stripes[-1].end == edges[-1]
    assert all(p.begin % ALIGNMENT == 0 and p.end > p.begin for p in stripes)
    assert len(stripes) <= max(most + len(parts), len(parts))
    for part in parts:
        own = sum(p.end - p.begin for p in stripes if p.reducer == part.reducer)
        assert own == part.end - part.begin


def test_reducers_of_stripes_are_equally_far_wherever_they_are():
    """At any point of the fragment each has done its share of what is before it, to two chunks."""
    cuts = {"a": 16, "b": 16, "c": 8, "d": 2}
    edges = list(itertools.accumulate((n * CHUNK for n in cuts.values()), initial=0))
    parts = [
        pb.Part(begin=b, end=e, reducer=peer)
        for peer, b, e in zip(cuts, edges, edges[1:], strict=False)
    ]
    stripes = striped(parts, CHUNK, 256)
    assert {p.end - p.begin for p in stripes} == {CHUNK}
    for end in range(1, len(stripes) + 1):
        for peer, chunks in cuts.items():
            own = sum(p.reducer == peer for p in stripes[:end])
            assert abs(own - chunks * end / len(stripes)) < 2


def test_what_has_few_chunks_or_no_room_in_the_plan_is_not_striped():
    parts = [pb.Part(begin=0, end=CHUNK, reducer="a"), pb.Part(begin=CHUNK, end=9, reducer="b")]
    parts[1].end = CHUNK + 9
    assert striped(parts, CHUNK, 256) == parts
    large = [pb.Part(begin=0, end=64 * CHUNK, reducer="a")]
    assert striped(large, CHUNK, 1) == large
    assert len(striped(large, CHUNK, 2)) == 2
