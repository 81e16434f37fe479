"""A swarm that learns, in one process and without a network: real training, real averaging.

    swarm = LearningSwarm(manifest, {"a": maths_sampler, "b": code_sampler})
    for _ in range(20):
        log = swarm.round()
    model = swarm.model()

What peers do to fragments is what the node does: the same trainer, rounds, weights, codecs,
kernels and outer step. What is not here is everything that can go wrong between peers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from swarm.collective.codecs import Codec, get_codec
from swarm.collective.context import Offer
from swarm.collective.feedback import ErrorFeedback, prepare_offer, quantized
from swarm.collective.kernels import make_kernel
from swarm.collective.plan import WEIGHT_CLIP, normalized_weights, operation_of
from swarm.collective.selection_bias import next_bias
from swarm.collective.state import FragmentState
from swarm.config import RunManifest
from swarm.data.sampler import Sampler
from swarm.model.fragment_io import write_fragment
from swarm.model.transformer import Transformer
from swarm.training.policy import RunPolicy
from swarm.training.rounds import LocalRounds
from swarm.training.trainer import Trainer
from swarm.training.weights import contribution_weights
from swarm.wire import collective_pb2 as pb

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RoundLog:
    """One round. `loss` in nats per token; bytes of all peers' contributions as encoded.

    `peers`: how many took part; `contributors`: how many each fragment that advanced has.
    """

    round: int
    loss: float
    tokens: int
    bytes_offered: int
    peers: int
    contributors: Mapping[str, int]

    @property
    def advanced(self) -> tuple[str, ...]:
        """Fragments that were averaged."""
        return tuple(self.contributors)


@dataclass
class LearningPeer:
    """One peer; `out` has what it contributed last."""

    trainer: Trainer
    rounds: LocalRounds
    feedback: ErrorFeedback = field(default_factory=ErrorFeedback)
    out: dict[str, F32] = field(default_factory=dict)


class LearningSwarm:
    """See the module docstring. `held` are experts by peer; by default they are dealt out evenly.

    Attributes:
        state: the committed fragments.
        routed_LE: tokens that all peers routed to each expert in the last round.
    """

    def __init__(
        self,
        manifest: RunManifest,
        samplers: Mapping[str, Sampler],
        held: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.manifest = manifest
        self.policy = RunPolicy(manifest)
        self.layout = self.policy.layout
        self.state: dict[str, FragmentState] = {
            name: self.policy.initial(name) for name in self.layout.names
        }
        self.round_index = 0
        self.tokens = 0
        self.routed_LE: npt.NDArray[np.int64] | None = None
        self.selection_bias: list[float] = []
        self.held = dict(held) if held is not None else self._dealt(sorted(samplers))
        self._contributors: dict[str, int] = {}
        self.peers: dict[str, LearningPeer] = {}
        for name in sorted(samplers):
            trainer = Trainer(manifest, samplers[name], self.held[name])
            self.peers[name] = LearningPeer(trainer, LocalRounds(trainer))

    def round(self, absent: Collection[str] = ()) -> RoundLog:
        """All peers but the `absent` train one round; what is due is averaged."""
        self.round_index += 1
        present = {name: peer for name, peer in self.peers.items() if name not in absent}
        routed = {name: np.zeros(0, np.int64) for name in present}
        losses, tokens = {}, {}
        for name, peer in present.items():
            losses[name], tokens[name], routed[name] = self._train(peer)
        offers = {n: self._offer(n, tokens[n], routed[n]) for n in present}
        offered, contributors = self._commit(offers)
        total = sum(tokens.values())
        self.tokens += total
        self.routed_LE = np.sum(list(routed.values()), axis=0)
        counts = [int(count) for count in self.routed_LE.reshape(-1)]
        layers, rate = self.manifest.model.num_layers, self.manifest.balance.bias_rate
        self.selection_bias = next_bias(self.selection_bias, counts, layers, rate)
        loss = sum(losses[n] * tokens[n] for n in present) / total
        return RoundLog(self.round_index, loss, total, offered, len(present), contributors)

    def restart(self, name: str) -> None:
        """The peer comes back with nothing but its text: no optimizer state, no carried error."""
        trainer = Trainer(self.manifest, self.peers[name].trainer.sampler, self.held[name])
        self.peers[name] = LearningPeer(trainer, LocalRounds(trainer))

    def model(self, peer: str | None = None) -> Transformer:
        """The committed model with all experts, or with `peer` the part that it keeps."""
        names: Iterable[str] = self.state
        held = None
        if peer is not None and self.manifest.sync.forward == "held":
            names, held = self.peers[peer].trainer.needed_names, self.held[peer]
        model = Transformer(self.manifest.model, held, seed=None)
        for name in names:
            write_fragment(model, self.layout, name, self.state[name].theta)
        return model

    def _dealt(self, peers: Sequence[str]) -> dict[str, list[int]]:
        count, each = self.manifest.model.num_experts, self.manifest.sync.experts_per_peer
        return {p: [(i * each + j) % count for j in range(each)] for i, p in enumerate(peers)}

    # ---- a peer ---------------------------------------------------------------------------

    def _train(self, peer: LearningPeer) -> tuple[float, int, npt.NDArray[np.int64]]:
        stream = self.manifest.stream
        late = stream.overlap and self.round_index > 1
        arrival = stream.delay_steps if late else 0
        tokens, loss_sum = 0, 0.0
        routed = np.zeros((self.manifest.model.num_layers, self.manifest.model.num_experts), int)
        for step in range(self.manifest.steps_per_round):
            if step == arrival:
                self._take(peer, tokens, late)
            stats = peer.trainer.train_step()
            tokens += stats.tokens
            loss_sum += stats.loss * stats.tokens
            routed = routed + stats.routed_LE
        if arrival >= self.manifest.steps_per_round:
            self._take(peer, tokens, late)
        return loss_sum / tokens, tokens, routed

    def _take(self, peer: LearningPeer, tokens: int, late: bool) -> None:
        versions = {name: state.version for name, state in self.state.items()}
        peer.rounds.take(self.round_index, self._theta, versions, self._contributors, late)
        peer.trainer.set_schedule(self.tokens, tokens)
        peer.trainer.set_global_load(self.routed_LE)
        peer.trainer.set_selection_bias(self.selection_bias or None)

    @property
    def _theta(self) -> dict[str, F32]:
        return {name: state.theta for name, state in self.state.items()}

    def _offer(self, name: str, tokens: int, routed_LE: npt.NDArray[np.int64]) -> Offer:
        peer = self.peers[name]
        trained = peer.trainer.trainable_names
        peer.out = {n: np.empty_like(self.state[n].theta) for n in trained}
        names = peer.rounds.give(self.round_index, self._theta, peer.out)
        weights = contribution_weights(self.layout, peer.trainer.held, tokens, routed_LE)
        offer = Offer(
            deltas={n: peer.out[n] for n in names if weights[n] > 0},
            weights={n: weights[n] for n in names if weights[n] > 0},
            base_commit=b"",
        )
        feedback = peer.feedback if self.manifest.sync.error_feedback else None
        return prepare_offer(offer, feedback, self._codec)

    # ---- the round ------------------------------------------------------------------------

    @property
    def _codec(self) -> Codec:
        return get_codec(self.manifest.sync.codec)

    def _commit(self, offers: Mapping[str, Offer]) -> tuple[int, dict[str, int]]:
        """Apply the offers; returns the bytes offered and the contributors of what advanced."""
        shadow: dict[str, FragmentState] = {}
        contributors: dict[str, int] = {}
        offered = 0
        for name in self.layout.names:
            given = {p: o.deltas[name] for p, o in sorted(offers.items()) if name in o.deltas}
            if not given:
                continue
            offered += sum(self._codec.encoded_bytes(delta.size) for delta in given.values())
            mean = self._mean(name, given, {p: offers[p].weights[name] for p in given})
            shadow[name] = self.policy.apply(name, mean, self.state[name], len(given))
            contributors[name] = len(given)
        finished = self.policy.finish(self.round_index, shadow, self.state)
        self.state = {**self.state, **finished}
        for peer, offer in offers.items():
            self.peers[peer].feedback.commit(offer.deltas.keys())
        self._contributors.update(contributors)
        return offered, contributors

    def _mean(self, name: str, given: Mapping[str, F32], weights: Mapping[str, float]) -> F32:
        sync = self.manifest.sync
        equal = sync.weights == "equal" or sync.aggregation in ("median", "trimmed_mean")
        shares = normalized_weights({p: 1.0 if equal else weights[p] for p in given}, WEIGHT_CLIP)
        operation = operation_of(sync.aggregation)
        plan = pb.FragmentPlan(
            fragment=name,
            contributors=list(given),
            weights=list(shares.values()),
            operation=pb.Operation.Name(operation),
        )
        if operation == pb.CLIPPED_MEAN:
            plan.norms.extend(float(np.linalg.norm(d.astype(np.float64))) for d in given.values())
        mean = np.empty_like(self.state[name].theta)
        kernel = make_kernel(plan, mean.size)
        kernel.begin(mean)
        for position, delta in enumerate(given.values()):
            kernel.add(position, delta)
        kernel.finish()
        lossless = self._codec.lossless or len(given) == 1
        return mean if lossless else quantized(mean, self._codec)
