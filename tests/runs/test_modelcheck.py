"""Claims about checks of a model before it is loaded: memory, problems, and the same for command and training."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.config import Config, load_config
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.errors import UserError
from magic_rl.runs import footprint as sizes
from magic_rl.runs import modelcheck
from magic_rl.runs.footprint import footprint
from magic_rl.runs.train import resume, train
from magic_rl.types import CrossEntropy, Datum
from tests.runs.test_inputs import stopped
from tests.runs.test_train import Silent
from tests.support.families import CHATS, family_folder
from tests.support.tiny_llama import CHATML

ONCE = "{% if messages | map(attribute='role') | list | length > 2 %}{{ raise_exception('no') }}{% endif %}"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", [name for name in CHATS if name != "Phi-4-mini"])
def test_what_learning_keeps_is_what_was_estimated(name: str, dtype: str, tmp_path: Path) -> None:
    prompt = tuple(range(5, 305))
    datums = [Datum(prompt, tuple(range(3 + 40 * i, 43 + 40 * i))) for i in range(4)]
    config = Config(engine=EngineConfig.model_validate({"dtype": dtype, "device": "cpu", "tokens_per_batch": 460}))
    engine = LocalEngine(family_folder(name, tmp_path / "model"), LoraConfig(rank=4), config.engine)
    policy = engine.new_policy("policy")
    weights = {part.untyped_storage().data_ptr() for part in [*engine.model.parameters(), *policy._parameters.values()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(part: torch.Tensor) -> torch.Tensor:
        if (storage := part.untyped_storage()).data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return part

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part):
        policy.forward_backward(datums, CrossEntropy())
    estimated = footprint(engine.model, config, ("attacker", "defender"), engine.device, engine.dtype)
    assert 0.7 < sum(storage.nbytes() for storage in kept.values()) / estimated.learning < 1.4


@pytest.mark.slow
def test_peak_memory_of_the_default_model_is_near_the_estimate() -> None:
    """In a separate process, so that its peak is that of this work alone."""
    settings = ["learning.group_size=8", "engine.tokens_per_batch=512", "engine.device=cpu"]
    for role in ("attacker", "defender"):
        settings += [f"{role}.sampling.max_tokens=8", f"{role}.sampling.max_prompt_tokens=80", f"{role}.lora.rank=4"]
        settings += [f"{role}.batch_size=4"]
    work = f"""
