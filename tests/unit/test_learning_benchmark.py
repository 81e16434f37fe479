"""The learning benchmark measures what it says: same text, bytes by hand, memory, resumable."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_learning_swarm import MANIFEST, TEXTS, corpus, swarm

from swarm.collective.codecs import get_codec
from swarm.config import MergeConfig, OuterConfig
from swarm.evaluation.measure import measure
from swarm.presets import preset
from tests.benchmarks.learning.calibration import calibrate_routers
from tests.benchmarks.learning.measure import run_arm
from tests.benchmarks.learning.memory import peak_training_bytes
from tests.benchmarks.learning.mixture import mixture_bits_per_byte
from tests.benchmarks.learning.report import BEGIN, END, write
from tests.benchmarks.learning.results import append_line, read_lines
from tests.benchmarks.learning.runs import CentralRun, SwarmRun, away_in, start, steps_at
from tests.benchmarks.learning.settings import Arm, Churn, Experiment
from tests.benchmarks.learning.texts import peer_samplers
from tests.benchmarks.learning.traffic import gradient_bytes, layout_of, round_bytes

CONFIG = Path(__file__).parents[1] / "benchmarks" / "learning" / "experiment.toml"
CORPORA = {domain: corpus(domain) for domain in TEXTS}
HELD = preset("held", MANIFEST)
ROUND_TOKENS = 2 * 8 * 4 * 32  # peers, steps, sequences, length


def arm(kind: str = "swarm", name: str = "X", **changes: object) -> Arm:
    return replace(Arm(name, "an arm", kind, MANIFEST), **changes)


def test_the_experiments_file_names_arms_that_differ_in_what_they_say() -> None:
    experiment = Experiment.load(CONFIG)
    arms = {arm.name: arm for arm in experiment.arms}
    assert set("ABDEGH") | {"A4", "C1", "C2", "F1", "F2"} <= set(arms)
    assert arms["E"].manifest.sync.forward == "held"
    assert arms["B"].manifest.outer.optimizer == "nesterov"
    assert arms["C1"].manifest.sync.contribution == "parameters"
    assert arms["C2"].manifest == replace(arms["C1"].manifest, merge=arms["C2"].manifest.merge)
    assert arms["F2"].churn is not None and arms["F2"].manifest == arms["F1"].manifest
    assert not arms["B0"].idea and arms["mixed"].idea
    assert arms["mixed"].manifest == arms["B0"].manifest and arms["mixed"].mixed_text
    assert arms["held_merging"].manifest == arms["E"].manifest
    assert arms["held_merging"].merge_held == arms["C2"].manifest.merge


def test_central_training_reads_the_windows_that_the_peers_read() -> None:
    central = CentralRun(arm("central"), MANIFEST, CORPORA).trainer()
    swarm_run = SwarmRun(arm(), MANIFEST, CORPORA)
    peers = [peer.trainer.sampler.next_batch() for peer in swarm_run.swarm.peers.values()]
    np.testing.assert_array_equal(central.sampler.next_batch(), np.concatenate(peers))


def test_all_kinds_of_arms_come_to_the_same_number_of_tokens() -> None:
    for kind in ("central", "solo", "swarm"):
        run = start(arm(kind), 0, 2 * ROUND_TOKENS, CORPORA)
        run.advance()
        run.advance()
        assert run.tokens == 2 * ROUND_TOKENS, kind


def test_bytes_of_a_round_by_hand() -> None:
    """Two peers: of the trunk each sends half and half a mean; of experts, by who keeps them."""
    for forward, rows, copies in (("full", "trunk", 1), ("held", "expert", 0)):
        sync = replace(MANIFEST.sync, forward=forward, router_rows=rows, codec="int8")
        made = swarm(replace(MANIFEST, sync=sync))
        layout, codec = layout_of(made.manifest), get_codec("int8")
        size = {name: codec.encoded_bytes(layout.numel(name)) for name in layout.names}
        trunk = sum(size[name] for name in layout.trunk_names)
        experts = sum(size[layout.expert_name(e)] for e in range(4))
        assert round_bytes(made.manifest, made.round(), 2) == (2 * trunk + copies * experts) / 2


def test_averaging_gradients_sends_the_whole_model_in_each_step() -> None:
    values = sum(layout_of(MANIFEST).numel(name) for name in layout_of(MANIFEST).names)
    assert gradient_bytes(MANIFEST, peers=4, steps=3) == 3 * 4 * values * 1.5


def test_killed_peers_take_turns_and_come_back_with_a_fresh_optimizer() -> None:
    churn = Churn(every_rounds=3, away_rounds=2)
    away = [sorted(away_in(churn, r, 2)) for r in range(1, 10)]
    assert away == [[], [], [0], [0], [], [1], [1], [], [0]]
    run = SwarmRun(arm(churn=Churn(every_rounds=2, away_rounds=1)), MANIFEST, CORPORA)
    maths = run.swarm.peers["maths"]
    for _ in range(3):
        run.advance()
    assert run.tokens == 2.5 * ROUND_TOKENS
    assert run.swarm.peers["maths"] is not maths
    ages = run.swarm.peers["maths"].trainer.optimizer.age_steps
    assert set(ages.values()) == {MANIFEST.training.inner_steps}


def test_growing_rounds_have_more_steps_the_more_is_trained() -> None:
    assert [steps_at((1, 20), done) for done in (0.0, 0.5, 1.0)] == [1, 10, 20]
    growing = replace(MANIFEST, training=replace(MANIFEST.training, total_tokens=ROUND_TOKENS))
    run = SwarmRun(arm(growing_rounds=(2, 8)), growing, CORPORA)
    run.advance()
    assert run.tokens == ROUND_TOKENS / 4
    run.advance()
    assert run.tokens == ROUND_TOKENS / 4 + ROUND_TOKENS / 2  # round(2 + 6 / 4) steps


def test_with_mixed_text_every_peer_reads_equal_shares_of_all_domains() -> None:
    run = SwarmRun(arm(mixed_text=True), MANIFEST, CORPORA)
    batches = [peer.trainer.sampler.next_batch() for peer in run.swarm.peers.values()]
    for maths, words in (np.split(batch, 2) for batch in batches):
        assert np.isin(maths, list(b"0123456789+=; ")).all()
        assert np.isin(words, list(b"abcdefghijklmnopqrstuvwxyz ")).all()
    assert not np.array_equal(*batches)


def test_experts_of_held_only_peers_can_be_merged_here_and_the_trunk_is_as_without() -> None:
    merge = MergeConfig(every_rounds=1, strength=0.2, rounds=10)
    apart, merged = (
        SwarmRun(arm(manifest=HELD, merge_held=config), HELD, CORPORA) for config in (None, merge)
    )
    states = []
    for run in (apart, merged):
        run.advance()
        states.append({name: state.theta for name, state in run.swarm.state.items()})
    assert np.array_equal(states[0]["trunk.0"], states[1]["trunk.0"])
    distances = [np.linalg.norm(s["expert.0"] - s["expert.3"]) for s in states]
    assert 0.5 < distances[1] / distances[0] < 0.9


def test_held_only_peers_need_less_memory_than_spes_and_that_less_than_the_whole_model() -> None:
    model = replace(MANIFEST.model, d_ff=512, num_experts=8)  # parameters outweigh activations
    peaks = []
    for name, held in (("held", 2), ("spes", 2), ("diloco", 8)):
        manifest = preset(name, replace(MANIFEST, model=model))
        run = start(arm(manifest=manifest), 0, ROUND_TOKENS, CORPORA)
        trainer = run.trainer()
        trainer.load_initial()
        assert len(trainer.held) == held
        peaks.append(peak_training_bytes(trainer))
    whole = 4 * sum(p.nbytes for p in trainer.model.parameters())
    assert peaks[0] < peaks[1] < peaks[2] and whole < peaks[2] < 1.5 * whole
    assert peaks[0] < peaks[2] / 2


def test_a_mixture_of_equal_models_is_the_model() -> None:
    made = swarm(MANIFEST)
    model, tokens = made.model(), corpus("maths").valid[:1025]
    mixed = mixture_bits_per_byte([model, model], tokens, 32, 1024)
    assert mixed == pytest.approx(measure(model, tokens, 32).bits_per_byte, rel=1e-6)


def test_a_held_only_whole_is_worse_than_its_parts_until_its_routers_are_calibrated() -> None:
    """Its routers never compared experts of different peers: the gap of training masked."""
    made = swarm(replace(HELD, outer=OuterConfig(optimizer="fedavg")))
    for _ in range(10):
        made.round()
    texts = {"a": corpus("maths").valid, "b": corpus("words").valid}

    def mean(**models: object) -> float:
        return float(np.mean([measure(models[p], texts[p], 32).bits_per_byte for p in texts]))

    whole = made.model()
    parts, before = mean(a=made.model("a"), b=made.model("b")), mean(a=whole, b=whole)
    samplers = peer_samplers(CORPORA, 4, 32, seed=9)
    assert calibrate_routers(whole, list(samplers.values()), steps=40) == 40 * 2 * 4 * 32
    after = mean(a=whole, b=whole)
    assert parts < after < before


def test_a_line_says_what_was_measured_and_the_tables_are_made_of_lines(tmp_path: Path) -> None:
    experiment = replace(
        Experiment.load(CONFIG), domains=tuple(TEXTS), tokens=2 * ROUND_TOKENS, curve_points=2,
        curve_tokens=200, final_tokens=500, calibration_steps=1,
        arms=(
            arm("central", "A"), arm("solo", "H"), arm(name="E", manifest=HELD),
            arm(name="tried", title="an idea", idea=True),
        ),
    )  # fmt: skip
    results = tmp_path / "results.jsonl"
    for one in experiment.arms:
        append_line(results, run_arm(experiment, one, 0, CORPORA))
    lines = read_lines(results)
    for line in lines:
        assert line["tokens"] == 2 * ROUND_TOKENS and len(line["curve"]) == 2
        assert line["mean_bpb"] == pytest.approx(np.mean(list(line["bpb"].values())), abs=1e-3)
        assert line["peak_train_bytes_per_peer"] > 0 and line["seconds"] > 0
        assert json.loads(json.dumps(line)) == line
    assert [("own_bpb" in x, "calibrated_bpb" in x) for x in lines] == [
        (False, False), (True, False), (True, True), (False, False),
    ]  # fmt: skip
    (tmp_path / "results.md").write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n")
    write(experiment, lines, tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert text.startswith("# Before\n") and text.endswith("after\n") and "old" not in text
    assert f"{lines[0]['mean_bpb']:.3f}" in text and "an arm" in text
    assert text.count("an idea") == 1
    assert (tmp_path / "learning.svg").read_text().count("<svg") == 1
