"""A linear layer with an adapter, forward and backward, in as few passes over activations as possible.

PEFT computes `base(x) + scale * up(down(x))` as separate operations, each of which writes a whole activation and is
recorded for the backward pass. Here the backward pass has a closed form, for which only the input and the r numbers
that `down` makes of each token are kept. The sum is rounded once: if the adapter's product were added to an output
already rounded to bfloat16, an update smaller than that output's last digit would vanish.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn


def streamline(layer: PeftLinear, adapter: str) -> None:
    """Make a LoRA layer on an `nn.Linear` compute with `_AdaptedLinear`."""
    layer.forward = partial(_forward, layer, adapter)


def adapted(
    x: Float[Tensor, "M I"],
    inner: Float[Tensor, "M r"],
    weight: Float[Tensor, "O I"],
    bias: Float[Tensor, " O"] | None,
    up: Float[Tensor, "O r"],
) -> Float[Tensor, "M O"]:
    """x W^T + bias + inner B^T, summed in float32 and rounded once.

    Args:
        x: Inputs of M tokens.
        inner: x A^T.
        weight: W.
        bias: The layer's bias, if it has one.
        up: B with its scale.
    """
    if bias is None:  # accumulates the large product onto the small one
        return (inner @ up.T).addmm_(x, weight.T)
    return nn.functional.linear(torch.cat((x, inner), 1), torch.cat((weight, up), 1), bias)


def _forward(layer: PeftLinear, adapter: str, x: Tensor, *_: Any, **__: Any) -> Tensor:
    base = layer.get_base_layer()
    if layer.disable_adapters:
        out: Tensor = base(x)
        return out
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    apply: Callable[..., Tensor] = _AdaptedLinear.apply
    out = apply(x.to(base.weight.dtype).flatten(0, -2), base.weight, base.bias, down, up, layer.scaling[adapter])
    return out.view(*x.shape[:-1], -1)


class _AdaptedLinear(torch.autograd.Function):
    """x W^T + bias + scale (x A^T) B^T for a frozen W and a trained A (`down`) and B (`up`)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "M I"],
        weight: Float[Tensor, "O I"],
        bias: Float[Tensor, " O"] | None,
        down: Float[Tensor, "r I"],
        up: Float[Tensor, "O r"],
        scale: float,
    ) -> Float[Tensor, "M O"]:
        """The layer's output."""
        down, up = down.to(x.dtype), (up * scale).to(x.dtype)
        inner = x @ down.T
        ctx.save_for_backward(x, inner, weight, down, up)
        ctx.scale = scale
        return adapted(x, inner, weight, bias, up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        """Gradients of x, A and B; the last two in float32."""
        (out,) = gradients
        x, inner, weight, down, up = ctx.saved_tensors
        through = out @ up  # (M, r)
        grad_x = (out @ weight).addmm_(through, down) if ctx.needs_input_grad[0] else None
        grad_down, grad_up = (through.T @ x).float(), (out.T @ inner).float() * ctx.scale
        return grad_x, None, None, grad_down, grad_up, None
