"""Log-probabilities of a packed row, with shared prompts or plainly, and whether a model can take the former."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import torch
from torch import Tensor, nn

from magic_rl.engines.local.attention import SHARED_PREFIX
from magic_rl.engines.local.decoding import SharedDecoder
from magic_rl.engines.local.packing import Pack, pack

_log = logging.getLogger(__name__)

# What a model that can take the packed path differs by at most, in nats; one that cannot is off by whole nats.
_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.2}


def packed_logprobs(model: Any, row: Pack) -> Tensor:
    """Log-probability in nats of each target of a row at temperature 1, shape (M,); see `packing`."""
    device = model.device
    logits = model(
        input_ids=row.ids.to(device),
        position_ids=row.positions.to(device),
        trees=row.trees.to(device),
        logits_to_keep=row.predict.to(device),
        use_cache=False,
    ).logits[0]
    return _of_targets(logits, row)


def plain_logprobs(model: Any, row: Pack) -> Tensor:
    """The same for a row that holds one sequence, asking nothing special of the model."""
    logits = model(input_ids=row.ids.to(model.device), use_cache=False).logits[0]
    return _of_targets(logits[row.predict.to(model.device)], row)


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
    except (TypeError, AttributeError, IndexError, NotImplementedError, RuntimeError, ValueError) as error:
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
    vocabulary = int(model.config.get_text_config().vocab_size)
    drawn = iter(torch.randint(vocabulary, (32,), generator=torch.Generator().manual_seed(0)).tolist())
    one, two, *completions = (tuple(itertools.islice(drawn, length)) for length in (7, 4, 5, 3, 4))
    sequences = list(zip((one, one, two), completions, strict=True))
    forced = torch.tensor([completion[0] for completion in (*completions, completions[0])], device=model.device)
    branches = [(*prompt, int(token)) for prompt, token in zip((one, one, two, two), forced, strict=True)]

    scored = torch.cat([plain_logprobs(model, row) for row in pack(sequences, 1)])
    decoded = torch.stack(
        [model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1] for ids in branches]
    )
    model.set_attn_implementation(SHARED_PREFIX)
    (row,) = pack(sequences, 10**6)
    gap = (packed_logprobs(model, row) - scored).abs().max().item()
    decoder = SharedDecoder(model, (one, two), 2, 3)
    decoder.begin()
    likely = decoded.topk(min(50, vocabulary)).indices
    ours, theirs = (logits.float().log_softmax(-1).gather(1, likely) for logits in (decoder.go_on(forced), decoded))
    gap = max(gap, (ours - theirs).abs().max().item())
    if "sliding_attention" in layers and not any(decoder.windows):
        return "its layers do not say how far they see"
    tolerance = _TOLERANCE[next(model.parameters()).dtype]
    return "" if gap <= tolerance else f"log-probabilities would be off by up to {gap:.2g}"


def _layers(model: Any) -> set[str]:
    """Kinds of attention in a model's layers."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds:
        return kinds
    slides = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return {"sliding_attention" if slides else "full_attention"}
