"""Outcomes as plain rows of JSON, the form in which a run keeps them and reports read them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from magic_rl.types import Outcome, Sample, Turn


def episode_row(step: int, outcome: Outcome) -> dict[str, Any]:
    """One episode and what came of it.

    Returns:
        `step`, `seed` (all fields), `group`, `turns`, `verdict` and `rewards` (all fields, or None) and `masked`.
    """
    return {
        "step": step,
        "seed": asdict(outcome.episode.seed),
        "group": outcome.episode.group,
        "turns": [_turn(turn) for turn in outcome.episode.turns],
        "verdict": asdict(outcome.verdict) if outcome.verdict else None,
        "rewards": asdict(outcome.rewards) if outcome.rewards else None,
        "masked": outcome.masked,
    }


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "attack": turn.attack,
        "thinking": turn.thinking,
        "well_formed": turn.well_formed,
        "reply": turn.reply,
        "reply_well_formed": turn.reply_well_formed,
        "reply_thinking": turn.reply_thinking,
        **_sample("attack", turn.attack_sample),
        **_sample("reply", turn.reply_sample),
    }


def _sample(name: str, sample: Sample | None) -> dict[str, Any]:
    """How an output ended and how many tokens were sampled: none when nobody sampled it."""
    return {
        f"{name}_finish": sample.finish if sample else None,
        f"{name}_tokens": len(sample.tokens) if sample else 0,
    }
