"""Log-probabilities of packed rows, with shared prompts or plainly, and whether a model can take the former."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from magic_rl.engines.local.attention import SHARED_PREFIX
from magic_rl.engines.local.decoding import SharedDecoder
from magic_rl.engines.local.packing import Batch, Pack, one_by_one, pack
from magic_rl.engines.local.stem import Stem, continuing

_CHUNK = 256  # positions whose logits exist at one time

_log = logging.getLogger(__name__)

# What a model that can take the packed path differs by at most, in nats; one that cannot is off by whole nats.
_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.2}


def packed_logprobs(model: Any, batch: Batch) -> Iterator[tuple[Pack, Tensor]]:
    """Log-probability in nats of each target of each row at temperature 1, shape (M,); see `packing`.

    For gradients, a row's backward pass is due before the next row is asked for; the stem's own follows the last.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    with continuing(base.base_model, batch.stem) as stem:
        for row in batch.rows:
            yield row, _row_logprobs(base, row, stem)


def plain_logprobs(model: Any, batch: Batch) -> Iterator[tuple[Pack, Tensor]]:
    """The same for rows that hold one sequence each, asking nothing special of the model."""
    for row in batch.rows:
        logits = model(input_ids=row.ids.to(model.device), use_cache=False).logits[0]
        yield row, _of_targets(logits[row.predict.to(model.device)], row)


def _row_logprobs(base: Any, row: Pack, stem: Stem | None) -> Tensor:
    device = base.device
    predict = row.predict.to(device)
    inputs = {
        "input_ids": row.ids.to(device),
        "position_ids": row.positions.to(device),
        "layout": row.layout.to(device),
        "past_key_values": stem,
        "use_cache": False,
    }
    head = _linear_head(base)
    if head is None:
        return _of_targets(base(**inputs, logits_to_keep=predict).logits[0], row)
    hidden = base.base_model(**inputs).last_hidden_state[0].index_select(0, predict)
    apply: Callable[..., Tensor] = _TargetLogprobs.apply
    return apply(hidden, head.weight, row.targets.to(device))


def recomputable(model: nn.Module) -> list[nn.Module]:
    """Layers whose activations can be computed again; those that transformers can checkpoint."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextlib.contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Let each layer of a forward pass keep its input alone; the backward pass computes the rest again."""
    layers = recomputable(model)
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own comes to light again


class _TargetLogprobs(torch.autograd.Function):
    """Log-probabilities of targets under a frozen projection, without keeping logits of the whole vocabulary.

    d log p(target) / d hidden = w[target] - Σ_v p(v) w[v] is known as soon as a chunk's logits are, so the forward
    pass keeps that, a row of the hidden width, in place of a row of the vocabulary.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """hidden (M, H), weight (V, H), targets (M,) -> (M,) in float32."""
        logprobs, slopes = [], []
        # Made once and written over: memory that one chunk gives back fits the next one badly, as it is aligned.
        room = weight.new_empty(min(_CHUNK, len(hidden)), len(weight))
        wide = room.float()  # one and the same in float32
        for states, wanted in zip(torch.split(hidden, _CHUNK), torch.split(targets, _CHUNK), strict=True):
            narrow = torch.mm(states, weight.T, out=room[: len(states)])
            logits = wide[: len(states)].copy_(narrow)
            target, most = logits.gather(1, wanted[:, None]), logits.amax(-1, keepdim=True)
            odds = logits.sub_(most).exp_()
            total = odds.sum(-1, keepdim=True)
            logprobs.append((target - most - total.log())[:, 0])
            if ctx.needs_input_grad[0]:
                # Probabilities minus one-hot in float32: rounding either first would drown the slope of a sure token.
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
    """The vocabulary projection, if it is all that lies between hidden states and logits and is frozen."""
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    scaled = any(getattr(config, name, None) for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"))
    plain = type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad
    return head if plain and not scaled and model.base_model is not model else None


def _of_targets(logits: Tensor, row: Pack) -> Tensor:
    return -nn.functional.cross_entropy(logits.float(), row.targets.to(logits.device), reduction="none")


@torch.inference_mode()
def share_prompts(model: Any, name: str) -> bool:
    """Switch a model to our attention if it then gives the same numbers as before; says so in the log if not.

    Tried on short random sequences: packed scoring, and decoding with a shared prompt.

    Args:
        model: As transformers loaded it. Left with its own attention if it cannot take ours.
        name: For the log.

    Returns:
        Whether prompts can be shared within a group.
    """
    own = model.config._attn_implementation
    try:
        reason = _difference(model)
    except torch.OutOfMemoryError:
        raise  # says nothing of the model's kind
    except (KeyError, TypeError, AttributeError, IndexError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = f"its forward pass cannot ({error})"
    if reason:
        model.set_attn_implementation(own)
        _log.warning("%s: prompts are not shared within a group, which is slower: %s", name, reason)
    return not reason


def _difference(model: Any) -> str:
    """Why the model cannot share prompts; "" if it can."""
    layers = _layers(model)
    if not layers <= {"full_attention", "sliding_attention"}:
        return f"it has layers of {', '.join(sorted(layers))}"
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    if kinds & {"dynamic", "longrope"}:
        return "its positions depend on the longest sequence of a pass"
    vocabulary = int(model.config.get_text_config().vocab_size)
    drawn = iter(torch.randint(vocabulary, (32,), generator=torch.Generator().manual_seed(0)).tolist())
    one, two, *completions = (tuple(itertools.islice(drawn, length)) for length in (7, 4, 5, 3, 4))
    sequences = list(zip((one, one, two), completions, strict=True))
    forced = torch.tensor([completion[0] for completion in (*completions, completions[0])], device=model.device)
    branches = [(*prompt, int(token)) for prompt, token in zip((one, one, two, two), forced, strict=True)]

    scored = _scores(plain_logprobs, model, one_by_one(sequences))
    plain = torch.stack(
        [
            model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
            for ids in (one, one, two, two, *branches)
        ]
    )
    model.set_attn_implementation(SHARED_PREFIX)
    gaps = [_scores(packed_logprobs, model, pack(sequences, budget)) - scored for budget in (1, 10**6)]
    decoder = SharedDecoder(model, 2)
    decoded = torch.cat([decoder.admit((one, two)), decoder.go_on(forced)])
    likely = plain.topk(min(50, vocabulary)).indices
    ours, theirs = (logits.float().log_softmax(-1).gather(1, likely) for logits in (decoded, plain))
    gap = torch.cat([*gaps, (ours - theirs).flatten()]).abs().max().item()  # NaN if any is, which is not within
    if "sliding_attention" in layers and not any(decoder.windows):
        return "its layers do not say how far they see"
    tolerance = _TOLERANCE[next(model.parameters()).dtype]
    return "" if gap <= tolerance else f"log-probabilities would be off by up to {gap:.2g}"


def _scores(
    logprobs: Callable[[Any, Batch], Iterator[tuple[Pack, Tensor]]], model: Any, batches: Iterable[Batch]
) -> Tensor:
    """Of all targets, sequence by sequence in the order that batches number them."""
    found: dict[int, Tensor] = {}
    for batch in batches:
        for row, scores in logprobs(model, batch):
            found.update(zip(row.sequences, torch.split(scores, row.lengths), strict=True))
    return torch.cat([found[index] for index in sorted(found)])


def _layers(model: Any) -> set[str]:
    """Kinds of attention in a model's layers."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds:
        return kinds
    slides = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return {"sliding_attention" if slides else "full_attention"}
