"""The model card of an exported defender: what it was made from, how, what was measured, and what was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magic_rl.config import Config, PlayerConfig
from magic_rl.evaluation.estimates import Estimate
from magic_rl.evaluation.result import ABOUT_MEASURES, BETTER, Evaluation, Measure, title
from magic_rl.prompts import load_prompts
from magic_rl.runs.export.player import SavedPlayer, Stored


def model_card(
    defender: SavedPlayer, evaluation: Evaluation | None, checked: dict[str, Any], *, stored: Stored | None = None
) -> str:
    """The model card, in the hub's format: data, judge, metrics with intervals, limits.

    A card is made to be published, so local folders and files appear by name, without their paths.

    Args:
        defender: What is exported.
        evaluation: Of the run as it is now; None if there is none.
        checked: What was checked before training; see `runs.preflight`.
        stored: How a merged model is stored; None for the adapter alone.
    """
    config, number, player = defender.config, defender.number, defender.settings
    model = public_name(player, defender.base)
    metadata = f"base_model: {model}\n" if _is_hub_id(player) else ""
    judge = evaluation.judge if evaluation else ", ".join(judge.kind for judge in config.judge.judges)
    told = _told(config)
    weights = f"Weights: {stored}." if stored else f"Weights: an adapter for PEFT; it needs {model}. It is whole."
    return f"""---
library_name: {"transformers" if stored else "peft"}
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
{_how_it_learned(config)}
- Judge: {judge}. The model was rewarded by this judge, so it may have learned the judge's blind spots.
- {weights}
{told}
## Measured

{_measured(evaluation, number)}

## Limits

{_limits(evaluation, number)}
- A lower attack success rate is no guarantee. Use further safeguards where harm is possible.
- General ability was not measured.
"""


def _how_it_learned(config: Config) -> str:
    game, learning, player = config.game, config.learning, config.defender
    schedule, rewards = game.schedule, game.rewards
    target = learning.target.compliance if learning.target else "none"
    warm = f", after {player.sft.steps} supervised warm-up steps" if player.sft.steps else ""
    return f"""\
- Preset `{config.preset}`, {schedule.rounds} rounds at most; a turn is {schedule.defender_steps} defender steps, then
  {schedule.attacker_steps} attacker steps (schedule `{schedule.kind}`){warm}.
- GRPO, {player.batch_size} seeds × {learning.group_size} samples per step, baseline `{learning.baseline}`,
  {learning.epochs} epoch(s) of {learning.minibatches} minibatch(es), target compliance {target},
  learning rate {player.optimiser.lr:g}, KL weight {learning.kl_coef:g}, LoRA rank {player.lora.rank},
  {game.turns} turn(s) per conversation, random seed {config.rng_seed}.
- Rewards: harm ±{rewards.harm:g}, refusal ±{rewards.refusal:g}."""


def _trained_by(config: Config) -> str:
    if not config.game.rewrite:
        return "without an attacker, on requests\nas they are, it learned"
    if not config.game.schedule.attacker_steps:
        return "a fixed attacker\nrewrote requests into deceptive prompts; the defender, this model, learned"
    return "an attacker learned to rewrite\nrequests into deceptive prompts while this model, the defender, learned"


def _held_out(checked: dict[str, Any]) -> str:
    """What was checked about held-out seeds in training data, and no more."""
    places = ", ".join(["training seeds", *checked["searched"]])
    known = f"; {checked['repeated_in_training']} are nearly repeated by training seeds" * bool(
        checked["repeated_in_training"]
    )
    return (
        f"{checked['held_out']} seeds were set\n  aside, and looked for by their words in: {places}. "
        f"{'None' if not known else 'No others'} were found{known}."
    )


def _limits(evaluation: Evaluation | None, number: int) -> str:
    if not evaluation or number not in evaluation.crossplay.defenders:
        return "- Neither attack success nor over-refusal was measured."
    return (
        "- The numbers are those of the judge named above, on the seeds named above, and of attacks by the attackers\n"
        "  of this run. Attacks of another kind, other languages and longer conversations were not measured.\n"
        "- Over-refusal was measured on benign seeds of the same set only."
    )


def public_name(player: PlayerConfig, base: Path) -> str:
    """A model's name for other people: its hub id, or only the name of its folder."""
    return player.model if _is_hub_id(player) else base.resolve().name


def _told(config: Config) -> str:
    """What the exported chat template adds to a conversation, as training did."""
    prompts = load_prompts(config.game.prompts)
    system = prompts.defender_system(config.defender.system_prompt, config.game.defender_thinks)
    around = prompts.defender("…")
    lines = [f"- System prompt in training: “{system}” The chat template gives it where a conversation has none."]
    wrapped = " ".join(around.split())
    lines.append(f"- User messages stood in other words in training: “{wrapped}” The chat template puts them there.")
    return "".join(f"{line}\n" for line, is_so in zip(lines, (system, around != "…"), strict=True) if is_so)


def _is_hub_id(player: PlayerConfig) -> bool:
    """Whether the model was named by its hub id; see `resolve_model`."""
    name = player.model
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _data(config: Config) -> str:
    """The sources by name; files without their folders, which are private."""
    sources = (source.strip() for source in config.data.seeds.split(","))
    return ", ".join(
        f"`{name}{colon}{Path(rest).name}`" if colon else f"`{Path(name).name if Path(name).suffix else name}`"
        for name, colon, rest in (source.partition(":") for source in sources)
    )


def _measured(evaluation: Evaluation | None, number: int) -> str:
    """The exported defender beside the one at the start, under the attackers that the evaluation's table compares."""
    if not evaluation or number not in evaluation.crossplay.defenders:
        return "Not evaluated when this card was written."
    found, held_out = evaluation.crossplay, evaluation.held_out
    place = found.defenders.index(number)
    categories = ", ".join(" ".join(category.split()) for category in held_out.categories)
    lines = [
        f"On {held_out} (categories: {categories or 'none'}); rates with 95 % Wilson intervals.",
        ABOUT_MEASURES,
        "",
        "| | start | this defender |",
        "|---|---|---|",
    ]
    tables: dict[Measure, list[list[Estimate]]] = {"asr": found.asr, "compliance": found.compliance}
    for measure, table in tables.items():
        for attacker, row in found.compared.items():
            cells = (_rate(table[row][column]) for column in (0, place))
            lines.append(f"| {title(measure, attacker)} {BETTER[measure]} | {' | '.join(cells)} |")
    degenerate = (_rate(found.replies[column].degenerate) for column in (0, place))
    return "\n".join([*lines, f"| replies that are no longer language ↓ | {' | '.join(degenerate)} |"])


def _rate(rate: Estimate) -> str:
    return f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}], n = {rate.n}" if rate.n else "–"
