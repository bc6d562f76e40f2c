"""How fast the local engine is on this machine, compared with the arithmetic that a step cannot avoid.

One step encodes P prompts, samples G completions of each, learns from all of them and takes an optimiser step. Its
floor is the time of its matrix products at this machine's rate, with each prompt and completion token counted once
forward to sample and once forward and backward to learn. A profile divides the time of a step by kinds of operations,
recognised by their names and the shapes of their inputs; the profiler itself takes time, too.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.profiler import ProfilerActivity

from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.policy import LocalPolicy
from magic_rl.errors import UserError
from magic_rl.rng import generator
from magic_rl.types import PPO, Adam, Datum, Sample, SamplingParams, Tokens

Stage = Literal["sample", "learn"]
# Matrix products of layers; attention; everything as wide as the vocabulary, its projection included; passes over
# activations, such as norms, copies and rotary embeddings; and Python, torch's dispatch and waiting for them.
Kind = Literal["products", "attention", "vocabulary", "passes", "host"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_PRODUCTS = {"mm", "addmm", "addmm_", "linear", "matmul", "_linear_pointwise"}
_ATTENTION = {"bmm", "baddbmm", "_softmax"}


@dataclass(frozen=True, slots=True)
class Workload:
    """One step of learning."""

    name: str
    seeds: int = 4  # P, prompts; none shares a token with another
    group: int = 8  # G, completions per prompt
    prompt_tokens: int = 225  # tokens of each prompt
    new_tokens: int = 48  # tokens of each completion

    @property
    def sampled(self) -> int:
        """Tokens sampled per step."""
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
    floor_s: float  # seconds that the step's matrix products would take at this machine's rate
    floor_share: float  # `floor_s / step_s`
    sampled_per_s: float  # tokens sampled per second
    learned_per_s: float  # prompt and completion tokens learned from per second, each prompt counted once
    peak_gb: float  # most memory the engine's processes (on a GPU, the device) have held so far, in GB of 1e9 bytes


def measure(engine: LocalEngine, workloads: Sequence[Workload], repeats: int, rate: float) -> Iterator[Timing]:
    """Time each of one or more workloads `repeats` times, after one warm-up step in all.

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
            peak_gb=peak_memory(engine.device, engine.workers.pids) / 1e9,
        )


def _step(policy: LocalPolicy, workload: Workload, number: int) -> tuple[float, float]:
    """Seconds to sample and to learn."""
    began = time.perf_counter()
    rows = sampled(policy, workload, number)
    between = time.perf_counter()
    learned(policy, rows, workload, number)
    return between - began, time.perf_counter() - between


def sampled(policy: LocalPolicy, workload: Workload, number: int) -> list[Sample]:
    """The first half of a step: sample all completions of random prompts."""
    rng = generator(0, number, f"bench {workload.name}")
    prompts: list[Tokens] = [
        tuple(rng.integers(100, policy.vocabulary, workload.prompt_tokens).tolist()) for _ in range(workload.seeds)
    ]
    params = SamplingParams(workload.new_tokens, ignore_stop=True)
    return [row for group in policy.sample(prompts, workload.group, params, rng_seed=number) for row in group]


def learned(policy: LocalPolicy, rows: Sequence[Sample], workload: Workload, number: int) -> None:
    """The second half: gradients with random advantages, and an optimiser step."""
    rng = generator(0, number, f"bench advantages {workload.name}")
    datums = [
        Datum(row.prompt, row.tokens, 1 / len(rows), (float(rng.standard_normal()),) * len(row.tokens), row.logprobs)
        for row in rows
    ]
    policy.forward_backward(datums, PPO())
    policy.optim_step(Adam(lr=1e-4))


def floating_point_operations(model: Any, workload: Workload) -> float:
    """Multiplications and additions of one step that no exact method avoids.

    Two per weight and token forward, and two backward for gradients of activations (the base is frozen, so its weights
    need none). Six per adapter weight and token, all in learning, as sampling could do with merged weights. The
    vocabulary projection only where a token is predicted.
    Attention adds four per position seen, layer and unit of width; a prompt token sees its past, a completion token the
    prompt and its own past.
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
    """Floating-point operations per second of this machine's matrix products: the best of several, to be strict."""
    size, repeats = 2048, 25
    one, two = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(_timed(lambda: one @ two, device) for _ in range(repeats))


def peak_memory(device: torch.device, workers: Iterable[int] = ()) -> int:
    """Peak memory in bytes: on the device, or for a CPU of this process and, on Linux, of the workers.

    On Windows it is unknown, and 0.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peaks = [_peak("self"), *map(_peak, workers)]
    if peaks[0]:
        return sum(peaks)  # `resource` below would include the parent process on Linux
    if sys.platform == "win32":
        return 0
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak(pid: int | str) -> int:
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii")) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


def _timed(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def profile(engine: LocalEngine, workload: Workload = W1) -> dict[Stage, dict[Kind, float]]:
    """Seconds of one step by stage and kind, after one warm-up step.

    Raises:
        UserError: If the engine has several processes, or a device that works asynchronously, such as a GPU.
    """
    if engine.device.type != "cpu":
        raise UserError(f"a profile is possible on a CPU only, not on {engine.device}")
    if engine.processes > 1:
        raise UserError(f"a profile covers one process, not {engine.processes}", "fewer processes")
    policy = engine.new_policy("profile")
    vocabulary = policy.vocabulary
    learned(policy, sampled(policy, workload, 0), workload, 0)
    rows, sampling = _watched(lambda: sampled(policy, workload, 1), vocabulary)
    _, learning = _watched(lambda: learned(policy, rows, workload, 1), vocabulary)
    return {"sample": sampling, "learn": learning}


def _watched(work: Callable[[], Any], vocabulary: int) -> tuple[Any, dict[Kind, float]]:
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        began = time.perf_counter()
        result = work()
        whole = time.perf_counter() - began
    seconds = dict.fromkeys(KINDS, 0.0)
    for event in profiler.key_averages(group_by_input_shape=True):
        seconds[kind_of(event.key, event.input_shapes, vocabulary)] += event.self_cpu_time_total / 1e6
    seconds["host"] = whole - sum(seconds.values())
    return result, seconds


def kind_of(name: str, shapes: object, vocabulary: int) -> Kind:
    """The kind of an operation.

    Args:
        name: As torch calls it, such as `aten::mm`.
        shapes: Shapes of its inputs, as the profiler gives them: nested lists, empty for an input that is no tensor.
        vocabulary: Number of ids that the model has outputs for.
    """
    if any(size >= vocabulary for size in _sizes(shapes)):
        return "vocabulary"
    operation = name.rpartition("::")[2]
    if operation in _PRODUCTS:
        return "products"
    return "attention" if operation in _ATTENTION or "attention" in operation else "passes"


def _sizes(shapes: object) -> list[int]:
    if isinstance(shapes, int):
        return [shapes]
    return [size for part in shapes for size in _sizes(part)] if isinstance(shapes, (list, tuple)) else []


def shares(seconds: Mapping[Kind, float]) -> dict[Kind, float]:
    """Each kind's share of a stage's time."""
    return {kind: part / sum(seconds.values()) for kind, part in seconds.items()}
