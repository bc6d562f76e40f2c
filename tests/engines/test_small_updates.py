"""Claims about small updates: in bfloat16, learning and sampling keep a step that is smaller than the last digit."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from magic_rl.engines.local import inference, scoring
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.inference import Adapter, inferring
from magic_rl.engines.local.lora import _AdaptedLinear
from magic_rl.engines.local.packing import pack
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.types import Adam, CrossEntropy, Datum, SamplingParams, Tokens
from tests.support.tiny_engine import PROMPTS, engine


def in_bfloat16(folder: Path) -> LocalEngine:
    config = EngineConfig(device="cpu", dtype="bfloat16", threads=1, tokens_per_batch=2048)
    return LocalEngine(folder, LoraConfig(rank=4), config)


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("way", ["learning", "sampling in blocks", "sampling"])
def test_a_layer_in_bfloat16_keeps_an_update_of_any_size(
    monkeypatch: pytest.MonkeyPatch, way: str, bias: bool, size: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):  # seeded, as over all seeds the share is 1.000 ± 0.004
        torch.manual_seed(5)
        layer = torch.nn.Linear(256, 512, bias=bias, dtype=torch.bfloat16).requires_grad_(False)
    x, down, up = (torch.randn(shape, generator=generator) for shape in ((20_000, 256), (16, 256), (512, 16)))
    x, down, up = x.bfloat16(), down / 16, size * up
    if way == "sampling":
        monkeypatch.setattr(inference, "_blocked", lambda _: False)

    def product(up: torch.Tensor) -> torch.Tensor:
        if way == "learning":
            apply: Callable[..., torch.Tensor] = _AdaptedLinear.apply
            return apply(x, layer.weight, layer.bias, down, up, 1.0)
        with inferring([layer], [(down, up)]):
            return torch.as_tensor(layer(x))

    change, wanted = (product(up) - product(up * 0)).float().flatten(), (x.float() @ down.T @ up.T).flatten()
    # A small update flips some last digits; over ten million outputs they add up to all of it.
    assert (change @ wanted / (wanted @ wanted)).item() == pytest.approx(1, abs=0.01)


@contextlib.contextmanager
def folded(layers: Sequence[Any], adapters: Sequence[Adapter] = ()) -> Iterator[None]:
    """Replaces `inferring`: merges the adapters into the weights, as other engines do to sample."""
    weights = [layer.weight.data for layer in layers]
    for layer, (down, up) in zip(layers, adapters, strict=False):
        layer.weight.data = (layer.weight.data.float() + up.detach() @ down.detach()).to(layer.weight.dtype)
        layer._disable_adapters = True
    yield
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data, layer._disable_adapters = weight, False


@pytest.mark.parametrize("fold", [False, True])
def test_what_is_sampled_with_a_small_update_is_rescored_the_same(
    fold: bool, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only if it is merged into the weights does it disturb sampling as much as a large one."""
    local = in_bfloat16(tiny_model)
    if fold:
        monkeypatch.setattr("magic_rl.engines.local.engine.inferring", folded)
    gaps = []
    for size in (0.0, 1e-5, 1e-2):
        policy = local.new_policy("policy")
        generator = torch.Generator().manual_seed(0)
        for key, parameter in policy._parameters.items():
            if "lora_B" in key:
                parameter.data = size * torch.randn(parameter.shape, generator=generator)
        samples = [s for group in policy.sample(PROMPTS, 16, SamplingParams(20), rng_seed=3) for s in group]
        rescored = policy.logprobs([(s.prompt, s.tokens) for s in samples])
        gaps.append(np.abs(np.concatenate(rescored) - np.concatenate([s.logprobs for s in samples])).mean())
    none, small, large = gaps
    assert (small > 2 * none + large / 10) == fold


@pytest.mark.parametrize("way", ["learning", "sampling"])
def test_a_step_of_1e_5_moves_bfloat16_as_far_as_float32(tiny_model: Path, tmp_path: Path, way: str) -> None:
    half = tmp_path / "half"
    shutil.copytree(tiny_model, half)
    AutoModelForCausalLM.from_pretrained(half, dtype=torch.bfloat16).save_pretrained(half)
    exact, rounded = engine(half), in_bfloat16(half)
    rng = np.random.default_rng(0)
    sequences: list[tuple[Tokens, Tokens]] = [
        (tuple(rng.integers(1, 250, 8).tolist()), tuple(rng.integers(1, 250, 60).tolist())) for _ in range(100)
    ]
    policy = exact.new_policy("policy")
    policy.forward_backward([Datum(*sequence) for sequence in sequences], CrossEntropy())
    policy.optim_step(Adam(lr=1e-5))
    policy.save(tmp_path)

    def change(local: LocalEngine) -> float:
        moved = local.load(tmp_path, "moved")
        if way == "learning" or local is exact:
            scores = [np.concatenate(one.logprobs(sequences)) for one in (moved, local.base())]
        else:
            scores = []
            for parameters in (moved._parameters, {}):
                with torch.inference_mode(), local.speaking(parameters) as model:
                    rows = [row for batch in pack(sequences, 2048) for row in scoring.packed_logprobs(model, batch)]
                scores.append(np.concatenate([scored.float().numpy() for _, scored in rows]))
        return float((scores[0] - scores[1]).sum())

    assert change(rounded) == pytest.approx(change(exact), rel=0.1)  # of so few tokens; see the layer's test