from magic_rl.bench import Workload, _step, peak_memory
from magic_rl.config import load_config
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.runs.footprint import footprint
from magic_rl.engines.local.models import resolve_model
config = load_config(None, {settings!r})
engine = LocalEngine(resolve_model("default"), config.defender.lora, config.engine)
expected = footprint(engine.model, config, ("attacker", "defender"), engine.device, engine.dtype).most
_step(engine.new_policy("policy"), Workload("W", prompt_tokens=80, new_tokens=8), 0)
print(peak_memory(engine.device) / expected)
"""
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=True, env=os.environ)
    assert 0.6 < float(done.stdout) < 1.5


def quantised(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))


def of_a_single_turn(base: Path) -> None:
    (base / "chat_template.jinja").write_text(ONCE + CHATML)


def without_template(base: Path) -> None:
    (base / "chat_template.jinja").unlink()


def under_other_names(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    renamed = {name.replace("q_proj", "query"): tensor for name, tensor in tensors.items()}
    save_file(renamed, base / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "settings", "complaint", "stops"),
    [
        (quantised, [], "its weights are quantised", True),
        (of_a_single_turn, ["game.turns=2"], "game.turns: the chat template of .* takes a single turn", True),
        (without_template, [], "no chat template", True),
        (None, ["defender.lora.target_modules=['embed_tokens']"], "embed_tokens .* leave it out", True),
        (None, ["defender.lora.target_modules=['nothing']"], r"lora.target_modules: \['nothing'\] does not fit", True),
        (None, ["defender.chat_template_kwargs.thinking=true"], "has no such variable", True),
        (None, ["memory"], "memory: about .* GB are needed", True),
        (
            under_other_names,
            [],
            "stores no weight of its own for .*q_proj.*; leave q_proj out .* or export with --adapter",
            False,
        ),
    ],
)
def test_what_would_go_wrong_later_is_a_line_and_stops_training(
    kind: Callable[[Path], None] | None,
    settings: list[str],
    complaint: str,
    stops: bool,
    tmp_path: Path,
    tiny_model: Path,
    tiny_config: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    if kind:
        kind(base)
    if settings == ["memory"]:
        settings = []
        monkeypatch.setattr(modelcheck, "available", lambda _: 1000)
    chosen = [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(app, ["models", "check", str(base), "--quick", "--config", str(tiny_config), *chosen])
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("problem: ")]
    assert re.search(complaint, line)
    monkeypatch.setattr(LocalEngine, "__init__", lambda *_, **__: pytest.fail("weights were loaded"))
    players = [f"{role}.model={json.dumps(str(base))}" for role in ("attacker", "defender")]
    if stops:
        with pytest.raises(UserError, match=complaint):
            train(load_config(tiny_config, [*settings, *players]), tmp_path / "run", Silent())
        assert not (tmp_path / "run").exists()


def test_a_change_that_memory_cannot_hold_stops_a_resumed_run_too(
    tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(tiny_config, tmp_path, 1)
    monkeypatch.setattr(modelcheck, "available", lambda _: 1_000_000_000)
    with pytest.raises(UserError, match=r"memory: about .* GB are needed"):
        resume(run.path, Silent(), ["engine.tokens_per_batch=1000000"])
    assert load_config(run.path / "config.toml") == load_config(tiny_config)
    assert resume(run.path, Silent()).metrics()


def test_a_sound_model_is_told_whole_and_ends_in_status_0(tiny_model: Path, tiny_config: Path) -> None:
    asked = ["models", "check", str(tiny_model), "--config", str(tiny_config)]
    result = CliRunner().invoke(app, [*asked, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    (found,) = told["checks"]
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(tiny_model)
    assert found["template"]["stops"] == {"<|im_end|>": tokenizer.eos_token_id}
    assert found["adapter"]["layers"]["q_proj"] == 2
    assert found["adapter"]["refused"] == {"embed_tokens": "Embedding"}
    assert told["computed"]["path"]["kind"] == "shared"
    assert told["computed"]["sampled_per_s"] > 0
    assert told["problems"] == []
    assert len(result.stderr.splitlines()) >= 3  # what is being done, as the whole may take minutes
    shown = CliRunner().invoke(app, [*asked, "--quick"]).stdout
    for row in ("template", "thoughts", "stops", "control tokens", "adapters", "memory", "export"):
        assert row in shown


def test_a_long_text_that_memory_cannot_hold_is_a_note(
    tiny_model: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "_PROCESS", 0)
    settings = ["defender.sampling.max_tokens=9000", "engine.tokens_per_batch=64"]
    (found,) = modelcheck.check_models(load_config(tiny_config, settings))
    assert found.memory
    monkeypatch.setattr(modelcheck, "available", lambda _: found.memory.certain + 1)
    problems = modelcheck.check_models(load_config(tiny_config, settings))[0].problems
    assert [(problem.when, str(problem.error).split(":")[0]) for problem in problems] == [
        ("may", "defender.sampling.max_tokens"),
        ("may", "engine.rows_per_batch"),
    ]


@pytest.mark.parametrize(
    ("name", "family"),
    [("paper-qwen2.5-7b", "Qwen2.5"), ("paper-llama-3.1-8b", "Llama 3"), ("paper-qwen3-8b", "Qwen3")],
)
def test_the_papers_configs_pass_the_light_checks_on_their_families(name: str, family: str, tmp_path: Path) -> None:
    base = json.dumps(str(family_folder(family, tmp_path / "base")))
    small = ["engine.device=cpu", "engine.tokens_per_batch=2048", "engine.rows_per_batch=8"]
    config = load_config(Path(name), [f"attacker.model={base}", f"defender.model={base}", *small])
    problems = [problem for found in modelcheck.check_models(config) for problem in found.problems]
    assert [problem for problem in problems if problem.when != "may"] == []
