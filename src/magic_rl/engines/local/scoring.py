"""Log-probabilities of sequences, in packed rows, which share prompts, or in plain rows of one sequence each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Float32, Int
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from magic_rl.engines.local.packing import Batch, Pack
from magic_rl.engines.local.prefix import Prefix, continuing

CHUNK = 256  # positions whose logits exist at the same time


def packed_logprobs(model: Any, batch: Batch) -> Iterator[tuple[Pack, Float[Tensor, " M"]]]:
    """Log-probability in nats of each target of each row at temperature 1; see `packing`.

    To learn, run a row's backward pass before asking for the next row; the prefix's own follows the last one.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    with continuing(base.base_model, batch.prefix) as prefix:
        for row in batch.rows:
            yield row, _row_logprobs(base, row, prefix)


def plain_logprobs(model: Any, batch: Batch) -> Iterator[tuple[Pack, Float[Tensor, " M"]]]:
    """The same for plain rows, which any causal model can compute."""
    for row in batch.rows:
        logits = model(input_ids=row.ids.to(model.device), use_cache=False).logits.flatten(0, 1)
        yield row, _of_targets(logits.index_select(0, row.predict.to(logits.device)), row)


def _row_logprobs(base: Any, row: Pack, prefix: Prefix | None) -> Float[Tensor, " M"]:
    device = base.device
    predict = row.predict.to(device)
    inputs = {
        "input_ids": row.ids.to(device),
        "position_ids": row.positions.to(device),
        "layout": row.laid_out.to(device),
        "past_key_values": prefix,
        "use_cache": False,
    }
    head = _linear_head(base)
    if head is None:
        return _of_targets(base(**inputs, logits_to_keep=predict).logits[0], row)
    hidden = base.base_model(**inputs).last_hidden_state[0].index_select(0, predict)
    apply: Callable[..., Tensor] = _TargetLogprobs.apply
    return apply(hidden, head.weight, row.targets.to(device))


def scales_with_length(model: Any) -> bool:
    """Whether positions are scaled by the longest sequence of a pass, so that shorter ones must not share it."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return any(
        part.get("rope_type") in {"dynamic", "longrope"} for part in (rope, *rope.values()) if isinstance(part, dict)
    )


def recomputable(model: nn.Module) -> list[nn.Module]:
    """Layers whose activations can be recomputed: those that transformers can checkpoint."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextlib.contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Let each layer of a forward pass keep only its input; the backward pass recomputes the rest."""
    layers = recomputable(model)
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # uncovers the class's own


class _TargetLogprobs(torch.autograd.Function):
    """Log-probabilities of targets under a frozen projection, without keeping logits over the whole vocabulary.

    d log p(target) / d hidden = w[target] - Σ_v p(v) w[v] is known as soon as a chunk's logits are, so the forward pass
    keeps that, one row of the hidden width per target, instead of a row of the vocabulary.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Float[Tensor, "M H"], weight: Float[Tensor, "V H"], targets: Int[Tensor, " M"]
    ) -> Float32[Tensor, " M"]:
        """Log-probability of each target."""
        logprobs, slopes = [], []
        # Allocated once and overwritten: because of alignment, memory freed by one chunk fits the next one badly.
        room = weight.new_empty(min(CHUNK, len(hidden)), len(weight))
        wide = room.float()  # the same in float32
        for states, wanted in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True):
            narrow = torch.mm(states, weight.T, out=room[: len(states)])
            logits = wide[: len(states)].copy_(narrow)
            target, most = logits.gather(1, wanted[:, None]), logits.amax(-1, keepdim=True)
            odds = logits.sub_(most).exp_()
            total = odds.sum(-1, keepdim=True)
            logprobs.append((target - most - total.log())[:, 0])
            if ctx.needs_input_grad[0]:
                # Probabilities minus one-hot in float32: rounding either first would lose the slope of a sure token.
                chances = odds.div_(total).scatter_add_(1, wanted[:, None], torch.full_like(total, -1.0))
                slopes.append((narrow.copy_(chances) @ weight).neg_())
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The chain rule; the projection is frozen and gets no gradient."""
        (slopes,) = ctx.saved_tensors
        return (gradients[0][:, None] * slopes).to(slopes.dtype), None, None


def _linear_head(model: Any) -> nn.Linear | None:
    """The vocabulary projection, if it is frozen and alone turns hidden states into logits; else None."""
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    scaled = any(getattr(config, name, None) for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"))
    plain = type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad
    plain = plain and not head._forward_pre_hooks
    return head if plain and not scaled and model.base_model is not model else None


def _of_targets(logits: Float[Tensor, "M V"], row: Pack) -> Float[Tensor, " M"]:
    return -nn.functional.cross_entropy(logits.float(), row.targets.to(logits.device), reduction="none")
