"""Linear layers with adapters, computed without gradients, for sampling.

Adapters are not merged: in bfloat16 weights, an update smaller than a weight's last digit would be rounded away.
Instead, the adapter's product with the input is added to the layer's own before the sum is rounded. On a CPU the
weights are stored in the blocks that oneDNN reads. Otherwise each product of few rows would convert them again, which
takes up to a quarter of the decoding time. Layers that get the same input are computed as one product, since each
product has a fixed cost that weighs heavily when rows are few.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

from magic_rl.engines.local.lora import adapted

_ROWS = 64  # the number of rows that the layout is chosen for; any number works
Adapter = tuple[Tensor, Tensor]  # A, shape (r, I), and B with its scale, shape (O, r)


@contextlib.contextmanager
def inferring(layers: Sequence[nn.Linear | PeftLinear], adapters: Sequence[Adapter] = ()) -> Iterator[None]:
    """Let layers compute without gradients, with adapters or without; on exit, they get their own `forward` back.

    Args:
        layers: Linear layers, or PEFT's wrappers of them, with the same input in each pass; all or none have a bias.
        adapters: One for each layer, or none at all.
    """
    forwards = [vars(layer).get("forward") for layer in layers]
    weights = [layer.weight.detach() for layer in layers]
    pairs = [(down.detach().to(weights[0].dtype), up.detach().to(weights[0].dtype)) for down, up in adapters]
    if _blocked(weights[0]):
        joined = _Joined(weights, [layer.bias for layer in layers], pairs)
        for place, layer in enumerate(layers):
            vars(layer)["forward"] = partial(joined.part, place)
    else:
        for layer, pair in zip(layers, pairs, strict=False):
            vars(layer)["forward"] = partial(_beside, layer, pair)
    try:
        yield
    finally:
        for layer, forward in zip(layers, forwards, strict=True):
            vars(layer).pop("forward", None)  # uncovers the class's own
            vars(layer).update({"forward": forward} if forward else {})


class _Joined:
    """One product of [x, x A^T] and [W, B] for all layers; if ranks are small, it costs little more than x W^T.

    The first layer that is called computes it. The others take their parts of the result if they get the same tensor,
    which must not be changed in place meanwhile; else it is computed again. The order of calls affects only the time.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None], adapters: Sequence[Adapter]) -> None:
        weight, self._inner = torch.cat(list(weights)), None
        if adapters:
            self._inner = _product(torch.cat([down for down, _ in adapters]), None)
            ups: Tensor = torch.block_diag(*(up for _, up in adapters))  # type: ignore[no-untyped-call]  # torch's own
            weight = torch.cat((weight, ups), 1)
        given = [bias for bias in biases if bias is not None]
        self._product = _product(weight, torch.cat(given) if given else None)
        self._widths = [len(own) for own in weights]
        self._input: Tensor | None = None
        self._parts: dict[int, Tensor] = {}  # outputs not asked for yet, by layer

    def part(self, place: int, x: Float[Tensor, "*b I"], *_: Any, **__: Any) -> Float[Tensor, "*b O"]:
        """The output of one of the layers."""
        if x is not self._input or place not in self._parts:
            both = x if self._inner is None else torch.cat((x, self._inner(x)), -1)
            self._input, self._parts = x, dict(enumerate(torch.split(self._product(both), self._widths, -1)))
        own = self._parts.pop(place)
        if not self._parts:
            self._input = None
        return own


def _product(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    # What torch's compiler emits for a linear layer on a CPU; eager mode has no public function for it.
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return partial(torch.ops.mkldnn._linear_pointwise, W=blocks, B=bias, attr="none", scalars=[], algorithm="")


def _beside(layer: nn.Linear | PeftLinear, adapter: Adapter, x: Tensor, *_: Any, **__: Any) -> Tensor:
    down, up = adapter
    rows = x.flatten(0, -2)
    return adapted(rows, rows @ down.T, layer.weight, layer.bias, up).view(*x.shape[:-1], -1)


def _blocked(weight: Tensor) -> bool:
    """Whether this machine and this build of torch have a kernel that reads blocks."""
    if weight.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
