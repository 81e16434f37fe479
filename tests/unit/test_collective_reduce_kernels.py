"""Operations by their definitions, and the arithmetic of norms."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.collective.kernels import make_kernel, sorting_network, trimmed
from swarm.collective.norms import clip_factors, exceeded_norms, squares_of
from swarm.wire import collective_pb2 as pb

from reduce_peers import Group  # isort: skip


def combine(operation, rows_NE, weights=None, norms=()):
    count, elements = rows_NE.shape
    plan = pb.FragmentPlan(
        contributors=[f"p{i:02}" for i in range(count)],
        weights=weights or [1 / count] * count,
        operation=pb.Operation.Name(operation),
        norms=norms,
    )
    kernel = make_kernel(plan, elements)
    total = np.full(elements, np.nan, np.float32)
    for _ in range(2):  # a kernel serves one chunk after the other
        kernel.begin(total)
        for position, values in enumerate(rows_NE):
            values.flags.writeable = False
            kernel.add(position, values)
        kernel.finish()
    return total


def rows(count, elements=1000, seed=0):
    return np.random.default_rng(seed).standard_normal((count, elements)).astype(np.float32)


DEFINED = {
    pb.MEAN: lambda x: x.mean(axis=0),
    pb.OPERATION_UNSPECIFIED: lambda x: x.mean(axis=0),
    pb.CLIPPED_MEAN: lambda x: x.mean(axis=0),  # without norms
    pb.SUM: lambda x: x.sum(axis=0),
    pb.MAX: lambda x: x.max(axis=0),
    pb.MIN: lambda x: x.min(axis=0),
    pb.MEDIAN: lambda x: np.median(x, axis=0),
    pb.TRIMMED_MEAN: lambda x: np.sort(x, axis=0)[trimmed(len(x)) : len(x) - trimmed(len(x))].mean(
        axis=0
    ),
}


@pytest.mark.parametrize("operation", DEFINED, ids=pb.Operation.Name)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 13])
def test_operations_are_what_they_are_called(operation, count):
    x = rows(count)
    expected = DEFINED[operation](x.astype(np.float64))
    np.testing.assert_allclose(combine(operation, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operation", [pb.MEDIAN, pb.TRIMMED_MEAN])
def test_one_liar_of_four_moves_the_middle_by_nothing_beyond_the_honest_values(operation):
    x = rows(4)
    x[2] = 1e30
    honest = np.delete(x, 2, axis=0)
    result = combine(operation, x)
    assert (result <= honest.max(axis=0)).all() and (result >= honest.min(axis=0)).all()


@pytest.mark.parametrize("operation", [pb.MAX, pb.MIN, pb.MEDIAN, pb.TRIMMED_MEAN])
def test_results_hold_no_negative_zero_whose_place_depends_on_the_machine(operation):
    x = np.array([[0.0, -0.0], [-0.0, 0.0], [-0.0, -0.0]], np.float32)
    assert not np.signbit(combine(operation, x)).any()


def test_the_trimmed_mean_leaves_out_up_to_a_quarter_at_each_end():
    assert [trimmed(n) for n in (1, 2, 3, 4, 7, 8, 12, 16)] == [0, 0, 1, 1, 1, 2, 3, 4]


@pytest.mark.parametrize("count", range(1, 10))
def test_the_sorting_network_sorts_all_zeros_and_ones(count):
    """By the zero-one principle it then sorts everything."""
    for bits in itertools.product((0, 1), repeat=count):
        values = list(bits)
        for low, high in sorting_network(count):
            assert low < high
            values[low], values[high] = (
                min(values[low : high + 1 : high - low]),
                max(values[low : high + 1 : high - low]),
            )
        assert values == sorted(bits)


def test_clipping_bounds_what_one_peer_can_do():
    x = rows(5)
    norms = [float(np.linalg.norm(v)) for v in x]
    x[1] *= 1000
    norms[1] *= 1000
    clipped = combine(pb.CLIPPED_MEAN, x, norms=norms)
    without = x.copy()
    without[1] = 0
    moved = np.linalg.norm(clipped - combine(pb.MEAN, without))
    assert moved < 1.1 * np.median(norms) / 5


@given(st.lists(st.just(0.0) | st.floats(1e-30, 1e30), min_size=1, max_size=9))
def test_clip_factors_never_enlarge_and_bring_all_to_the_median(norms):
    factors = clip_factors(norms)
    positive = [n for n in norms if n > 0]
    for norm, factor in zip(norms, factors, strict=True):
        assert 0 < factor <= 1
        if norm > 0:
            assert norm * factor <= np.median(positive) * 1.001


def test_squares_of_large_finite_values_are_finite():
    assert squares_of(np.full(4, 1e25, np.float32)) == pytest.approx(4e50, rel=1e-4)


def test_words_about_parts_that_the_reporter_does_not_reduce_do_not_count():
    group = Group({"t": 4096}, operation=pb.CLIPPED_MEAN, norms=[1.0, 1.0, 1.0], reducers=["a"])
    lie = pb.Report(norms=[pb.PartNorm(fragment="t", peer="b", squares=100.0)])
    assert exceeded_norms(group.plan, {"c": lie}) == {}
    nonsense = pb.Report(
        norms=[
            pb.PartNorm(fragment="?", peer="b", squares=100.0),
            pb.PartNorm(fragment="t", peer="?", squares=100.0),
            pb.PartNorm(fragment="t", peer="b", squares=float("nan")),
        ]
    )
    assert exceeded_norms(group.plan, {"a": nonsense}) == {}
    assert set(exceeded_norms(group.plan, {"a": lie})) == {"b"}
