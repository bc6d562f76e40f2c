"""Linear layers that compute without gradients for a while, as sampling does, an adapter beside their weights.

Folded into weights in bfloat16, an update smaller than a weight's last digit would be rounded away, so the adapter
stays what it is: its product with the input is summed with the layer's own before anything is rounded. On a CPU the
weights are laid out in blocks, as oneDNN's products read them. Otherwise each product of a few rows lays them out
again, which takes up to a quarter of the time of decoding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from magic_rl.engines.local.lora import adapted

_ROWS = 64  # a typical number of rows, which the layout is chosen for; any number will do


@contextlib.contextmanager
def inferring(
    layer: nn.Linear, down: Float[Tensor, "r I"] | None = None, up: Float[Tensor, "O r"] | None = None
) -> Iterator[None]:
    """Let a layer compute without gradients, with an adapter or without; its own forward comes back after.

    Args:
        down: A of the adapter.
        up: B with its scale.
    """
    weight = layer.weight.detach()
    adapter = None if down is None or up is None else (down.detach().to(weight.dtype), up.detach().to(weight.dtype))
    if _blocked(weight):
        vars(layer)["forward"] = _in_blocks(weight, layer.bias, adapter)
    elif adapter:
        vars(layer)["forward"] = partial(_beside, layer, *adapter)
    try:
        yield
    finally:
        vars(layer).pop("forward", None)  # the class's own comes to light again


def _in_blocks(
    weight: Tensor, bias: Tensor | None, adapter: tuple[Tensor, Tensor] | None
) -> Callable[[Tensor], Tensor]:
    """One product of [x, x A^T] and [W, B], which costs little more than that of x and W."""
    if adapter is None:
        return _product(weight, bias)
    down, up = adapter
    inner, both = _product(down, None), _product(torch.cat((weight, up), 1), bias)
    return lambda x: both(torch.cat((x, inner(x)), -1))


def _product(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    # What torch's compiler emits for a linear layer on a CPU; there is no other way to it in eager mode.
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return partial(torch.ops.mkldnn._linear_pointwise, W=blocks, B=bias, attr="none", scalars=[], algorithm="")


def _beside(layer: nn.Linear, down: Tensor, up: Tensor, x: Tensor) -> Tensor:
    rows = x.flatten(0, -2)
    return adapted(rows, rows @ down.T, layer.weight, layer.bias, up).view(*x.shape[:-1], -1)


def _blocked(weight: Tensor) -> bool:
    """Whether this machine and build have a kernel that reads blocks."""
    if weight.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
