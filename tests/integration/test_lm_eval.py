"""lm-evaluation-harness runs on an exported model and finds the bits per byte that we find."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from swarm.assembly.exchange import export_hf
from swarm.evaluation import measure
from swarm.model.config import ModelConfig
from swarm.model.transformer import Transformer

TEXTS = ["The party of the first part.", "Whereas, and so forth: section 2.", "Ending."]


def task(directory: Path) -> dict[str, object]:
    """A local task: bits per byte of whole documents."""
    path = directory / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return {
        "task": "local_texts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }


def test_lm_eval_measures_the_bits_per_byte_that_we_measure(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    config = ModelConfig(
        d_model=32, num_layers=2, d_ff=48, num_experts=3, context_length=128, router_bias=True
    )
    model = Transformer(config, seed=1)
    for moe in model.moe_layers:
        moe.gate.bias["1"].data.fill_(-0.5)
    export_hf(model, tmp_path / "hf")
    tasks = TaskManager(include_defaults=False).load([task(tmp_path)])
    # It puts a BOS before each document itself; with that of the tokenizer there would be two.
    theirs = HFLM(
        pretrained=str(tmp_path / "hf"), device="cpu", dtype="float32", batch_size=1,
        add_bos_token=False,
    )  # fmt: skip
    results = evaluator.evaluate(lm=theirs, task_dict=tasks, bootstrap_iters=0)
    found = results["results"]["local_texts"]["bits_per_byte,none"]

    nats = bytes_ = 0.0
    for text in TEXTS:
        measured = measure(model, np.array([256, *text.encode()], np.uint16))
        nats, bytes_ = nats + measured.nats, bytes_ + measured.bytes
    assert found == pytest.approx(nats / math.log(2) / bytes_, rel=1e-4)
