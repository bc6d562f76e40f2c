"""Linear layers that compute with another weight for a while, as sampling does with an adapter folded in.

On a CPU the weight is then laid out in blocks, as oneDNN's products read it. Otherwise each product of a few rows lays
it out anew, which takes up to a quarter of the time of decoding; the numbers are the same but for the order of sums.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

_ROWS = 64  # a typical number of rows, which the layout is chosen for; any number will do


@contextlib.contextmanager
def reading(layer: nn.Module, weight: Tensor) -> Iterator[None]:
    """Let a layer compute with `weight`, of its own shape and dtype, without gradients; its own comes back after."""
    if _blocked(layer, weight):
        # What torch's compiler emits for a linear layer on a CPU; there is no other way to it in eager mode.
        blocks = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        fixed = {"W": blocks, "B": layer.bias, "attr": "none", "scalars": [], "algorithm": ""}
        layer.forward = partial(torch.ops.mkldnn._linear_pointwise, **fixed)
        try:
            yield
        finally:
            del layer.forward  # the class's own comes to light again
    else:
        own = layer._parameters["weight"]
        layer._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
        try:
            yield
        finally:
            layer._parameters["weight"] = own


def _blocked(layer: nn.Module, weight: Tensor) -> bool:
    """Whether this machine and build have a kernel that reads blocks."""
    if (
        type(layer) is not nn.Linear
        or weight.device.type != "cpu"
        or not hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
