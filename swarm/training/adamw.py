"""torch's AdamW without torch's compiler.

torch wraps the methods of its optimizers in orders to its compiler, and the first call of one
imports the compiler for them. That takes as long as importing torch itself, at each start of a
worker, and nothing here is compiled. `tests/unit/test_training_imports.py` sees it coming back.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """The same bits as `torch.optim.AdamW`. Not for `torch.compile`."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See torch."""
        inspect.unwrap(torch.optim.AdamW.add_param_group)(self, param_group)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """See torch."""
        return inspect.unwrap(torch.optim.AdamW.step)(self, closure)
