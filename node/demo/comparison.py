"""Measures all models of the demo on all domains: bits per byte, routing, and a sample of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from node.demo.results import Scores
from node.demo.settings import DOMAINS, DemoSettings
from node.text import printable, stream_text
from swarm.assembly import load_assembled
from swarm.config import RunManifest
from swarm.data import ByteTokenizer, Corpus
from swarm.evaluation import evaluate
from swarm.inference.engine import generate
from swarm.model.fragment_io import write_fragment
from swarm.model.fragments import FragmentLayout, initial_fragment
from swarm.model.hf import load_hf
from swarm.model.transformer import Transformer

MEASURED_TOKENS = 50_000  # per domain; the error of the mean is then well below 0.02 bits
SAMPLE_TOKENS = 160
SAMPLE_TEMPERATURE = 0.7
PROMPTS = {
    "python": "    def __init__(self",
    "cpp": "template <typename T>\n",
    "maths": "Returns the derivative of ",
    "english": "This function returns ",
}


@dataclass(frozen=True)
class Comparison:
    """What the models are worth."""

    scores: Scores
    routing: dict[str, list[float]]
    """Domain -> share of its tokens that the assembled model sends to each expert."""

    samples: dict[str, dict[str, str]]
    """Domain -> prompt and text of the assembled model."""


def compare(
    settings: DemoSettings, manifest: RunManifest, report: Callable[[str], None]
) -> Comparison:
    """Load and measure the initial, the assembled and the solo models."""
    torch.set_num_threads(1)  # small matrices: more threads wait for one another
    assembled, _ = load_assembled(settings.assembled_dir)
    models = {"initial": _initial_model(manifest), "assembled": assembled}
    models |= {f"solo {domain}": load_hf(settings.solo_dir(domain)) for domain in DOMAINS}
    scores = Scores(solo={domain: {} for domain in DOMAINS})
    routing = {}
    for domain in DOMAINS:
        valid = Corpus.open(settings.corpus_dir(domain)).valid
        table = evaluate(
            models,
            {domain: valid},
            sequence_length=manifest.training.sequence_length,
            limit_tokens=MEASURED_TOKENS,
        )
        found = table.bits_per_byte[domain]
        scores.initial[domain] = found["initial"]
        scores.assembled[domain] = found["assembled"]
        for peer in DOMAINS:
            scores.solo[peer][domain] = found[f"solo {peer}"]
        routing[domain] = table.routing[domain]["assembled"].mean(axis=0).tolist()
        report(f"{domain}: measured on {min(MEASURED_TOKENS, len(valid) - 1)} tokens")
    return Comparison(scores, routing, {domain: _sample(assembled, domain) for domain in DOMAINS})


def _initial_model(manifest: RunManifest) -> Transformer:
    model = Transformer(manifest.model, seed=None)
    layout = FragmentLayout.of(
        manifest.model, manifest.sync.trunk_fragments, manifest.sync.router_rows
    )
    for name in layout.names:
        values = initial_fragment(manifest.model, layout, name, manifest.genesis.seed)
        write_fragment(model, layout, name, values)
    return model


def _sample(model: Transformer, domain: str) -> dict[str, str]:
    tokenizer = ByteTokenizer()
    tokens = generate(
        model,
        [tokenizer.BOS, *tokenizer.encode(PROMPTS[domain]).tolist()],
        SAMPLE_TOKENS,
        temperature=SAMPLE_TEMPERATURE,
        generator=torch.Generator().manual_seed(0),
        stop=(tokenizer.EOS,),
    )
    return {"prompt": PROMPTS[domain], "text": printable("".join(stream_text(tokens)))}
