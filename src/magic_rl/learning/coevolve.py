"""Iterative co-evolution (METHOD §3): the loop, top to bottom.

    repeat: draw seeds → attack → reply → judge → rewards → advantages → datums → update → whose turn is next

The loop knows nothing of files, screens or where weights live. It yields one `Step` after each update. All its
randomness comes from the step's number, so the caller can stop after any step and continue later. `rollouts.py`
says what a step samples and learns from; `updates.py` has the update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from magic_rl.game.schedule import Schedule
from magic_rl.learning.arena import Arena
from magic_rl.learning.datums import build_datums
from magic_rl.learning.lookahead import begin
from magic_rl.learning.metrics import outcome_metrics, sampled_tokens
from magic_rl.learning.rollouts import advantages_of, choose_groups, measure_fluency, sample_outcomes
from magic_rl.learning.target import OperatingPoint
from magic_rl.learning.updates import learn
from magic_rl.types import Outcome


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one step of learning."""

    number: int  # steps taken in the run so far, supervised ones and this one included
    metrics: dict[str, float | int | str | None]  # reproducible numbers; see `outcome_metrics` and the engine's own
    timing: dict[str, float]  # seconds and tokens per second; not reproducible


@dataclass(frozen=True, slots=True)
class GameStep(Step):
    """A step of the game."""

    outcomes: Sequence[Outcome]  # every episode of the step
    schedule: Schedule  # whose turn it is next
    target: OperatingPoint | None = None  # the operating point to continue with; None if there is none


def coevolve(
    arena: Arena,
    schedule: Schedule,
    number: int = 0,
    target: OperatingPoint | None = None,
    ahead: Callable[[int], bool] | None = None,
) -> Iterator[GameStep]:
    """Play and learn until the schedule's rounds are over.

    Args:
        arena: Players, judge, seeds and settings.
        schedule: Where to begin.
        number: Steps the run has taken before.
        target: The defender's operating point so far; None holds none.
        ahead: Called with a step's number: whether the next step may be sampled while this one is learned from. It is
            only if the same player then learns in the same round. None: never, and metrics have no `staleness`.

    Yields:
        One step after each update of the learner.
    """
    settings = arena.settings
    game, learning = settings.game, settings.learning
    begun = None
    while not schedule.over(game.schedule):
        number += 1
        began = time.monotonic()
        learner = schedule.learner
        outcomes = begun.result() if begun else sample_outcomes(arena, schedule, number)
        staleness = {"staleness": int(begun is not None)} if ahead else {}
        sampled = time.monotonic()
        fluency = measure_fluency(outcomes, arena, number)

        learned = choose_groups(outcomes, learner, settings.batch_size[learner])
        weights = target.weights() if target and learner == "defender" else None
        advantages = advantages_of(learned, settings, learner, weights)
        keep_zero = learning.kl_coef > 0
        datums = build_datums(learned, advantages, learner, reduction=learning.reduction, keep_zero=keep_zero)
        summary = {**outcome_metrics(outcomes), **fluency.as_dict()}
        following = schedule.advance(summary["safe_rate"], game.schedule)
        same_turn = (following.round, following.learner) == (schedule.round, learner)
        begun = begin(arena, following, number + 1) if ahead and ahead(number) and same_turn else None
        update = learn(arena, datums, schedule, number)

        metrics = {"step": number, "stage": "play", "round": schedule.round, "learner": learner, **summary, **update}
        metrics |= staleness
        if target and learning.target and learner == "defender":
            target = target.advance(summary["compliance"], learning.target)
            metrics |= {"compliance_target": target.compliance, "benign_multiplier": target.multiplier}
        schedule = following
        yield GameStep(number, metrics, _timing(began, sampled, sampled_tokens(outcomes)), outcomes, schedule, target)


def _timing(began: float, sampled: float, tokens: float) -> dict[str, float]:
    now = time.monotonic()
    return {
        "seconds": now - began,
        "sample_seconds": sampled - began,
        "learn_seconds": now - sampled,
        "tokens_per_second": tokens / max(sampled - began, 1e-9),
    }
