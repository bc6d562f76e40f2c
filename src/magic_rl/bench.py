"""How fast the local engine is on this machine, compared with the arithmetic that a step cannot avoid.

One step is: encode P prompts, sample G completions of each, learn from all of them, one optimiser step. Its floor is
the matrix products of that step, each prompt and completion token counted once forwards to sample and once
forwards and backwards to learn, at the rate at which this machine multiplies matrices.
"""

from __future__ import annotations

import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.policy import LocalPolicy
from magic_rl.rng import generator
from magic_rl.types import PPO, Adam, Datum, SamplingParams, Tokens


@dataclass(frozen=True, slots=True)
class Workload:
    """One step of learning."""

    name: str
    seeds: int = 4  # P, prompts; none shares a token with another
    group: int = 8  # G, completions a prompt
    prompt_tokens: int = 225  # tokens of each prompt
    new_tokens: int = 48  # tokens of each completion

    @property
    def sampled(self) -> int:
        """Tokens sampled in a step."""
        return self.seeds * self.group * self.new_tokens


W1 = Workload("W1")
NEIGHBOURS = (
    Workload("W1, half the group", group=4),
    Workload("W1, twice the group", group=16),
    Workload("W1, four times the prompt", prompt_tokens=900),
    Workload("W1, twice the seeds", seeds=8),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians over the repeats of a workload."""

    workload: str
    sample_s: float  # seconds to sample all completions
    learn_s: float  # seconds for gradients and the optimiser step
    step_s: float  # seconds for both
    floor_s: float  # seconds the step's matrix products take at this machine's rate
    floor_share: float  # `floor_s / step_s`
    sampled_per_s: float  # tokens sampled per second
    learned_per_s: float  # prompt and completion tokens learned from per second, each prompt counted once
    peak_gb: float  # most memory this process (on a GPU, the device) has held so far, in GB of 1e9 bytes


def measure(engine: LocalEngine, workloads: Sequence[Workload], repeats: int, rate: float) -> Iterator[Timing]:
    """Time workloads, one at least, one after another `repeats` times each, after one step to warm up.

    Args:
        rate: This machine's floating-point operations per second; see `product_rate`.
    """
    policy = engine.new_policy("bench")
    _step(policy, workloads[0], 0)
    for workload in workloads:
        runs = [_step(policy, workload, number) for number in range(1, repeats + 1)]
        sample_s, learn_s = (statistics.median(run[i] for run in runs) for i in (0, 1))
        step_s = statistics.median(sum(run) for run in runs)
        floor_s = floating_point_operations(engine.model, workload) / rate
        tokens = workload.seeds * workload.prompt_tokens + workload.sampled
        yield Timing(
            workload=workload.name,
            sample_s=sample_s,
            learn_s=learn_s,
            step_s=step_s,
            floor_s=floor_s,
            floor_share=floor_s / step_s,
            sampled_per_s=workload.sampled / sample_s,
            learned_per_s=tokens / learn_s,
            peak_gb=peak_memory(engine.device) / 1e9,
        )


def _step(policy: LocalPolicy, workload: Workload, number: int) -> tuple[float, float]:
    """Seconds to sample and to learn."""
    rng = generator(0, number, f"bench {workload.name}")
    prompts: list[Tokens] = [
        tuple(rng.integers(100, policy.vocabulary, workload.prompt_tokens).tolist()) for _ in range(workload.seeds)
    ]
    began = time.perf_counter()
    params = SamplingParams(workload.new_tokens, ignore_stop=True)
    samples = policy.sample(prompts, workload.group, params, rng_seed=number)
    sampled = time.perf_counter()
    rows = [sample for group in samples for sample in group]
    datums = [
        Datum(row.prompt, row.tokens, 1 / len(rows), (float(rng.standard_normal()),) * len(row.tokens), row.logprobs)
        for row in rows
    ]
    policy.forward_backward(datums, PPO())
    policy.optim_step(Adam(lr=1e-4))
    return sampled - began, time.perf_counter() - sampled


def floating_point_operations(model: Any, workload: Workload) -> float:
    """Multiplications and additions of one step that no exact method avoids.

    Two per weight and token forwards; as much again backwards, for gradients of activations (the base is frozen, so
    its weights need none), and six in all for adapters; the vocabulary projection only where a token is predicted.
    Attention adds four per position seen, layer and width, each prompt token seeing its past and each completion
    token the prompt and its own past.
    """
    config = model.config.get_text_config()
    body = adapters = 0
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            adapters += parameter.numel()
        elif parameter.ndim == 2 and "embed" not in name and "lm_head" not in name:
            body += parameter.numel()
    head = config.hidden_size * config.vocab_size
    prompt, new = workload.prompt_tokens, workload.new_tokens
    completions = workload.seeds * workload.group
    # A completion's last token is never read, and a prompt's last one is projected once for its group.
    tokens = workload.seeds * prompt + completions * (new - 1)
    projected = workload.seeds + completions * (new - 1)
    seen = workload.seeds * prompt**2 / 2 + completions * (new * prompt + new**2 / 2)
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    attention = 4 * config.num_hidden_layers * width * seen
    forward = 2 * body * tokens + 2 * head * projected + attention
    backward = forward + attention
    return float(2 * forward + backward + 2 * adapters * tokens * 3)


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of this machine's matrix products: the most reached, as less flatters."""
    size, repeats = 2048, 25
    one, two = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(_timed(lambda: one @ two, device) for _ in range(repeats))


def peak_memory(device: torch.device) -> int:
    """Bytes: most memory held on the device, or by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii"))):
        return int(found[1]) * 1024  # below, Linux counts the peak of whoever started this process too
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _timed(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
