"""What training loads: a worker is to be ready soon after its start."""

from __future__ import annotations

import subprocess
import sys

STORY = """
import sys
import numpy as np
import torch
from swarm.config import TrainingConfig
from swarm.model.config import ModelConfig
from swarm.model.transformer import Transformer
from swarm.training.optimizer import FragmentAdamW

model = Transformer(ModelConfig(num_layers=1, num_experts=2), seed=0)
optimizer = FragmentAdamW(TrainingConfig())
optimizer.set_fragments({"all": dict(model.named_parameters())})
model(torch.zeros(1, 8, dtype=torch.long)).logits_BTV.sum().backward()
torch.nn.utils.clip_grad_norm_(optimizer.parameters, 1.0)
before = model.lm_head.weight.detach().clone()
optimizer.step(0.1)
assert not torch.equal(before, model.lm_head.weight)
print({"torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules))
"""


def test_a_model_is_built_and_trained_without_torch_s_compiler() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STORY], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")
