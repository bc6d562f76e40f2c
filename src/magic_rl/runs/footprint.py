"""How much memory a config will need with a model, from the model's shape alone, before its weights are loaded.

Weights, adapters and optimiser states are counted. Of activations, the largest that autograd keeps are counted: inputs
and outputs of linear layers, and norms and attention in float32; for tiny models, what autograd really keeps is within
a third of that. The KV cache is counted as if all prompts and replies were as long as they may be.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from magic_rl.config import Config
from magic_rl.engines.local.engine import batch_tokens, processes
from magic_rl.engines.local.parity import unfit
from magic_rl.engines.local.scoring import CHUNK
from magic_rl.types import Role

_TRAINED = 16  # bytes per adapter parameter: itself, its gradient and two moments of AdamW, in float32
_DRAWN = 16  # bytes per logit while a token is drawn: probabilities and their sums in float32
_PROCESS = 500_000_000  # bytes that Python, torch and transformers take by themselves


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that training with one model takes."""

    base: int  # its weights
    adapters: int  # of all players on it, with gradients and optimiser states
    loading: int  # weights in wider precision while the model is tried on chat text
    learning: int  # activations and logits of one batch
    sampling: int  # weights laid out once more on a CPU, and probabilities
    cache: int  # KV cache while sampling, at most
    process: int  # what the program takes without a model, on a CPU

    @property
    def certain(self) -> int:
        """What is needed however short replies are."""
        return self.process + self.base + max(self.loading, self.adapters + max(self.learning, self.sampling))

    @property
    def most(self) -> int:
        """What is needed if all prompts and replies are as long as they may be."""
        return max(self.certain, self.process + self.base + self.adapters + self.sampling + self.cache)


def footprint(
    model: Any, config: Config, roles: tuple[Role, ...], device: torch.device, dtype: torch.dtype
) -> Footprint:
    """What a run of a config takes.

    Args:
        model: With adapters attached; the device "meta" will do.
        roles: The roles that it plays.
    """
    base, wide = model.get_base_model(), dtype.itemsize
    numbers = {id(p): p.numel() for name, p in model.named_parameters() if ".lora_" not in name}
    adapter = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    head = base.get_output_embeddings()
    linear = [
        module
        for name, module in base.named_modules()
        if type(module) is nn.Linear and module is not head and ".lora_" not in name
    ]
    tokens = batch_tokens(config.engine, device, dtype)
    kept = wide * sum(module.in_features + module.out_features for module in linear) + _beside(base, tokens)
    text, shares = base.config.get_text_config(), not unfit(base)
    activations = tokens * kept
    above = config.engine.recompute_above
    if above is not None and above < tokens:
        layers = text.num_hidden_layers  # one of them is whole at a time, and all keep their inputs
        activations = tokens * (kept // layers + layers * text.hidden_size * wide)
    here = config.engine.sampler == "local"  # else sampling takes memory elsewhere
    count = processes(config.engine, device)  # each has its own model and batches of this size
    a_token = 2 * text.num_hidden_layers * _heads(text)[1] * wide
    rows, cache = _decoded(config, roles, a_token, shares=shares, count=count) if here else (0, 0)
    laid_out = sum(module.weight.numel() for module in [*linear, *([head] if type(head) is nn.Linear else [])])
    learners = 1 if config.game.shared_parameters else len(roles)
    kept_versions = config.game.schedule.rounds * len(roles) if config.game.opponents != "last" else 0
    return Footprint(
        base=count * wide * sum(numbers.values()),
        adapters=adapter * (_TRAINED * learners + 4 * kept_versions),
        loading=2 * wide * max(numbers.values()),
        learning=count * (activations + (CHUNK if shares else tokens) * text.vocab_size * (wide + 4)),
        sampling=(count * wide * laid_out if here and device.type == "cpu" else 0) + rows * text.vocab_size * _DRAWN,
        cache=cache,
        process=count * _PROCESS if device.type == "cpu" else 0,
    )


def _heads(text: Any) -> tuple[int, int]:
    """Widths of all queries and of all keys; 0 in a model without attention."""
    queries = getattr(text, "num_attention_heads", None) or 0
    size = getattr(text, "head_dim", None) or text.hidden_size // max(1, queries)
    return queries * size, (getattr(text, "num_key_value_heads", None) or queries) * size


def _beside(model: Any, tokens: int) -> int:
    """Bytes per token, in float32, that learning keeps beside inputs and outputs of linear layers."""
    text = model.config.get_text_config()
    queries, keys = _heads(text)
    numbers = 2 * text.hidden_size + 2 * (queries + 2 * keys)
    if getattr(text, "attn_logit_softcapping", None) or text.model_type == "gpt_oss":  # no kernel, so scores are kept
        numbers += 2 * text.num_attention_heads * tokens
    return int(4 * text.num_hidden_layers * numbers)


def _decoded(config: Config, roles: tuple[Role, ...], a_token: int, *, shares: bool, count: int) -> tuple[int, int]:
    """The most rows decoded side by side, and the bytes of their KV cache if they are as long as they may be.

    Args:
        a_token: Bytes of a token's keys and values.
        count: Processes that decode.
    """
    group = config.learning.group_size
    rows = min(
        max(config.player(role).batch_size for role in roles) * group,
        count * max(1, config.engine.rows_per_batch // group) * group,
    )
    spoken = [config.player(role).sampling for role in roles]
    prompts = rows // group if shares else rows  # prompts in the cache
    return rows, a_token * max(prompts * one.max_prompt_tokens + rows * one.max_tokens for one in spoken)


def available(device: torch.device) -> int:
    """Bytes that the device has, or that this process may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    limits = [sys.maxsize]
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        limits.append(int(text))
    return min(limits)
