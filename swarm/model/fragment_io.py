"""Copying fragments between a model's parameters and flat fp32 buffers.

values = np.empty(layout.numel("expert.3"), np.float32)
read_fragment(model, layout, "expert.3", values)
write_fragment(model, layout, "expert.3", values)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from swarm.model.fragments import FragmentLayout, TensorSlice


def read_fragment(model: nn.Module, layout: FragmentLayout, name: str, out: np.ndarray) -> None:
    """Copy the fragment's parameters into `out` (flat fp32), exact for fp32 parameters."""
    _check_buffer(layout, name, out)
    flat = torch.from_numpy(out)
    with torch.no_grad():
        for part, parameter in _parameters(model, layout, name):
            flat[part.offset : part.offset + part.numel].view(part.shape).copy_(parameter)


def write_fragment(model: nn.Module, layout: FragmentLayout, name: str, values: np.ndarray) -> None:
    """Copy flat fp32 `values` into the fragment's parameters, in place."""
    _check_buffer(layout, name, values)
    with torch.no_grad():
        for part, parameter in _parameters(model, layout, name):
            parameter.copy_(_as_tensor(part.of(values)))


def _as_tensor(values: np.ndarray) -> torch.Tensor:
    """Tensor for reading only; a read-only array is copied, as torch has no such tensors."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _check_buffer(layout: FragmentLayout, name: str, values: np.ndarray) -> None:
    expected = (layout.numel(name),)
    if values.shape != expected or values.dtype != np.float32:
        raise ValueError(
            f"{name} needs a float32 buffer of {expected}, not {values.dtype} {values.shape}"
        )


def _parameters(
    model: nn.Module, layout: FragmentLayout, name: str
) -> list[tuple[TensorSlice, nn.Parameter]]:
    by_name = dict(model.named_parameters())
    return [(part, by_name[part.name]) for part in layout.tensors(name)]
