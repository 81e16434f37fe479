"""A tiny base and owners of texts beside it."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from swarm.data import Corpus, DataReport
from swarm.experts.artifact import ExpertTensors
from swarm.experts.base import Base, make_base
from swarm.experts.cards import ExpertCard, SignedCard, sign_card
from swarm.hashing import bulk_hash
from swarm.identity import Identity
from swarm.model.config import ModelConfig
from swarm.model.transformer import Transformer
from swarm.training.isolation import train_expert
from swarm.training.recipe import Recipe

MODEL = ModelConfig(
    d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=24, num_experts=1, top_k=1,
    context_length=32,
)  # fmt: skip
RECIPE = Recipe(steps=12, batch_size=4, sequence_length=16, learning_rate=1e-2)
LETTERS = {"law": range(97, 107), "sums": range(48, 58)}


def corpus_of(letters: range, seed: int = 0) -> Corpus:
    """Words of random letters of an owner's own alphabet."""
    rng = np.random.default_rng(seed)
    tokens = rng.choice(np.array([32, *letters]), 6000).astype("<u2")
    return Corpus(tokens[:5000], tokens[5000:], DataReport(documents=1, bytes=6000), f"{seed:064x}")


@functools.cache
def tiny_base(experts: int = 1) -> Base:
    """A base of one or more experts, untrained."""
    top_k = 1 if experts == 1 else 2
    config = dataclasses.replace(MODEL, num_experts=experts, top_k=top_k)
    public = np.concatenate([corpus_of(letters).train for letters in LETTERS.values()])
    return make_base(Transformer(config, seed=5), public, {"run_id": "test"})


@functools.cache
def trained(domain: str, rank: int | None = None) -> ExpertTensors:
    """The expert of an owner, trained for a few steps."""
    recipe = dataclasses.replace(RECIPE, rank=rank)
    return train_expert(tiny_base(), corpus_of(LETTERS[domain]), recipe).tensors


def signed_card(owner: Identity, domain: str, tensors: ExpertTensors, data: bytes) -> SignedCard:
    """The card of an expert whose file has the content `data`."""
    card = ExpertCard(
        domain=domain,
        owner=owner.peer_id,
        base=tiny_base().id,
        weights=bulk_hash(data).hex(),
        weights_bytes=len(data),
        issued_at_ms=1_750_000_000_000,
        licence="CC-BY-4.0",
        origins=tensors.origins,
        ranks=tensors.ranks,
    )
    return sign_card(owner, card)
