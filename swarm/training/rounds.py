"""One peer's rounds around its inner loop: what it takes over from a commit, what it gives.

    rounds = LocalRounds(trainer)
    rounds.take(round_index=1, theta, versions, contributors)   # the commit that round 1 follows
    for _ in range(steps):
        trainer.train_step()
    names = rounds.give(1, theta, out)      # updates of the fragments that round 1 averages

With `stream.overlap` the steps of round 2 begin at once, and `take(2, ..., late=True)` comes
among them. `theta` is the committed state by fragment (flat fp32); it must stay as it is from
`take` to the next `give`. The node's worker and simulations share this class.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from swarm.training.probe import RoutingProbe, routing_divergence
from swarm.training.streaming import corrected, due, eager_gain, guessed_theta, is_due
from swarm.training.trainer import Trainer

F32 = npt.NDArray[np.float32]


class LocalRounds:
    """See the module docstring. Holds copies of what was sent only with `stream.overlap`.

    Attributes:
        divergence: how much the last `take` changed the routing of `probe`'s batch, in nats; None
            without a probe, and for the first.
    """

    def __init__(self, trainer: Trainer, probe: RoutingProbe | None = None) -> None:
        self.trainer = trainer
        self.divergence: float | None = None
        self._probe = probe
        self._stream = trainer.manifest.stream
        self._versions: dict[str, int] = {}
        self._contributors: Mapping[str, int] = {}
        self._references: dict[str, F32] = {}  # where the local steps since `give` began
        self._bases: dict[str, F32] = {}  # of eager: committed values that were sent from
        self._updates: dict[str, F32] = {}  # of eager: own updates that were sent

    def take(
        self,
        round_index: int,
        theta: Mapping[str, F32],
        versions: Mapping[str, int],
        contributors: Mapping[str, int],
        late: bool = False,
    ) -> None:
        """Take over the commit that round `round_index` (from 1) follows.

        A fragment that was not due in it keeps its local values, unless it has another version
        than the one that they came from. `late`: steps were made since `give`, which are corrected
        for; otherwise they are given up. `contributors`: how many made each fragment's version.
        """
        before = self._look() if self._versions else None
        self._load(round_index, theta, versions, late)
        self._contributors = dict(contributors)
        after = self._look() if before is not None else None
        self.divergence = routing_divergence(before, after) if before and after else None

    def _look(self) -> list[Tensor] | None:
        complete = self._probe is not None and self.trainer.is_set
        return self._probe.look(self.trainer.model) if self._probe and complete else None

    def _load(
        self,
        round_index: int,
        theta: Mapping[str, F32],
        versions: Mapping[str, int],
        late: bool,
    ) -> None:
        trainer = self.trainer
        trained = set(trainer.trainable_names)
        if not late:
            self._references.clear()
        for name in trainer.needed_names:
            known = self._versions.get(name) if name in trained else None
            if known == versions[name] and not self._was_due(name, round_index):
                continue
            reference = self._references.pop(name, None)
            # More than one version on: too much of what was done since began from an old state.
            if reference is None or known is None or versions[name] > known + 1:
                trainer.load({name: theta[name]})
            else:
                local = np.empty_like(reference)
                trainer.read(name, local)
                trainer.load({name: corrected(self._stream, local, reference, theta[name])})
        self._versions = {n: v for n, v in versions.items() if n in trained}
        for kept in (self._references, self._bases, self._updates):
            for name in kept.keys() - trained:
                del kept[name]

    def give(self, round_index: int, theta: Mapping[str, F32], out: Mapping[str, F32]) -> list[str]:
        """Write this peer's contributions to round `round_index` into `out`; returns their names.

        Under eager overlap the local parameters become the guess of what the round will make.
        """
        trainer = self.trainer
        names = due(trainer.layout, trainer.trainable_names, self._stream.groups, round_index)
        for name in names:
            trainer.contribute(name, theta[name], out[name])
            if self._stream.overlap:
                local = np.empty_like(theta[name])
                trainer.read(name, local)
                self._references[name] = self._reference(name, local, theta[name])
        return names

    def _was_due(self, name: str, round_index: int) -> bool:
        return is_due(self.trainer.layout, name, self._stream.groups, round_index - 1)

    def _reference(self, name: str, local: F32, base: F32) -> F32:
        """Where the steps after `give` begin: here, or at the eager guess, which is loaded."""
        if self._stream.correction != "eager":
            return local
        own = base - local
        before, own_before = self._bases.get(name), self._updates.get(name)
        self._bases[name], self._updates[name] = base.copy(), own
        contributors = self._contributors.get(name, 0)
        if before is None or own_before is None or contributors < 1:
            return local
        gain = eager_gain(self.trainer.manifest.outer, contributors)
        guess = guessed_theta(base, before, own, own_before, gain)
        self.trainer.load({name: guess})
        return guess
