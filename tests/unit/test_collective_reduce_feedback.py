"""Error feedback: what a codec cuts off is not lost, and only commits move it."""

import numpy as np
import pytest

from swarm.collective.codecs import ALIGNMENT, get_codec
from swarm.collective.feedback import ErrorFeedback, quantized

from reduce_peers import Group  # isort: skip

LOSSY = ("bf16", "int8", "int4")
SIZE = 5 * ALIGNMENT + 300


def updates(rounds, seed=0):
    """Small values that a coarse codec would cut off for ever, beside some large ones."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((rounds, SIZE)) * 0.01 + 0.005).astype(np.float32)
    values[:, ::50] *= 100
    return values


@pytest.mark.parametrize("name", LOSSY)
def test_the_sum_of_what_was_sent_stays_within_one_step_of_the_sum_of_the_updates(name):
    codec, feedback = get_codec(name), ErrorFeedback()
    rounds = 40
    sent = np.zeros(SIZE)
    plain = np.zeros(SIZE)
    true = np.zeros(SIZE)
    steps = []
    for delta in updates(rounds):
        offered = feedback.prepare("f", delta, codec)
        feedback.commit(["f"])
        sent += offered
        plain += quantized(delta, codec)
        true += delta
        steps.append(np.abs(feedback.residual("f")).max())
    with_feedback, without = np.abs(sent - true).max(), np.abs(plain - true).max()
    np.testing.assert_allclose(sent + feedback.residual("f"), true, atol=1e-3)
    assert with_feedback <= 1.001 * max(steps)
    assert without > 3 * with_feedback


def test_a_round_without_this_peers_contribution_leaves_the_residual():
    codec, feedback = get_codec("int4"), ErrorFeedback()
    first, second, third = updates(3)
    feedback.prepare("f", first, codec)
    feedback.commit(["f"])
    kept = feedback.residual("f").copy()
    feedback.prepare("f", second, codec)
    feedback.commit([])
    assert np.array_equal(feedback.residual("f"), kept)
    feedback.prepare("f", third, codec)
    feedback.commit(["g"])
    assert np.array_equal(feedback.residual("f"), kept)
    feedback.commit(["f"])  # of an offer that is over
    assert np.array_equal(feedback.residual("f"), kept)


def test_repeated_offers_of_one_round_are_the_same():
    codec, feedback = get_codec("int8"), ErrorFeedback()
    (delta,) = updates(1)
    before = delta.copy()
    assert np.array_equal(feedback.prepare("f", delta, codec), feedback.prepare("f", delta, codec))
    assert np.array_equal(delta, before)


def test_a_fragment_of_another_size_or_a_lossless_codec_forgets():
    feedback = ErrorFeedback()
    (delta,) = updates(1)
    feedback.prepare("f", delta, get_codec("int8"))
    feedback.commit(["f"])
    shorter = np.ones(10, np.float32)
    assert np.array_equal(
        feedback.prepare("f", shorter, get_codec("int8")), quantized(shorter, get_codec("int8"))
    )
    assert feedback.prepare("f", delta, get_codec("fp32")) is delta
    assert feedback.residual("f") is None
    feedback.prepare("g", delta, get_codec("int8"))
    feedback.retain(["f"])
    feedback.commit(["f", "g"])
    assert feedback.residual("g") is None


def test_an_update_that_is_not_finite_does_not_poison_the_next_one():
    codec, feedback = get_codec("int8"), ErrorFeedback()
    good, bad = updates(2)
    bad[7] = np.inf
    assert not np.isfinite(feedback.prepare("f", bad, codec)).all()
    feedback.commit(["f"])
    assert np.isfinite(feedback.prepare("f", good, codec)).all()


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("reducers", ["a", "abc"])
def test_what_was_prepared_is_what_is_reduced_however_it_is_cut(name, reducers):
    """The mean before its own encoding is the mean of the prepared values, exactly."""
    group = Group({"f": SIZE}, peers=3, codec=name, reducers=list(reducers), chunk=2 * ALIGNMENT)
    codec = get_codec(name)
    for peer in group.names:
        group.deltas[peer]["f"] = ErrorFeedback().prepare("f", group.deltas[peer]["f"], codec)
    total = np.zeros(SIZE, np.float32)
    for peer in group.names:
        total = total + group.deltas[peer]["f"] * np.float32(1 / 3)
    assert np.array_equal(group.run()["a"]["f"], quantized(total, codec))
