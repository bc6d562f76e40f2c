"""Linear layers that compute without gradients for a while, as sampling does, an adapter beside their weights.

Folded into weights in bfloat16, an update smaller than a weight's last digit would be rounded away, so the adapter
stays what it is: its product with the input is summed with the layer's own before anything is rounded. On a CPU the
weights are laid out in blocks, as oneDNN's products read them. Otherwise each product of a few rows lays them out
again, which takes up to a quarter of the time of decoding. Layers that are given the same input become one product:
each has a cost of its own, which few rows do not outweigh.
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

_ROWS = 64  # a typical number of rows, which the layout is chosen for; any number will do
Adapter = tuple[Tensor, Tensor]  # A, shape (r, I), and B with its scale, shape (O, r)


@contextlib.contextmanager
def inferring(layers: Sequence[nn.Linear | PeftLinear], adapters: Sequence[Adapter] = ()) -> Iterator[None]:
    """Let layers compute without gradients, with adapters or without; their own forwards come back after.

    Args:
        layers: That are given the same input in each forward pass, with biases all or none; or PEFT's own around them.
        adapters: One for each layer, or none.
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
            vars(layer).pop("forward", None)  # the class's own comes to light again
            vars(layer).update({"forward": forward} if forward else {})


class _Joined:
    """One product of [x, x A^T] and [W, B] for all layers; while ranks are small it costs little more than x and W.

    Whichever layer is asked first computes it. The others are given their parts of it if their input is the same one,
    not changed in place since, and else it is computed again: the order in which a model asks changes only the time.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None], adapters: Sequence[Adapter]) -> None:
        weight, self._inner = torch.cat(list(weights)), None
        if adapters:
            self._inner = _product(torch.cat([down for down, _ in adapters]), None)
            ups: Tensor = torch.block_diag(*(up for _, up in adapters))  # type: ignore[no-untyped-call]  # torch did not
            weight = torch.cat((weight, ups), 1)
        given = [bias for bias in biases if bias is not None]
        self._product = _product(weight, torch.cat(given) if given else None)
        self._widths = [len(own) for own in weights]
        self._input: Tensor | None = None
        self._parts: dict[int, Tensor] = {}  # not asked for yet

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
    # What torch's compiler emits for a linear layer on a CPU; there is no other way to it in eager mode.
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return partial(torch.ops.mkldnn._linear_pointwise, W=blocks, B=bias, attr="none", scalars=[], algorithm="")


def _beside(layer: nn.Linear | PeftLinear, adapter: Adapter, x: Tensor, *_: Any, **__: Any) -> Tensor:
    down, up = adapter
    rows = x.flatten(0, -2)
    return adapted(rows, rows @ down.T, layer.weight, layer.bias, up).view(*x.shape[:-1], -1)


def _blocked(weight: Tensor) -> bool:
    """Whether this machine and build have a kernel that reads blocks."""
    if weight.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
