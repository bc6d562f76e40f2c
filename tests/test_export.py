"""Claims about export: the defender, whole, and nothing of the attacker."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from magic_rl.config import load_config
from magic_rl.errors import UserError
from magic_rl.evaluation.crossplay import evaluate
from magic_rl.export import export_defender
from magic_rl.learning.train import start
from tests.test_train import Silent


def test_plain_transformers_loads_the_defender_and_nothing_of_the_attacker_leaves(
    tmp_path: Path, tiny_config: Path, tiny_model: Path
) -> None:
    run = start(load_config(tiny_config, ["defender.optimiser.lr=0.05"]), tmp_path / "run", Silent())
    evaluate(run, Silent())
    out = export_defender(run, tmp_path / "models" / "hardened")
    assert [path.name for path in out.parent.iterdir()] == ["hardened"]

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        before = base(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(out)(ids).logits
        adapted = PeftModel.from_pretrained(base, run.player("defender", 1))(ids).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(merged, before, atol=1e-4)
    chat = AutoTokenizer.from_pretrained(out).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert "<|im_start|>user" in chat

    files = {path.name for path in out.iterdir()}
    assert not any("attacker" in name or name.endswith((".bin", ".pt", ".pkl")) for name in files)
    card = (out / "README.md").read_text()
    for needed in ("rules-1", "n = 2", "[", "Limits", "seeds.jsonl", "Benign compliance, rewritten"):
        assert needed in card


def test_an_existing_folder_is_refused(tmp_path: Path, tiny_config: Path) -> None:
    run = start(load_config(tiny_config), tmp_path / "run", Silent())
    with pytest.raises(UserError, match="already exists"):
        export_defender(run, tmp_path)
    with pytest.raises(UserError, match="no defender of round 7"):
        export_defender(run, tmp_path / "out", number=7)
