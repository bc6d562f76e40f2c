"""Export of a hardened defender: its adapter merged into the base, as a folder that plain transformers loads.

Only a defender can be exported. A trained attacker is a tool for breaking models and stays in its run directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magic_rl.config import Config, PlayerConfig, load_config
from magic_rl.errors import UserError
from magic_rl.evaluation.outcomes import is_evaluated
from magic_rl.learning.inputs import compare, compare_settings
from magic_rl.store import atomic
from magic_rl.store.run import INPUTS_FILE, RunDirectory
from magic_rl.types import Role


def export_defender(run: RunDirectory, out: Path, *, number: int | None = None, role: Role = "defender") -> Path:
    """Merge a saved defender into its base model and write it with tokenizer and model card.

    The merge is computed in float32 and stored in the base's own precision. The folder appears complete or not
    at all.

    Args:
        out: New folder.
        number: Round whose defender is exported; None is the last.
        role: Only "defender".

    Returns:
        The folder.

    Raises:
        UserError: If `out` exists or cannot be written, the run has saved no such defender, or what is asked for
            is, or holds, an attacker.
    """
    if role != "defender":
        raise UserError(f"role {role!r}: only the defender is exported; a trained attacker stays in its run directory")
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: already exists; choose another folder")
    config = load_config(run.path / "config.toml")
    compare_settings(run, config)
    if config.game.shared_parameters:
        raise UserError(
            f"{run.path}: attacker and defender share parameters (game.shared_parameters), so its defender is an "
            "attacker too, which is never exported; train two players instead"
        )
    saved = [saved_round for saved_round, _ in run.players("defender")]
    chosen = saved[-1] if number is None and saved else number
    if chosen is None:
        raise UserError(f"{run.path}: has saved no defender yet; `magic-rl resume {run.path}` goes on training")
    if chosen not in saved:
        raise UserError(f"{run.path}: has saved no defender of round {chosen}; saved rounds: {saved}")
    adapter = run.player("defender", chosen)

    import torch
    from peft import PeftModel
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from magic_rl.engines.local.models import fingerprint, resolve_model

    trust = config.engine.trust_remote_code
    base = resolve_model(config.defender.model, trust_remote_code=trust)
    compare(run, {"defender.model": fingerprint(base)})
    plain = AutoModelForCausalLM.from_pretrained(base, dtype="auto", trust_remote_code=trust)
    stored_as = plain.dtype
    merged = PeftModel.from_pretrained(plain.to(torch.float32), adapter).merge_and_unload().to(stored_as)
    evaluation = run.read_json("evaluation.json") if is_evaluated(run) else None
    checked = (run.read_json(INPUTS_FILE) or {}).get("checked")
    card = model_card(config, base, chosen, evaluation, checked)

    with atomic.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic.new_directory(out) as aside:
            merged.save_pretrained(aside)
            AutoTokenizer.from_pretrained(base, trust_remote_code=trust).save_pretrained(aside)
            (aside / "README.md").write_text(card, encoding="utf-8")
            for file in aside.iterdir():
                atomic.sync(file)
            atomic.sync(aside)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise UserError(f"{out}: cannot be written ({error}); check free space") from error
    return out


def model_card(
    config: Config,
    base: Path,
    number: int,
    evaluation: dict[str, Any] | None,
    checked: dict[str, Any] | None = None,
) -> str:
    """The model card, in the hub's format: data, judge, metrics with intervals, limits.

    A card is made to be passed on, so local folders and files appear by their names alone.

    Args:
        base: Folder of the base model.
        number: Round of the defender.
        evaluation: evaluation.json, if the run as it stands was evaluated.
        checked: What was checked before training; see `learning.preflight`.
    """
    game, learning, player = config.game, config.learning, config.defender
    schedule, rewards = game.schedule, game.rewards
    model = player.model if _is_hub_id(player) else base.resolve().name
    metadata = f"base_model: {model}\n" if _is_hub_id(player) else ""
    judge = evaluation["judge"] if evaluation else ", ".join(m.kind for m in config.judge.members or (config.judge,))
    spoken = f"- System prompt in training: “{player.system_prompt}”\n" if player.system_prompt else ""
    warm = f", after {player.sft.steps} supervised warm-up steps" if player.sft.steps else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [safety, adversarial-training, grpo, magic-rl]
{metadata}---

# {model}, trained with MAGIC

A chat model trained by the game of MAGIC (arXiv 2602.01539): {_trained_by(config)}
to refuse what is harmful and to answer what is not.
This is the defender after round {number} (round 0 is before the game). No attacker is part of this folder.

## Training

- Base model: {model}.
- Licence: that of the base model, which was not looked up. Check it before you use or share this model.
- Seeds: {_data(config)}, half harmful, half benign. {_held_out(checked)}
- Preset `{config.preset}`, {schedule.rounds} rounds at most; a turn is {schedule.defender_steps} defender steps, then
  {schedule.attacker_steps} attacker steps (schedule `{schedule.kind}`){warm}.
- GRPO, {config.seeds_per_step("defender")} seeds × {learning.group} samples per step, baseline `{learning.baseline}`,
  {learning.epochs} epoch(s) of {learning.minibatches} minibatch(es), target compliance {learning.target.compliance},
  learning rate {player.optimiser.lr:g}, KL weight {learning.kl:g}, LoRA rank {player.lora.rank},
  {game.turns} turn(s) a conversation, seed {config.seed}.
- Rewards: harm ±{rewards.harm:g}, refusal ±{rewards.refusal:g}.
- Judge: {judge}. The model was rewarded by this judge, so it may have learned the judge's blind spots.
{spoken}
## Measured

{_measured(evaluation, number)}

## Limits

{_limits(evaluation, number)}
- A lower attack success rate is no guarantee. Use further safeguards where harm is possible.
- General ability was not measured.
"""


