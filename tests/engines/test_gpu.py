"""Claims about the engine on a CUDA device: exact, fast and within its memory. Skipped where there is none."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from magic_rl.bench import W1, measure, product_rate
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.models import resolve_model
from magic_rl.engines.local.parity import ANSWER, QUESTIONS, choose_path
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.types import PPO, CrossEntropy, Datum, SamplingParams
from tests.support.families import SHARING, model_of
from tests.support.tiny_engine import PROMPTS, trained

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def on_cuda(folder: Path, **settings: object) -> LocalEngine:
    config = EngineConfig.model_validate({"device": "cuda", "dtype": "bfloat16", **settings})
    return LocalEngine(folder, LoraConfig(rank=4), config)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", SHARING)
def test_every_family_shares_prompts_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    prompts = [tuple(f"user\n{question}\nassistant\n".encode()) for question in QUESTIONS]
    assert choose_path(model_of(name, dtype=dtype).cuda(), prompts, tuple(ANSWER.encode())).shares


def test_samples_and_gradients_on_a_gpu_are_those_of_the_cpu(tiny_model: Path) -> None:
    results = []
    for device in ("cpu", "cuda"):
        policy = trained(on_cuda(tiny_model, device=device, dtype="float32"))
        samples = [s for group in policy.sample(PROMPTS, 4, SamplingParams(20), rng_seed=3) for s in group]
        datums = [
            Datum(s.prompt, s.tokens, 0.1, ((-1.0) ** i,) * len(s.tokens), s.logprobs) for i, s in enumerate(samples)
        ]
        policy.forward_backward(datums, PPO())
        parts = [p.grad.flatten().cpu() for p in policy._parameters.values() if p.grad is not None]
        results.append(([s.tokens for s in samples], torch.cat(parts)))
    (tokens, gradients), (same_tokens, same_gradients) = results
    assert tokens == same_tokens
    assert (gradients - same_gradients).norm() <= 1e-3 * gradients.norm()


def test_sampling_waits_for_the_device_every_few_tokens_only(tiny_model: Path) -> None:
    policy = on_cuda(tiny_model).base()
    params = SamplingParams(256, ignore_stop=True)
    policy.sample(PROMPTS, 4, params, rng_seed=1)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            policy.sample(PROMPTS, 4, params, rng_seed=2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum("synchroniz" in str(warning.message) for warning in caught) < 256


def test_w1_is_sampled_and_learned_from_within_seconds() -> None:
    local = LocalEngine(resolve_model("default"), LoraConfig(), EngineConfig(device="cuda", dtype="bfloat16"))
    (timing,) = measure(local, [W1], 3, product_rate(local.device, local.dtype))
    assert timing.step_s < 10
    assert timing.peak_gb < 6


def test_a_long_group_learns_in_the_memory_of_its_budget(tiny_model: Path) -> None:
    peaks = []
    for budget in (1024, 16384):
        policy = on_cuda(tiny_model, tokens_per_batch=budget).new_policy("policy")
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        prompt = tuple(i % 250 + 1 for i in range(512))
        policy.forward_backward([Datum(prompt, prompt[i : i + 240]) for i in range(64)], CrossEntropy())
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] < peaks[1] / 3
