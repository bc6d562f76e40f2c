"""The local engine on tiny models in float32, and plain transformers to compare it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.policy import LocalPolicy
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.types import Adam, CrossEntropy, Datum, Tokens

PROMPTS: list[Tokens] = [(5, 9, 30), (40, 41, 42, 43, 44, 45, 46), (7, 8)]


def engine(folder: Path, budget: int = 8192, rows: int = 128) -> LocalEngine:
    config = EngineConfig(device="cpu", dtype="float32", threads=1, tokens_per_batch=budget, rows_per_batch=rows)
    return LocalEngine(folder, LoraConfig(rank=4), config)


def trained(on: LocalEngine, name: str = "policy") -> LocalPolicy:
    """A policy that clearly differs from the base model, but does not amplify float32 rounding."""
    policy = on.new_policy(name)
    for _ in range(2):
        policy.forward_backward([Datum((1, 2, 3), (4, 5, 6, 7))], CrossEntropy())
        policy.optim_step(Adam(lr=0.02))
    return policy


def gradients(policy: LocalPolicy) -> list[torch.Tensor]:
    """A copy of the accumulated gradients."""
    return [p.grad.clone() for p in policy._parameters.values() if p.grad is not None]


def plain(folder: Path, policy: LocalPolicy, saved: Path, **settings: bool) -> Any:
    """The same policy in PEFT and transformers, from its files in `saved`."""
    policy.save(saved)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return PeftModel.from_pretrained(base, saved, **settings).eval()


def plain_logprobs(model: Any, prompt: Tokens, completion: Tokens) -> torch.Tensor:
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(completion)[:, None])[:, 0]