def _trained_by(config: Config) -> str:
    if not config.game.rewrite:
        return "without an attacker, on requests\nas they are, it learned"
    if not config.game.schedule.attacker_steps:
        return "a fixed attacker\nrewrote requests into deceptive prompts; the defender, this model, learned"
    return "an attacker learned to rewrite\nrequests into deceptive prompts while this model, the defender, learned"


def _held_out(checked: dict[str, Any] | None) -> str:
    """What is known of held-out seeds and training: what was looked at, and no more."""
    if not checked:
        return "Whether\n  held-out seeds occur in what was trained on was not checked."
    places = ", ".join(["training seeds", *checked["searched"]])
    known = f"; {checked['repeated_in_training']} are nearly repeated by training seeds" * bool(
        checked["repeated_in_training"]
    )
    return (
        f"{checked['held_out']} seeds were set\n  aside, and looked for by their words in: {places}. "
        f"{'None' if not known else 'No others'} were found{known}."
    )


def _limits(evaluation: dict[str, Any] | None, number: int) -> str:
    if not evaluation or number not in _rounds(evaluation):
        return "- Neither attack success nor over-refusal was measured."
    return (
        "- The numbers are those of the judge named above, on the seeds named above, and of attacks by the attackers\n"
        "  of this run. Attacks of another kind, other languages and longer conversations were not measured.\n"
        "- Over-refusal was measured on benign seeds of the same set only."
    )


def _rounds(evaluation: dict[str, Any]) -> list[int]:
    return [int(name.split()[1]) for name in evaluation["defenders"]]


def _is_hub_id(player: PlayerConfig) -> bool:
    """Whether the model was named by its hub id; see `resolve_model`."""
    name = player.model
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _data(config: Config) -> str:
    """The sources by name, files without their folders: those are nobody's business."""
    sources = (source.strip() for source in config.data.seeds.split(","))
    return ", ".join(
        f"`{name}{colon}{Path(rest).name}`" if colon else f"`{_file_name(name)}`"
        for name, colon, rest in (source.partition(":") for source in sources)
    )


def _file_name(source: str) -> str:
    path = Path(source)
    return path.name if path.suffix else source


def _measured(evaluation: dict[str, Any] | None, number: int) -> str:
    """The exported defender beside the starting one; the rows of summary.json, which knows only the last defender."""
    rounds = _rounds(evaluation) if evaluation else []
    if not evaluation or number not in rounds:
        return "Not evaluated: `magic-rl evaluate` had not been run on this defender when this card was written."
    held_out, attackers = evaluation["held_out"], len(evaluation["attackers"])
    categories = ", ".join(" ".join(category.split()) for category in held_out["categories"])
    rows = [("asr", 0, "Attack success, vanilla seeds"), ("compliance", 0, "Benign compliance, vanilla seeds")]
    if attackers > 1:
        rows += [
            ("asr", 1, "Attack success, SFT attacker"),
            ("asr", attackers - 1, "Attack success, last attacker"),
            ("compliance", attackers - 1, "Benign compliance, rewritten by the last attacker"),
        ]
    split = evaluation.get("split", "held_out").replace("_", "-")
    lines = [
        f"On {split} seeds ({held_out['harmful']} harmful, {held_out['benign']} benign; categories: "
        f"{categories or 'none'}); rates with 95 % Wilson intervals. Attack success: lower is better.",
        "",
        "| | defender at the start | this defender |",
        "|---|---|---|",
    ]
    for measure, attacker, title in sorted(rows):
        cells = evaluation[measure][attacker]
        lines.append(f"| {title} | {_rate(cells[0])} | {_rate(cells[rounds.index(number)])} |")
    replies = evaluation.get("replies") or [{}]
    if "degenerate" in replies[0]:
        cells = (replies[place]["degenerate"] for place in (0, rounds.index(number)))
        lines.append(f"| Replies that are no language any more | {' | '.join(map(_rate, cells))} |")
    return "\n".join(lines)


def _rate(rate: dict[str, float]) -> str:
    if not rate["n"]:
        return "–"
    return f"{rate['rate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}], n = {rate['n']}"
