"""How much memory a config will need with a model, from the model's shape alone, before its weights are loaded.

Weights, adapters and optimiser states are counted. Activations are estimated from the widths of the linear layers, as
their inputs and outputs are most of what a backward pass keeps; the factor between the two was measured. Keys and
values are what they come to if all prompts and replies are as long as they may be.
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
from magic_rl.engines.local.engine import batch_tokens
from magic_rl.engines.local.parity import unfit
from magic_rl.engines.local.scoring import CHUNK
from magic_rl.types import Role

# Bytes that learning keeps, by those of all linear layers' inputs and outputs: 1.56 were counted of SmolLM2-135M in
# bfloat16, 1.2 to 2.1 of tiny models of all families; beside them there are norms, products and attention in float32.
_KEPT = 1.6
_TRAINED = 16  # bytes an adapter's number takes: itself, its gradient and two moments of AdamW, in float32
_DRAWN = 16  # bytes that a logit takes while a token is drawn: probabilities and their sums in float32
_PROCESS = 500_000_000  # bytes that Python, torch and transformers take by themselves


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that training with one model takes.

    Attributes:
        base: Its weights.
        adapters: Of all players on it, with gradients and optimiser states.
        loading: Weights in wider precision while the model is tried on chat text.
        learning: Activations and logits of one batch.
        sampling: Weights laid out once more on a CPU, and probabilities.
        cache: Keys and values while sampling, at most.
        process: What the program takes without a model, on a CPU.
    """

    base: int
    adapters: int
    loading: int
    learning: int
    sampling: int
    cache: int
    process: int

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
    """What a config's run takes.

    Args:
        model: With the slot for adapters; the device "meta" will do.
        roles: The players on it.
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
    tokens, kept = batch_tokens(config.engine, device, dtype), _KEPT * wide * sum(map(_width, linear))
    shares, vocabulary = not unfit(base), base.config.get_text_config().vocab_size
    activations = tokens * kept
    if 0 < config.engine.recompute_above < tokens:
        activations = tokens * (kept / _layers(base) + _layers(base) * base.config.get_text_config().hidden_size * wide)
    rows, cache = _decoded(base, config, roles, shares=shares, wide=wide)
    laid_out = sum(module.weight.numel() for module in [*linear, *([head] if type(head) is nn.Linear else [])])
    learners = 1 if config.game.shared_parameters else len(roles)
    kept_versions = config.game.schedule.rounds * len(roles) if config.game.opponents != "last" else 0
    return Footprint(
        base=wide * sum(numbers.values()),
        adapters=adapter * (_TRAINED * learners + 4 * kept_versions),
        loading=2 * wide * max(numbers.values()),
        learning=int(activations + (CHUNK if shares else tokens) * vocabulary * (wide + 4)),
        sampling=(wide * laid_out if device.type == "cpu" else 0) + rows * vocabulary * _DRAWN,
        cache=cache,
        process=_PROCESS if device.type == "cpu" else 0,
    )


def _width(layer: nn.Linear) -> int:
    return layer.in_features + layer.out_features


def _layers(model: Any) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


def _decoded(model: Any, config: Config, roles: tuple[Role, ...], *, shares: bool, wide: int) -> tuple[int, int]:
    """The most rows decoded side by side, and the bytes of their keys and values if they are as long as they may be."""
    text, group = model.config.get_text_config(), config.learning.group
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    a_token = 2 * text.num_hidden_layers * heads * size * wide
    rows = min(max(map(config.seeds_per_step, roles)) * group, max(1, config.engine.rows_per_batch // group) * group)
    spoken = [config.player(role).sampling for role in roles]
    prompts = rows // group if shares else rows  # copies of a prompt
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
