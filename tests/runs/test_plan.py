"""A plan: arithmetic compared with counts on the model itself, published step times, and speed for every config."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.published import PUBLISHED, Published
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from magic_rl.bench import W1, floating_point_operations
from magic_rl.cli.main import app
from magic_rl.config import load_config
from magic_rl.errors import UserError
from magic_rl.runs.arithmetic import Samples, device, sampling_flops, shape_of
from magic_rl.runs.plan import plan


def on_meta(folder: Path) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))


def test_a_shape_counts_the_model_s_own_numbers(tiny_model: Path) -> None:
    model, shape = on_meta(tiny_model), shape_of(str(tiny_model))
    norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert shape.weights == 2 * (sum(p.numel() for p in model.parameters()) - norms)


def test_arithmetic_agrees_with_that_of_the_bench(tiny_model: Path) -> None:
    shape, said = shape_of(str(tiny_model)), W1
    rows = said.seeds * said.group
    samples = Samples(said.seeds, said.prompt_tokens, rows, said.new_tokens, said.new_tokens)
    seen = said.seeds * said.prompt_tokens**2 / 2 + samples.tokens * (said.prompt_tokens + said.new_tokens / 2)
    attention = 4 * shape.layers * shape.queries * seen
    # The bench counts learning too: as much forwards, and as much backwards with attention once more.
    counted = 3 * sampling_flops(samples, shape) + attention
    assert counted == pytest.approx(floating_point_operations(on_meta(tiny_model), W1), rel=0.03)


@pytest.mark.parametrize("step", PUBLISHED, ids=lambda step: step.name)
def test_a_published_step_takes_what_is_estimated(step: Published) -> None:
    estimated, published = step.estimated(), step.seconds
    assert published / 2 < estimated < published * 2


def test_every_shipped_config_is_planned_in_a_second_without_torch() -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from magic_rl.config import SHIPPED, load_config\nfrom magic_rl.runs.plan import plan\n"
        "for name in SHIPPED: assert plan(load_config(Path(name)), '8xH100').hours > 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "print(time.process_time())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.0


def test_servers_shorten_sampling_and_nothing_else() -> None:
    one, many = (
        plan(
            load_config(Path("node"), [f"engine.vllm.devices={[str(i) for i in range(1, n + 1)]}"]), "8xH100", 400, 400
        )
        for n in (1, 6)
    )
    for before, after in zip(one.stages, many.stages, strict=True):
        assert (before.tokens, before.flops) == (after.tokens, after.flops)
        if before.name.startswith("sample"):
            assert after.seconds < before.seconds
        else:
            assert after.seconds == before.seconds
    assert many.memory.keys() == {"learns", "samples"}


def test_longer_texts_cost_in_proportion() -> None:
    config = load_config(Path("paper"))
    short, long = plan(config, "1xH100", 200, 200), plan(config, "1xH100", 400, 400)
    assert 1.7 < sum(s.seconds for s in long.stages) / sum(s.seconds for s in short.stages) < 2.2


def test_adapters_are_of_the_size_that_the_engine_makes(tiny_model: Path, tiny_config: Path) -> None:
    from magic_rl.runs.modelcheck import check_models

    config = load_config(tiny_config)
    adapter = check_models(config)[0].adapter
    assert adapter
    assert plan(config, "1xCPU").adapters == {"attacker": adapter.parameters, "defender": adapter.parameters}


def test_what_does_not_fit_is_said(tiny_config: Path) -> None:
    large = load_config(None, ["attacker.model=Qwen/Qwen2.5-32B-Instruct", "defender.model=Qwen/Qwen2.5-32B-Instruct"])
    assert any("needs" in note for note in plan(large, "1xRTX4090").notes)
    assert not plan(load_config(tiny_config), "H100").notes
    for gpus, said in (("1xRTX4090", True), ("1xH100", False)):
        shown = CliRunner().invoke(app, ["plan", "paper", "--gpus", gpus]).stdout
        assert ("does not fit" in shown) == said, shown


def test_unknown_devices_and_models_are_refused_in_a_line() -> None:
    with pytest.raises(UserError, match="none of H100"):
        device("TPU")
    with pytest.raises(UserError, match="such as 8xH100"):
        plan(load_config(Path("paper")), "0xH100")
    with pytest.raises(UserError, match="not known here"):
        shape_of("nobody/no-such-model")


@pytest.mark.parametrize(
    ("rounds", "time"), [(1, r"[\d.]+ minutes on"), (60, r"[\d.]+ hours on"), (900, r"[\d.]+ days on")]
)
def test_a_duration_is_told_in_a_unit_that_people_use(rounds: int, time: str) -> None:
    config = ["plan", "demo", "--gpus", "1xCPU", "--game.schedule.rounds", str(rounds), "--defender.sft.steps=0"]
    shown = CliRunner().invoke(app, [*config, "--attacker.sft.steps=0"])
    assert re.search(rf"(?m)^time +{time}", shown.output), shown.output
    assert "e+" not in shown.output


def test_the_command_prints_tables_or_json() -> None:
    shown = CliRunner().invoke(app, ["plan", "node", "--gpus", "8xH100"])
    assert shown.exit_code == 0, shown.output
    assert "bottleneck" in shown.output
    printed = json.loads(CliRunner().invoke(app, ["plan", "demo", "--gpus", "1xCPU", "--json"]).output)
    assert printed["steps"] == {"attacker": 3, "defender": 12}
    assert printed["hours"] < 1
