"""Claims about the profile of a step's time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from magic_rl.bench import KINDS, Workload, kind_of, profile, shares
from magic_rl.cli.main import app
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.settings import EngineConfig, LoraConfig


def test_all_of_a_steps_time_is_told_by_stage_and_kind(tiny_model: Path) -> None:
    local = LocalEngine(
        tiny_model, LoraConfig(rank=2), EngineConfig.model_validate({"device": "cpu", "dtype": "float32"})
    )
    began = time.perf_counter()
    found = profile(local, Workload("small", seeds=2, group=2, prompt_tokens=30, new_tokens=6))
    whole = time.perf_counter() - began
    assert list(found) == ["sample", "learn"]
    for seconds in found.values():
        assert tuple(seconds) == KINDS
        assert min(seconds.values()) > 0
        assert sum(shares(seconds).values()) == pytest.approx(1)
    assert sum(sum(seconds.values()) for seconds in found.values()) < whole


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        ("aten::mm", [[64, 8], [8, 16]], "products"),
        ("mkldnn::_linear_pointwise", [[4, 8], [16, 8], []], "products"),
        ("aten::mm", [[64, 8], [8, 500]], "vocabulary"),
        ("aten::softmax", [[4, 512], []], "vocabulary"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", [[1, 2, 9, 4]], "attention"),
        ("aten::bmm", [[2, 9, 4], [2, 4, 9]], "attention"),
        ("aten::cat", [[[4, 8], [4, 2]], []], "passes"),
        ("aten::empty", [], "passes"),
    ],
)
def test_an_operation_is_told_by_its_name_and_shapes(name: str, shapes: list[object], kind: str) -> None:
    assert kind_of(name, shapes, 500) == kind


def test_the_command_prints_a_profile_as_a_table_and_as_json(tiny_model: Path) -> None:
    arguments = ["bench", "--model", str(tiny_model), "--profile", "--engine.device", "cpu"]
    table = CliRunner().invoke(app, arguments)
    assert table.exit_code == 0, table.output
    assert [line.split()[0] for line in table.stdout.splitlines()[:3]] == ["stage", "sample", "learn"]
    printed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert set(printed["learn"]) == set(KINDS)
