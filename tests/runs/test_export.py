"""Claims about export: it holds the whole defender and nothing of the attacker."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.config import Config, dump_config, load_config
from magic_rl.errors import UserError
from magic_rl.evaluation.estimates import rate
from magic_rl.evaluation.result import EVALUATION_FILE, Crossplay, Evaluation, HeldOut, measured, write
from magic_rl.runs.evaluate import evaluate
from magic_rl.runs.export import export_defender, model_card
from magic_rl.runs.export.player import SavedPlayer
from magic_rl.runs.train import train
from magic_rl.store.run import RunDirectory
from tests.runs.test_train import Silent
from tests.support.evaluations import cell, compared, evaluation, replies
from tests.support.fabricated_run import CHECKED, inputs

IDS = torch.tensor([[5, 6, 7, 8]])


class Adapter:
    """A policy folder as PEFT itself writes it: an adapter with random weights on a model."""

    std = 0.1

    def __init__(self, model: Path, rng_seed: int) -> None:
        torch.manual_seed(rng_seed)
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        for name, parameter in self.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=self.std)

    def save(self, directory: Path) -> None:
        self.model.save_pretrained(directory)


def logits(folder: Path, adapter: Path | None = None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.inference_mode():
        return torch.as_tensor(model(IDS).logits)


def a_run(path: Path, config: Config, model: Path) -> RunDirectory:
    """A run whose defenders of rounds 0 to 2, and one attacker, are random adapters."""
    run = RunDirectory.create(path, dump_config(config), {"python": "3"}, inputs=inputs(config))
    for number in range(3):
        run.save_player("defender", number, Adapter(model, number), step=number)
    run.save_player("attacker", 0, Adapter(model, 7), step=0)
    return run


def an_evaluation(**changed: Any) -> Evaluation:
    """One more success per pair, so that every number in a card shows where it comes from."""
    cells = [[rate(3 * row + column, 40) for column in range(3)] for row in range(3)]
    crossplay = Crossplay(
        attackers=[None, 0, 1],
        defenders=[0, 1, 2],
        compared={"vanilla": 0, "sft_attacker": 1, "last_attacker": 2},
        asr=cells,
        compliance=[row[::-1] for row in cells],
        replies=[replies(degenerate=rate(column, 40)) for column in range(3)],
        abstained=0,
    )
    one = cell([True], [True])
    held_out = HeldOut(harmful=40, benign=40, categories=["c2"])
    return evaluation(compared(one, one, one), **{"crossplay": crossplay, "held_out": held_out, **changed})


def test_plain_transformers_loads_a_trained_defender(tmp_path: Path, tiny_config: Path, tiny_model: Path) -> None:
    run = train(load_config(tiny_config, ["defender.optimiser.lr=0.05"]), tmp_path / "run", Silent())
    evaluate(run, Silent())
    out = export_defender(run, tmp_path / "models" / "hardened")
    assert [path.name for path in out.parent.iterdir()] == ["hardened"]
    torch.testing.assert_close(logits(out), logits(tiny_model, run.player("defender", 1)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(out), logits(tiny_model), atol=1e-4)
    chat = AutoTokenizer.from_pretrained(out).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert "<|im_start|>user" in chat
    card = (out / "README.md").read_text()
    for needed in ("rules-7", "n = 2", "[", "Limits", "seeds.jsonl", "compliance, last attacker", "Licence"):
        assert needed in card


def test_any_round_can_be_exported_and_the_last_is_the_default(
    tmp_path: Path, tiny_config: Path, tiny_model: Path
) -> None:
    run = a_run(tmp_path / "run", load_config(tiny_config), tiny_model)
    write(run, EVALUATION_FILE, an_evaluation(measured=measured(run)))
    for out, number in (
        (export_defender(run, tmp_path / "last"), 2),
        (export_defender(run, tmp_path / "1", number=1), 1),
    ):
        expected = logits(tiny_model, run.player("defender", number))
        torch.testing.assert_close(logits(out), expected, rtol=1e-4, atol=1e-5)
        assert f"the defender after round {number}" in (out / "README.md").read_text()


def test_the_command_line_exports_the_round_it_is_asked_for(
    tmp_path: Path, tiny_config: Path, tiny_model: Path
) -> None:
    run = a_run(tmp_path / "run", load_config(tiny_config), tiny_model)
    asked = ["export", str(run.path), "--round", "1", "--out", str(tmp_path / "1")]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    expected = logits(tiny_model, run.player("defender", 1))
    torch.testing.assert_close(logits(tmp_path / "1"), expected, rtol=1e-4, atol=1e-5)
    refused = CliRunner().invoke(app, [*asked[:3], "9", "--out", str(tmp_path / "9")])
    assert refused.exit_code == 2
    assert "9" in refused.output
    assert not (tmp_path / "9").exists()


def defender(config: Config, base: Path, number: int) -> SavedPlayer:
    return SavedPlayer(config, "defender", number, base, base)


def test_the_numbers_on_a_card_are_those_of_the_exported_defender(tiny_config: Path, tiny_model: Path) -> None:
    card = model_card(defender(load_config(tiny_config), tiny_model, 1), an_evaluation(), CHECKED)
    rows = dict(line.strip("| ").split(" | ", 1) for line in card.splitlines() if "n = 40" in line)
    expected = {
        "ASR, vanilla seeds ↓": (0, 1),
        "ASR, SFT attacker ↓": (3, 4),
        "ASR, last attacker ↓": (6, 7),
        "compliance, vanilla seeds ↑": (2, 1),
        "compliance, SFT attacker ↑": (5, 4),
        "compliance, last attacker ↑": (8, 7),
        "replies that are no longer language ↓": (0, 1),
    }
    assert rows.keys() == expected.keys()
    for title, hits in expected.items():
        for said, hit in zip(rows[title].split(" | "), hits, strict=True):
            found = rate(hit, 40)
            assert said == f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}], n = 40"


def test_a_card_does_not_call_validation_seeds_held_out(tiny_config: Path, tiny_model: Path) -> None:
    held_out = HeldOut(split="validation", harmful=40, benign=40)
    card = model_card(defender(load_config(tiny_config), tiny_model, 1), an_evaluation(held_out=held_out), CHECKED)
    assert "On validation seeds: 40 harmful" in card
    assert "On held-out" not in card


def test_a_card_says_when_its_defender_was_not_evaluated(tiny_config: Path, tiny_model: Path) -> None:
    config = load_config(tiny_config)
    assert "Not evaluated" in model_card(defender(config, tiny_model, 1), None, CHECKED)
    assert "Not evaluated" in model_card(defender(config, tiny_model, 3), an_evaluation(), CHECKED)


def test_a_card_names_the_base_but_no_folder_of_this_machine(tmp_path: Path, tiny_config: Path) -> None:
    snapshot = tmp_path / "snapshots" / "0123abcd"
    config = load_config(tiny_config, ["defender.model=owner/chat-1b", "data.seeds=/home/somebody/own seeds.csv"])
    card = model_card(defender(config, snapshot, 2), None, CHECKED)
    assert "base_model: owner/chat-1b" in card
    assert "# owner/chat-1b, trained" in card
    assert "0123abcd" not in card
    assert "`own seeds.csv`" in card
    assert "/home" not in card
    local = model_card(defender(load_config(tiny_config), snapshot.parent / "my-model", 2), None, CHECKED)
    assert "# my-model, trained" in local
    assert "base_model" not in local


def test_nothing_but_the_defender_leaves(tmp_path: Path, tiny_config: Path, tiny_model: Path) -> None:
    run = a_run(tmp_path / "run", load_config(tiny_config), tiny_model)
    out = export_defender(run, tmp_path / "out")
    suffixes = {path.suffix for path in out.rglob("*")}
    assert suffixes <= {".safetensors", ".json", ".jinja", ".md", ".txt"}
    assert not any("adapter" in path.name for path in out.iterdir())
    for path in out.iterdir():  # nor does any name of this machine
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
        assert str(tiny_model).encode() not in path.read_bytes(), path.name


def test_a_defender_that_is_the_attacker_too_is_not_exported(
    tmp_path: Path, tiny_config: Path, tiny_model: Path
) -> None:
    run = a_run(tmp_path / "run", load_config(tiny_config, ["game.shared_parameters=true"]), tiny_model)
    with pytest.raises(UserError, match="share parameters"):
        export_defender(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_costs_one_line_and_leaves_nothing(
    tmp_path: Path, tiny_config: Path, tiny_model: Path
) -> None:
    run = a_run(tmp_path / "run", load_config(tiny_config), tiny_model)
    with pytest.raises(UserError, match="already exists"):
        export_defender(run, run.path)
    with pytest.raises(UserError, match=r"no defender of round 7; saved rounds: \[0, 1, 2\]"):
        export_defender(run, tmp_path / "out", number=7)
    weights = next(run.player("defender", 2).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match="corrupted player"):
        export_defender(run, tmp_path / "out")
    with pytest.raises(UserError, match="cannot be written"):
        export_defender(run, Path(run.path / "config.toml" / "out"), number=1)
    assert not any(path.name.startswith((".tmp", "out")) for path in tmp_path.iterdir())


def test_an_unfinished_run_has_no_defender(tmp_path: Path, tiny_config: Path) -> None:
    config = load_config(tiny_config)
    run = RunDirectory.create(tmp_path / "run", dump_config(config), {"python": "3"}, inputs=inputs(config))
    with pytest.raises(UserError, match="saved no defender yet"):
        export_defender(run, tmp_path / "out")


def test_a_random_adapter_changes_the_model(tiny_model: Path, tmp_path: Path) -> None:
    """Otherwise the comparisons above would prove nothing."""
    Adapter(tiny_model, 0).save(tmp_path / "adapter")
    change = (logits(tiny_model, tmp_path / "adapter") - logits(tiny_model)).abs().max()
    assert math.isfinite(change)
    assert change > 1e-3
