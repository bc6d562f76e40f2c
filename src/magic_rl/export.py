"""Export of a hardened defender: its adapter merged into the base, as a folder that plain transformers loads.

Only a defender can be exported. A trained attacker is a tool for breaking models and stays in its run directory.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from magic_rl.config import Config, load_config
from magic_rl.errors import UserError
from magic_rl.store.run import RunDirectory


def export_defender(run: RunDirectory, out: Path, *, number: int | None = None) -> Path:
    """Merge a saved defender into its base model and write it with tokenizer and model card.

    The merge is computed in float32 and stored in the base's own precision. The folder appears complete or not
    at all.

    Args:
        out: New folder.
        number: Round whose defender is exported; None is the last.

    Raises:
        UserError: If `out` exists, or the run has saved no such defender.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from magic_rl.engines.local.models import resolve_model

    if out.exists():
        raise UserError(f"{out}: already exists; choose another folder")
    saved = [saved_round for saved_round, _ in run.players("defender")]
    chosen = saved[-1] if number is None and saved else number
    if chosen not in saved or chosen is None:
        raise UserError(f"{run.path}: has saved no defender of round {chosen}; saved rounds: {saved or 'none'}")
    config = load_config(run.path / "config.toml")
    trust = config.engine.trust_remote_code
    base = resolve_model(config.defender.model, trust_remote_code=trust)
    plain = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=trust)
    stored_as = plain.dtype
    model = PeftModel.from_pretrained(plain.to(torch.float32), run.player("defender", chosen)).merge_and_unload()

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / "model"
        model.to(stored_as).save_pretrained(folder)
        AutoTokenizer.from_pretrained(base, trust_remote_code=trust).save_pretrained(folder)
        card = model_card(config, base.name, chosen, run.read_json("summary.json"), run.read_json("evaluation.json"))
        (folder / "README.md").write_text(card, encoding="utf-8")
        shutil.move(folder, out)
    return out


def model_card(
    config: Config, base: str, number: int, summary: dict[str, Any] | None, evaluation: dict[str, Any] | None
) -> str:
    """The model card, in the hub's format: data, judge, metrics with intervals, limits."""
    schedule, learning = config.game.schedule, config.learning
    judge = evaluation["judge"] if evaluation else config.judge.kind
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [safety, adversarial-training, grpo, magic-rl]
---

# {base}, hardened with MAGIC

A chat model trained by adversarial co-evolution (MAGIC, arXiv 2602.01539): an attacker learned to rewrite requests
into deceptive prompts while this model, the defender, learned to refuse what is harmful and to answer what is not.
This is the defender after round {number}. The attacker is not part of this folder.

## Training

- Base model: `{config.defender.model}` ({base}). Its licence applies to this model too.
- Seeds: `{config.data.seeds}`, half harmful, half benign; held-out categories were never trained on.
- Preset `{config.preset}`: {schedule.rounds} rounds of {schedule.defender_steps} defender steps and
  {schedule.attacker_steps} attacker steps, {learning.seeds_per_step} seeds × {learning.group} samples
  a step, GRPO, LoRA rank {config.defender.lora.rank}.
- Judge: {judge}. The model was rewarded by this judge, so it may have learned the judge's blind spots.
{f"- System prompt in training: “{config.defender.system_prompt}”" if config.defender.system_prompt else ""}

## Measured

{_measured(summary, evaluation)}

## Limits

- The numbers are those of the judge named above, on the held-out seeds named above, and of attacks by the attackers
  of this run. Attacks of another kind, other languages and longer conversations were not measured.
- A lower attack success rate is no guarantee. Use further safeguards where harm is possible.
- Over-refusal was measured on benign seeds of the same set only; general ability was not measured.
"""


def _measured(summary: dict[str, Any] | None, evaluation: dict[str, Any] | None) -> str:
    if not summary or not evaluation:
        return "Not evaluated: `magic-rl evaluate` had not been run when this card was written."
    held_out = evaluation["held_out"]
    lines = [
        f"On held-out seeds ({held_out['harmful']} harmful, {held_out['benign']} benign; categories "
        f"{', '.join(held_out['categories']) or 'none'}); rates with 95 % Wilson intervals.",
        "",
        "| | before | after |",
        "|---|---|---|",
    ]
    for measure, title in (("asr", "Attack success rate"), ("compliance", "Benign compliance")):
        for name, after in summary[measure]["trained"].items():
            before = summary[measure]["start"][name]
            lines.append(f"| {title}, {name.replace('_', ' ')} | {_rate(before)} | {_rate(after)} |")
    return "\n".join(lines)


def _rate(rate: dict[str, float]) -> str:
    return f"{rate['rate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}], n = {rate['n']}"
