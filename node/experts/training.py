"""`node expert train`: prepare the text, train, measure, cut, sign, write."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import torch

from node.experts.folder import key_path, training_path
from swarm.data import Corpus, prepare_corpus
from swarm.errors import Code, SwarmError
from swarm.evaluation import measure
from swarm.experts.artifact import ExpertTensors, check_tensors, save_expert
from swarm.experts.base import Base, load_base
from swarm.experts.cards import ExpertCard, SignedCard, sign_card
from swarm.files import storage_error
from swarm.hashing import bulk_hash
from swarm.identity import Identity
from swarm.training.checkpoint import load_checkpoint, save_checkpoint
from swarm.training.isolation import ExpertTraining, beside
from swarm.training.low_rank import by_energy, by_number, smallest_rank, truncate
from swarm.training.private import PrivateTraining
from swarm.training.recipe import Privacy, Recipe

STATE_FILE = "state.safetensors"
NOISE = b"expertswarm noise of private training\n"  # signed by the owner, told to nobody
SAVE_EVERY_S = 20.0
SAY_EVERY_S = 2.0
MEASURED_TOKENS = 50_000


def train(args: argparse.Namespace) -> SignedCard:
    """Do all of it; returns the card. Progress goes to standard output unless --json.

    Raises `USAGE`, `MODEL_UNREADABLE` (base), errors of the text, `CHECKPOINT_CORRUPT` when an
    earlier state in the training directory has other settings, and errors of writing.
    """
    torch.set_num_threads(args.threads)
    base = load_base(args.base)
    recipe = _recipe(args, base)
    work = _private_directory(training_path(args.out))
    identity = Identity.load_or_create(args.key or key_path(args.out))
    draft = ExpertCard(
        domain=args.domain,
        owner=identity.peer_id,
        base=base.id,
        weights=bulk_hash(b"").hex(),  # what is not known yet is filled in when it is
        weights_bytes=1,
        issued_at_ms=1,
        description=args.description,
        licence=args.licence,
    )
    corpus = prepare_corpus(args.data, work / "data")
    training = make_training(base, corpus, recipe, identity, args.device)
    if isinstance(training, PrivateTraining) and not args.json:
        print(f"noise for epsilon {training.plan.epsilon:.3g}, delta {training.plan.delta:g}")
    _train(training, work / STATE_FILE, quiet=args.json)
    tensors = _cut(args, base, corpus, training.tensors())
    check_tensors(tensors, base)
    weights = tensors.pack()
    card = dataclasses.replace(
        draft,
        weights=bulk_hash(weights).hex(),
        weights_bytes=len(weights),
        issued_at_ms=int(time.time() * 1000),
        origins=tensors.origins,
        ranks=tensors.ranks,
        training=_training_facts(training),
        data={
            "documents": corpus.report.documents,
            "bytes": corpus.report.bytes,
            "tokens": len(corpus.train) + len(corpus.valid),
        },
        evaluation={
            "base_bits_per_byte": round(_bits(base, corpus, None), 4),
            "expert_bits_per_byte": round(_bits(base, corpus, tensors), 4),
        },
        privacy=training.plan.facts() if isinstance(training, PrivateTraining) else {},
    )
    signed = sign_card(identity, card)
    save_expert(args.out, signed, weights)
    return signed


def make_training(
    base: Base, corpus: Corpus, recipe: Recipe, identity: Identity, device: str
) -> ExpertTraining:
    """With noise, if the recipe has a budget of privacy. Raises as either class."""
    if recipe.privacy is None:
        return ExpertTraining(base, corpus, recipe, device)
    # Deterministic, so that a stop changes nothing, and known to nobody without the key.
    return PrivateTraining(base, corpus, recipe, identity.sign(NOISE), device)


def _recipe(args: argparse.Namespace, base: Base) -> Recipe:
    return Recipe(
        steps=args.steps,
        batch_size=args.batch_size,
        sequence_length=min(args.sequence_length, base.model.config.context_length),
        learning_rate=args.learning_rate,
        public_share=args.public_share,
        rank=args.rank,
        seed=args.seed,
        privacy=_privacy(args),
    )


def _privacy(args: argparse.Namespace) -> Privacy | None:
    """The budget that was asked for. Raises `USAGE` for terms of a budget that there is not."""
    given = {"delta": args.dp_delta, "max_grad_norm": args.max_grad_norm}
    terms = {name: value for name, value in given.items() if value is not None}
    if args.dp_epsilon is not None:
        return Privacy(epsilon=args.dp_epsilon, **terms)
    if terms:  # whoever sets them believes that nothing leaks
        raise SwarmError(
            Code.USAGE, "--dp-delta and --max-grad-norm need --dp-epsilon", "such as --dp-epsilon 8"
        )
    return None


def _private_directory(path: Path) -> Path:
    """A directory that only its owner reads: it holds the tokens of the text."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise storage_error(path, error) from error
    return path


def _train(training: ExpertTraining, state: Path, *, quiet: bool) -> None:
    """Train to the last step; the state is saved every 20 s, and when it is interrupted."""
    if state.exists():
        training.load_state_dict(*load_checkpoint(state))
        if not quiet:
            print(f"going on after step {training.step}", flush=True)
    steps, saved, said = training.recipe.steps, time.monotonic(), 0.0
    started, first = time.monotonic(), training.step
    try:
        while training.step < steps:
            done = training.train_step()
            now = time.monotonic()
            if not quiet and (now - said > SAY_EVERY_S or done.number == steps):
                said = now
                left = (steps - done.number) * (now - started) / (done.number - first)
                print(f"step {done.number}/{steps}  loss {done.loss:.3f}  {left:.0f} s left",
                      flush=True)  # fmt: skip
            if now - saved > SAVE_EVERY_S:
                saved = now
                save_checkpoint(state, *training.state_dict())
    finally:
        if training.whole:  # else the state saved last is the one to go on from
            save_checkpoint(state, *training.state_dict())


def _cut(
    args: argparse.Namespace, base: Base, corpus: Corpus, tensors: ExpertTensors
) -> ExpertTensors:
    if args.cut_rank is not None:
        return truncate(base, tensors, by_number(args.cut_rank))
    if args.cut_energy is not None:
        return truncate(base, tensors, by_energy(args.cut_energy))
    if args.cut_loss is not None:
        cut, rank = smallest_rank(base, tensors, lambda t: _bits(base, corpus, t), args.cut_loss)
        if not args.json:
            print(f"rank {rank} is enough", flush=True)
        return cut
    return tensors


def _bits(base: Base, corpus: Corpus, tensors: ExpertTensors | None) -> float:
    """Bits per byte of held-out text, of the base or with the expert beside it."""
    model = base.model if tensors is None else beside(base, tensors)
    found = measure(model, corpus.valid, limit_tokens=MEASURED_TOKENS)
    return found.bits_per_byte


def _training_facts(training: ExpertTraining) -> dict[str, float]:
    recipe = training.recipe
    facts: dict[str, float] = {
        "steps": recipe.steps,
        "tokens": training.own_tokens,
        "public_tokens": training.public_tokens,
        "learning_rate": recipe.learning_rate,
    }
    return facts if recipe.rank is None else facts | {"rank": recipe.rank}
