"""Checks before anything is written: one small call to every model and judge, and a search of every file that will be
learned from. So a judge that is down is found before the warm-up, and held-out seeds in a pool are found at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from magic_rl.attacks.pool import read_pool
from magic_rl.config import Config
from magic_rl.data.overlap import SeedFinder
from magic_rl.data.split import evenly
from magic_rl.errors import UserError
from magic_rl.game.play import Player, attack, reply
from magic_rl.judges.asking import exceeds
from magic_rl.judges.base import Judge
from magic_rl.judges.model import ModelJudge
from magic_rl.judges.panel import Panel
from magic_rl.learning.sft import attacker_examples, read_examples
from magic_rl.runs.assembly import Setup
from magic_rl.runs.judge import about_rules
from magic_rl.types import Episode

_TARGETS = 256  # supervised examples whose length is checked


def preflight(setup: Setup) -> dict[str, Any]:
    """Search what will be learned from, and try every player and judge.

    Returns:
        What was checked, for the model card: `{"held_out", "repeated_in_training", "searched"}`: seeds that are held
        out or for validation, how many of them training seeds nearly repeat, and how many entries of each file were
        searched.

    Raises:
        UserError: If training would go wrong: held-out seeds in a file, examples longer than a player's limit, a
            prompt that does not fit, or a judge that gives no label.
    """
    finder = SeedFinder((*setup.split.held_out, *setup.split.validation), setup.split.train)
    searched = {key: _search(finder, key, texts) for key, texts in _learned_from(setup.config)}
    _check_targets(setup)
    try_players(setup)
    try_judge(setup.judge)
    held_out = len(setup.split.held_out) + len(setup.split.validation)
    return {"held_out": held_out, "repeated_in_training": finder.repeated_count, "searched": searched}


def _learned_from(config: Config) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """The texts of each entry of every file that some stage learns from."""
    if config.attacker.pool:
        entries = read_pool(Path(config.attacker.pool))
        yield "attacker.pool", [(entry.seed.text, entry.attack, entry.thinking) for entry in entries]
    for key, name in (
        ("attacker.sft.examples", config.attacker.sft.examples),
        ("defender.sft.examples", config.defender.sft.examples),
    ):
        if name:
            read = read_examples(Path(name))
            yield key, [(*(message.content for message in each.messages), each.completion) for each in read]


def _search(finder: SeedFinder, key: str, entries: Sequence[Iterable[str]]) -> int:
    leaks = [place for place, texts in enumerate(entries, start=1) if finder.found_in(texts)]
    if leaks:
        raise UserError(
            f"{key}: {len(leaks)} of {len(entries)} entries hold seeds that are held out or for validation, entry "
            f"{leaks[0]} first: what is measured would be trained on",
            "write the pool again",
        )
    return len(entries)


def _check_targets(setup: Setup) -> None:
    """Refuse examples over a player's limit: one that learns to exceed it is cut off in every step of the game."""
    for role in setup.roles():
        player = setup.config.player(role)
        if not player.sft.steps or (role == "defender" and not player.sft.examples):
            continue  # warm-up examples made here are single sentences
        made = setup.examples(role) if player.sft.examples else attacker_examples(setup.pool(), setup.prompts)
        renderer, most = setup.renderer(role), player.sampling.max_tokens
        lengths = [len(renderer.completion(e.completion, tagged=e.tagged)) for e in evenly(made, _TARGETS)]
        longer = sum(length > most for length in lengths)
        if exceeds(longer, len(lengths), setup.config.learning.max_cut_off):
            raise UserError(
                f"{role}.sampling.max_tokens: {longer} of {len(lengths)} of the {role}'s examples are longer "
                f"than {most} tokens (the longest: {max(lengths)}), so in the game it would be cut off; raise it"
            )


def try_players(setup: Setup) -> None:
    """Sample one token from each player.

    Raises:
        UserError: If its prompt cannot be rendered, or is longer than its limit.
    """
    seed = setup.split.train[0]
    rewriter = _brief(setup.player("attacker")) if "attacker" in setup.learners else None
    opened = attack([Episode(seed, (), 0)], rewriter, 1, 0, setup.config.game.turns > 1)
    (episode,) = reply(opened, _brief(setup.player("defender")), 1, 0)
    first = episode.turns[0]
    for role, sample in (("attacker", first.attack_sample), ("defender", first.reply_sample)):
        if sample is not None and not sample.tokens:
            limit = getattr(setup.config, role).sampling.max_prompt_tokens
            raise UserError(
                f"{role}.sampling.max_prompt_tokens: its prompt for a single seed takes {len(sample.prompt)} tokens, "
                f"more than {limit}; raise it"
            )


def try_judge(judge: Judge, *, fresh: bool = True) -> None:
    """Ask one question of each judge that asks a model.

    Args:
        fresh: Whether it must answer now; else a remembered answer will do, because all later ones may be remembered
            too.

    Raises:
        UserError: If one gives no label.
    """
    for member in judge.members if isinstance(judge, Panel) else (judge,):
        if isinstance(member, ModelJudge) and (why := member.trial(fresh=fresh)):
            raise UserError(f"judge {member.name}: gives no label for a plain question and answer ({why}); check it")


def remarks(config: Config) -> Iterator[str]:
    """What a user should know before a long run: its settings, a judge made for the demo, an attacker without SFT."""
    turns, players = config.game.schedule, " and ".join(f"{role} {config.player(role).model}" for role in config.roles)
    what = f"preset {config.preset}: {players}, seeds {config.data.seeds}, judge {config.judge.kind}"
    steps = f"defender {turns.defender_steps}, attacker {turns.attacker_steps}"
    yield f"{what}; rounds: {turns.rounds}, steps in each: {steps}"
    yield from about_rules(config)
    if config.game.rewrite and not config.attacker.sft.steps and config.preset != "magic-base":
        yield "attacker.sft.steps is 0: the attacker is taught nothing before the game, which is preset magic-base"


def _brief(player: Player) -> Player:
    return replace(player, sampling=replace(player.sampling, max_tokens=1))
