"""AdamW over the fragments that a peer trains.

What a peer does not train has no entry here: no moments, no weight decay, no clipping share. State
is kept by parameter name, so it survives a model that is built anew with other experts, and it is
deleted, not zeroed, when an expert is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from swarm.config import TrainingConfig
from swarm.training.adamw import AdamW
from swarm.training.schedule import gain_ramp

NamedParameters = Mapping[str, nn.Parameter]
STATE_KEYS = ("step", "exp_avg", "exp_avg_sq")


class FragmentAdamW:
    """AdamW with one learning-rate ramp per fragment and weight decay on matrices only."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.fragments: dict[str, NamedParameters] = {}
        self.age_steps: dict[str, int] = {}
        self._adamw: AdamW | None = None

    def set_fragments(self, fragments: Mapping[str, NamedParameters]) -> None:
        """Train exactly `fragments`: keep the state of old ones, start new ones afresh."""
        state = self._state_by_name()  # of lost fragments too; it is not put back below
        self.age_steps = {name: self.age_steps.get(name, 0) for name in fragments}
        self.fragments = dict(fragments)
        groups: list[dict[str, Any]] = []
        for fragment, parameters in fragments.items():
            for decay, wanted in ((self.config.weight_decay, True), (0.0, False)):
                chosen = [p for p in parameters.values() if (p.ndim >= 2) is wanted]
                if chosen:
                    groups.append({"params": chosen, "weight_decay": decay, "fragment": fragment})
        betas = (self.config.beta1, self.config.beta2)
        self._adamw = AdamW(groups, lr=0.0, betas=betas, fused=True)
        self._put_state(state)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters that are trained."""
        return [p for parameters in self.fragments.values() for p in parameters.values()]

    def step(self, learning_rate: float) -> None:
        """One update; parameters whose gradient is None stay as they are."""
        assert self._adamw is not None, "set_fragments comes first"
        for group in self._adamw.param_groups:
            ramp = gain_ramp(self.age_steps[group["fragment"]], self.config.inner_steps)
            group["lr"] = learning_rate * ramp
        self._adamw.step()
        for fragment in self.age_steps:
            self.age_steps[fragment] += 1

    def state_tensors(self) -> dict[str, Tensor]:
        """State as `<parameter>/<key>` on the CPU; parameters never stepped have none."""
        return {
            f"{name}/{key}": state[key].detach().cpu()
            for name, state in self._state_by_name().items()
            for key in STATE_KEYS
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor], age_steps: dict[str, int]) -> None:
        """Restore the state of the fragments that are trained now; others start afresh.

        Raises `ValueError` when a tensor is missing or has another shape than its parameter;
        nothing is changed then.
        """
        states: dict[str, dict[str, Tensor]] = {}
        for parameters in self.fragments.values():
            for name, parameter in parameters.items():
                if f"{name}/step" not in tensors:
                    continue
                states[name] = {key: tensors[f"{name}/{key}"].clone() for key in STATE_KEYS}
                if any(states[name][key].shape != parameter.shape for key in STATE_KEYS[1:]):
                    raise ValueError(f"the Adam state of {name} has another shape")
        self.age_steps = {fragment: int(age_steps.get(fragment, 0)) for fragment in self.fragments}
        self._put_state(states)

    def _state_by_name(self) -> dict[str, dict[str, Tensor]]:
        if self._adamw is None:
            return {}
        return {
            name: self._adamw.state[parameter]
            for parameters in self.fragments.values()
            for name, parameter in parameters.items()
            if parameter in self._adamw.state
        }

    def _put_state(self, states: Mapping[str, dict[str, Tensor]]) -> None:
        assert self._adamw is not None
        self._adamw.state.clear()
        for parameters in self.fragments.values():
            for name, parameter in parameters.items():
                if name in states:
                    moved = {k: v.to(parameter.device) for k, v in states[name].items()}
                    self._adamw.state[parameter] = moved
