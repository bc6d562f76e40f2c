"""Claims about `magic-rl bench`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from magic_rl.bench import W1, Workload, floating_point_operations, measure
from magic_rl.cli.main import app
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.settings import EngineConfig, LoraConfig


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> LocalEngine:
    config = EngineConfig(device="cpu", dtype="float32", threads=1)
    return LocalEngine(tiny_model, LoraConfig(rank=2), config)


def test_a_step_does_at_least_the_arithmetic_of_its_floor_and_not_much_more(local: LocalEngine) -> None:
    workload = Workload("small", seeds=2, group=4, prompt_tokens=30, new_tokens=10)
    uncounted = {torch.ops.mkldnn._linear_pointwise: _product, torch.ops.aten.addmm_: _added_product}
    with FlopCounterMode(display=False, custom_mapping=uncounted) as counter:
        list(measure(local, [workload], 1, rate=1.0))
    a_step = counter.get_total_flops() / 2  # one to warm up, one timed
    floor = floating_point_operations(local.model, workload)
    # With two layers, the inputs of the first are a good part of what needs no gradient.
    assert 0.8 * floor < a_step < 2 * floor


def _product(x: torch.Size, weight: torch.Size, *_: object, out_shape: object, **__: object) -> int:
    """Operations of a linear layer with its weight in blocks, which torch does not count by itself."""
    return 2 * x.numel() * weight[0]


def test_in_the_floor_a_group_shares_its_prompt(local: LocalEngine) -> None:
    one, two = (floating_point_operations(local.model, replace(W1, group=group)) for group in (8, 16))
    assert 1.3 * one < two < 1.9 * one


def test_timings_add_up(local: LocalEngine) -> None:
    workload = Workload("small", seeds=2, group=2, prompt_tokens=8, new_tokens=4)
    (timing,) = measure(local, [workload], 3, rate=1e12)
    assert timing.floor_s == pytest.approx(floating_point_operations(local.model, workload) / 1e12)
    assert timing.floor_share == pytest.approx(timing.floor_s / timing.step_s)
    assert timing.sampled_per_s == pytest.approx(16 / timing.sample_s)
    assert timing.peak_gb > 0


def test_the_command_prints_json(tiny_model: Path) -> None:
    arguments = ["bench", "--model", str(tiny_model), "--quick", "--repeats", "1", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--set", "engine.dtype=float32", "--set", "engine.device=cpu"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["product_gflops"] > 0
    (timing,) = printed["workloads"]
    assert timing["workload"] == "W1"
    assert timing["step_s"] > 0


def _added_product(_: torch.Size, left: torch.Size, right: torch.Size, *__: object, **___: object) -> int:
    return 2 * left.numel() * right[1]
