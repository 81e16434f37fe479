"""The inner loop of one peer: AdamW on the trunk and the experts that it holds.

Runs alone just as well as under a swarm:

    manifest = RunManifest.load(Path("RUN.toml"))
    corpus = prepare_corpus("demo:python", Path("runs/python"))
    sampler = Sampler(corpus, manifest.training.batch_size, manifest.training.sequence_length, 0)
    trainer = Trainer(manifest, sampler, held=range(manifest.model.num_experts))
    trainer.load_initial()
    for _ in range(100):
        stats = trainer.train_step()
    model = trainer.model
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from swarm.config import RunManifest
from swarm.data.sampler import Sampler
from swarm.errors import Code, SwarmError
from swarm.model.fragment_io import read_fragment, write_fragment
from swarm.model.fragments import FragmentLayout, initial_fragment
from swarm.model.transformer import Transformer
from swarm.training.objective import Counts, Objective
from swarm.training.optimizer import FragmentAdamW
from swarm.training.schedule import learning_rate

F32 = npt.NDArray[np.float32]
RNG_KEY = "rng/torch"


@dataclass(frozen=True)
class StepStats:
    """One inner step. `loss` is the cross entropy in nats per token, without auxiliary losses."""

    step: int
    loss: float
    tokens: int
    routed_LE: Counts
    grad_norm: float
    learning_rate: float


class Trainer:
    """Model, optimizer and data of one peer.

    With `sync.forward = "full"` all experts are in the model and those not held are frozen; with
    `"held"` only held experts exist. Parameters must be set by `load` or `load_initial` before the
    first step, and again for experts gained by `set_held`.

    Attributes:
        rows_at_once: sequences of a batch that are computed at once; fewer need less memory.
    """

    def __init__(
        self, manifest: RunManifest, sampler: Sampler, held: Iterable[int], device: str = "cpu"
    ) -> None:
        self.manifest = manifest
        self.config = manifest.training
        self.sampler = sampler
        self.device = torch.device(device)
        self.layout = FragmentLayout.of(
            manifest.model, manifest.sync.trunk_fragments, manifest.sync.router_rows
        )
        self.optimizer = FragmentAdamW(self.config)
        self._objective = Objective(manifest, self.device)
        self.step = 0
        self.rows_at_once = self.config.batch_size
        self._committed_tokens = 0
        self._tokens_since_commit = 0
        self._bias_LE: Tensor | None = None
        self.held: tuple[int, ...] = ()
        self.model = self._build_model(sorted(set(held)))
        self._unset = set(self.needed_names)
        self._train_held()

    @property
    def trainable_names(self) -> tuple[str, ...]:
        """Fragments that this peer trains: the trunk and its held experts."""
        return self.layout.trunk_names + tuple(map(self.layout.expert_name, self.held))

    @property
    def needed_names(self) -> tuple[str, ...]:
        """Fragments that must be loaded: the trained ones, and with `full` all others too."""
        return self.layout.names if self._full else self.trainable_names

    def set_selection_bias(self, bias_LE: npt.ArrayLike | None) -> None:
        """Bias [L, E] of the choice of experts, from the last commit; None is none."""
        self._bias_LE = None
        if bias_LE is not None:
            shape = (self.manifest.model.num_layers, self.manifest.model.num_experts)
            bias = np.asarray(bias_LE, dtype=np.float32).reshape(shape)
            self._bias_LE = torch.from_numpy(bias.copy()).to(self.device)
        self._place_bias()

    def _place_bias(self) -> None:
        for layer, moe in enumerate(self.model.moe_layers):
            bias = None if self._bias_LE is None else self._bias_LE[layer, list(moe.gate.held)]
            moe.gate.selection_bias_M = bias

    @property
    def is_set(self) -> bool:
        """True when all parameters have been loaded."""
        return not self._unset

    def load(self, fragments: Mapping[str, F32]) -> None:
        """Set parameters from flat fp32 fragments; names that this model lacks are ignored."""
        for name in self.needed_names:
            if name in fragments:
                write_fragment(self.model, self.layout, name, fragments[name])
                self._unset.discard(name)

    def load_initial(self) -> None:
        """Set all parameters to the run's initial values."""
        seed = self.manifest.genesis.seed
        for name in self.needed_names:
            self.load({name: initial_fragment(self.manifest.model, self.layout, name, seed)})

    def set_held(self, held: Iterable[int]) -> None:
        """Hold other experts: lost ones lose their Adam state, gained ones start a fresh one."""
        wanted = sorted(set(held))
        if tuple(wanted) == self.held:
            return
        before, old = set(self.needed_names), self.model
        if not self._full:
            self.model = self._build_model(wanted)
            values = dict(old.named_parameters())
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    if name in values:
                        parameter.copy_(values[name])
        self.held = tuple(wanted)
        self._unset = (self._unset | (set(self.needed_names) - before)) & set(self.needed_names)
        self._train_held()
        self._place_bias()

    def set_schedule(
        self, committed_tokens: int, since: int = 0, peak_rate: float | None = None
    ) -> None:
        """Place of the learning rate schedule: tokens that the whole run has committed.

        `since`: tokens that this peer has trained already and that are not among them.
        `peak_rate`: in place of `training.learning_rate` from now on.
        """
        if peak_rate is not None:
            self.config = dataclasses.replace(self.config, learning_rate=peak_rate)
        self._committed_tokens = committed_tokens
        self._tokens_since_commit = since

    def set_global_load(self, counts_LE: npt.ArrayLike | None) -> None:
        """See `Objective.set_global_load`."""
        self._objective.set_global_load(counts_LE)

    def train_step(self) -> StepStats:
        """One AdamW step on the next batch.

        Raises `NON_FINITE` before anything is changed when the loss or a gradient is not finite.
        """
        assert not self._unset, f"parameters were never loaded: {sorted(self._unset)}"
        assert self.held or self._full, "with sync.forward = held a peer needs an expert to train"
        batch_BT = torch.from_numpy(self.sampler.next_batch()).to(self.device)
        loss, routed_LE = self._forward_backward(batch_BT)
        grad_norm = self._clip_gradients()
        self._require_finite(loss, grad_norm)
        tokens = batch_BT[:, 1:].numel()
        self._tokens_since_commit += tokens
        rate = learning_rate(self.config, self._committed_tokens + self._tokens_since_commit)
        self.optimizer.step(rate)
        self.step += 1
        return StepStats(self.step, loss, tokens, routed_LE, grad_norm, rate)

    def seconds_per_step(self, clock: Callable[[], float]) -> float:
        """Time of an inner step as it is now, without the optimizer; changes no state.

        The smaller of two, after one that warms up caches and allocators. Parameters that were
        never loaded are zeros here, as what is in fresh memory may be slow to compute with.
        """
        times = []
        for _ in range(3):
            started = clock()
            self.try_step()
            times.append(clock() - started)
        return min(times[1:])

    def try_step(self, rows: int | None = None) -> None:
        """Compute the gradients of a step, or of its first `rows`; changes no state."""
        for name in self._unset:
            zeros = np.zeros(self.layout.numel(name), np.float32)
            write_fragment(self.model, self.layout, name, zeros)
        position = self.sampler.position
        batch_BT = torch.from_numpy(self.sampler.next_batch()[:rows]).to(self.device)
        self.sampler.position = position
        self._forward_backward(batch_BT)
        self.model.zero_grad(set_to_none=True)

    def read(self, name: str, out: F32) -> None:
        """Write the local parameters of the fragment `name` into `out` (flat fp32)."""
        read_fragment(self.model, self.layout, name, out)

    def pseudo_gradient(self, name: str, base: F32, out: F32) -> None:
        """Write base - local of the fragment `name` into `out` (flat fp32)."""
        self.read(name, out)
        np.subtract(base, out, out=out)

    def contribute(self, name: str, base: F32, out: F32) -> None:
        """Write what this peer gives to a round into `out`: its update, or its parameters."""
        if self.manifest.sync.contribution == "parameters":
            self.read(name, out)
        else:
            self.pseudo_gradient(name, base, out)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Adam state, random state and positions, as tensors and plain JSON values.

        Parameters are not in it: at a round's boundary they are the committed fragments.
        """
        tensors = self.optimizer.state_tensors()
        tensors[RNG_KEY] = torch.get_rng_state()
        meta = {
            "run_id": self.manifest.run_id.hex(),
            "step": self.step,
            "committed_tokens": self._committed_tokens,
            "tokens_since_commit": self._tokens_since_commit,
            "age_steps": dict(self.optimizer.age_steps),
            "sampler": self.sampler.state(),
        }
        return tensors, meta

    def load_state_dict(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; experts not held then start afresh.

        Raises `RUN_MISMATCH` for another run's state and `CHECKPOINT_CORRUPT` for one that does
        not fit this model or corpus; nothing is changed then.
        """
        if meta.get("run_id") != self.manifest.run_id.hex():
            raise SwarmError(Code.RUN_MISMATCH, "the checkpoint is of another run")
        position, random_state = self.sampler.position, torch.get_rng_state()
        try:
            step, committed = int(meta["step"]), int(meta["committed_tokens"])
            since, ages = int(meta["tokens_since_commit"]), dict(meta["age_steps"])
            self.sampler.restore(meta["sampler"])
            torch.set_rng_state(tensors[RNG_KEY])
            self.optimizer.load_state_tensors(tensors, ages)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            self.sampler.position = position
            torch.set_rng_state(random_state)
            raise SwarmError(Code.CHECKPOINT_CORRUPT, f"unusable trainer state: {error}") from error
        self.step, self._committed_tokens, self._tokens_since_commit = step, committed, since

    @property
    def _full(self) -> bool:
        return self.manifest.sync.forward == "full"

    def _build_model(self, held: list[int]) -> Transformer:
        """A model with unset parameters; in `full` all experts exist."""
        self.held = tuple(held)
        # A newcomer holds nothing before its first assignment; a stand-in lets the model exist.
        experts = None if self._full else held or [0]
        return Transformer(self.manifest.model, experts, seed=None).to(self.device)

    def _train_held(self) -> None:
        """Give gradients and an optimizer to the trained fragments, and to nothing else."""
        parameters = dict(self.model.named_parameters())
        fragments = {
            name: {part.name: parameters[part.name] for part in self.layout.tensors(name)}
            for name in self.trainable_names
        }
        self.model.requires_grad_(False)
        for chosen in fragments.values():
            for parameter in chosen.values():
                parameter.requires_grad_(True)
        self.model.zero_grad(set_to_none=True)
        self.optimizer.set_fragments(fragments)

    def _forward_backward(self, batch_BT: Tensor) -> tuple[float, Counts]:
        """Gradients of the batch's mean loss; returns the loss and the routed tokens [L, E]."""
        loss, routed_LE = self._objective.gradients(
            self.model,
            batch_BT,
            rows_at_once=self.rows_at_once,
            held=self.held,
            tokens=self._committed_tokens + self._tokens_since_commit,
        )
        self._forget_gradients_of_idle_experts(routed_LE)
        return loss, routed_LE

    def _forget_gradients_of_idle_experts(self, routed_LE: Counts) -> None:
        """No tokens, no step: a zero gradient would still decay weights and follow momentum."""
        for expert in self.held:
            if not routed_LE[:, expert].any():
                for parameter in self.optimizer.fragments[self.layout.expert_name(expert)].values():
                    parameter.grad = None

    def _clip_gradients(self) -> float:
        parameters = self.optimizer.parameters
        return torch.nn.utils.clip_grad_norm_(parameters, self.config.grad_clip).item()

    def _require_finite(self, loss: float, grad_norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        raise SwarmError(
            Code.NON_FINITE,
            f"step {self.step + 1}: loss {loss}, gradient norm {grad_norm}",
            "the parameters were left as they were; lower training.learning_rate if it recurs",
        )
