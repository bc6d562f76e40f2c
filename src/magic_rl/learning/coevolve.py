"""Iterative co-evolution (METHOD §3): the loop, top to bottom.

    repeat: draw seeds → attack → reply → judge → rewards → advantages → datums → update → whose turn is next

The loop knows nothing of files, screens or where weights live. It yields one `Step` after each update, and all
its randomness comes from the step's number, so whoever drives it can stop after any step and go on later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from magic_rl.config import Config, OptimiserConfig
from magic_rl.data.split import draw_seeds
from magic_rl.engines.base import Policy
from magic_rl.game.play import Player, play
from magic_rl.game.rewards import request_label, score
from magic_rl.game.schedule import Schedule
from magic_rl.judges.asking import ask
from magic_rl.judges.base import Judge
from magic_rl.learning.advantages import estimate_advantages, groups_with_signal
from magic_rl.learning.datums import build_datums, minibatches
from magic_rl.learning.opponents import Opponents
from magic_rl.learning.summary import outcome_metrics, sampled_tokens
from magic_rl.learning.target import OperatingPoint
from magic_rl.prompts import Prompts
from magic_rl.rng import generator
from magic_rl.types import PPO, Adam, Datum, Episode, Exchange, Label, Outcome, Role, Seed


@dataclass(frozen=True, slots=True)
class Table:
    """Everybody and everything the game is played with.

    Attributes:
        attacker: None when seeds are played as they are.
        learners: The policies that learn; one and the same object for both roles in self-play.
        references: π_ref of each role, for the KL term.
        opponents: Past versions that the learner meets too; None: only the other player as it is.
    """

    attacker: Player | None
    defender: Player
    learners: dict[Role, Policy]
    references: dict[Role, Policy]
    judge: Judge
    seeds: Sequence[Seed]
    prompts: Prompts
    opponents: Opponents | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of learning came to.

    Attributes:
        number: Optimiser steps taken in the run so far, this one included.
        metrics: Reproducible numbers; see `outcome_metrics` and the engine's own.
        timing: Seconds and tokens per second; not reproducible.
    """

    number: int
    metrics: dict[str, float | int | str | None]
    timing: dict[str, float]


@dataclass(frozen=True, slots=True)
class GameStep(Step):
    """A step of the game.

    Attributes:
        outcomes: Every episode of the step.
        schedule: Whose turn it is next.
        target: The operating point to go on with; None if none is held.
    """

    outcomes: Sequence[Outcome]
    schedule: Schedule
    target: OperatingPoint | None = None


def coevolve(
    table: Table, config: Config, schedule: Schedule, number: int, target: OperatingPoint | None = None
) -> Iterator[GameStep]:
    """Play and learn until the schedule's rounds are over.

    Args:
        schedule: Where to begin.
        number: Optimiser steps the run has taken before.
        target: The defender's operating point so far; None holds none.

    Yields:
        One step after each update of the learner.
    """
    game, learning = config.game, config.learning
    while not schedule.over(game.schedule):
        number += 1
        began = time.monotonic()
        learner = schedule.learner
        player = config.attacker if learner == "attacker" else config.defender

        outcomes = sample_outcomes(table, config, schedule, number)
        sampled = time.monotonic()

        learned = choose_groups(outcomes, learner, player.seeds_per_step or learning.seeds_per_step)
        weights = target.weights() if target and learner == "defender" else None
        advantages = advantages_of(learned, config, learner, weights)
        datums = build_datums(learned, advantages, learner, reduction=learning.reduction, keep_zero=learning.kl > 0)
        adam = adam_step(player.optimiser, schedule.total, schedule.planned(game.schedule))
        update = learn(table.learners[learner], table.references[learner], datums, config, learner, adam, number)

        summary = outcome_metrics(outcomes)
        metrics = {"step": number, "stage": "play", "round": schedule.round, "learner": learner, **summary, **update}
        if target and learner == "defender":
            target = target.advance(summary["compliance"], learning.target)
            metrics |= {"compliance_target": target.compliance, "benign_multiplier": target.multiplier}
        schedule = schedule.advance(summary["safe_rate"], game.schedule)
        yield GameStep(number, metrics, _timing(began, sampled, sampled_tokens(outcomes)), outcomes, schedule, target)


def sample_outcomes(table: Table, config: Config, schedule: Schedule, number: int) -> list[Outcome]:
    """Play and judge one step's seeds; with dynamic sampling, more seeds until enough groups have signal (DAPO).

    Returns:
        The outcomes of everything that was played, those of a group side by side, groups numbered throughout.
    """
    game, learning, learner = config.game, config.learning, schedule.learner
    player = config.attacker if learner == "attacker" else config.defender
    count = player.seeds_per_step or learning.seeds_per_step
    outcomes: list[Outcome] = []
    for draw in range(1 + learning.dynamic_sampling):
        episodes = play(
            draw_seeds(table.seeds, count, generator(config.seed, number, "seeds", draw)),
            table.attacker,
            table.defender,
            table.prompts,
            turns=game.turns,
            learner=learner,
            group=learning.group,
            run_seed=config.seed,
            step=number,
            plain_share=game.plain_share if learner == "defender" else 0.0,
            draw=draw,
            opponents=table.opponents.draw(schedule, count, number, draw) if table.opponents else (),
        )
        numbered = [replace(episode, group=episode.group + draw * count) for episode in episodes]
        outcomes += judge_episodes(numbered, table.judge, config)
        if len(_with_signal(outcomes, learner)) >= count:
            break
    return outcomes


def choose_groups(outcomes: Sequence[Outcome], learner: Role, count: int) -> list[Outcome]:
    """The groups to learn from: the first `count` that have signal, filled up with others where there are fewer."""
    groups = list(dict.fromkeys(outcome.episode.group for outcome in outcomes))
    signal = _with_signal(outcomes, learner)
    chosen = set([*signal, *(group for group in groups if group not in set(signal))][:count])
    return [outcome for outcome in outcomes if outcome.episode.group in chosen]


def advantages_of(
    outcomes: Sequence[Outcome], config: Config, learner: Role, weights: Mapping[Label, float] | None = None
) -> list[float | None]:
    """Advantage of the learner in each episode; None where masked.

    Args:
        weights: Factors by the request's label, from the operating point; None weighs all alike.
    """
    learning = config.learning
    labels = [_label(outcome, config, learner) for outcome in outcomes]
    advantages = estimate_advantages(
        [_reward(outcome, learner) for outcome in outcomes],
        [outcome.episode.group for outcome in outcomes],
        labels,
        baseline=learning.baseline,
        scale_by_std=learning.scale_by_std,
    )
    if weights is None:
        return advantages
    return [None if a is None else a * weights[label] for a, label in zip(advantages, labels, strict=True)]


def judge_episodes(episodes: Sequence[Episode], judge: Judge, config: Config) -> list[Outcome]:
    """Verdict and rewards of every episode; cut-off and unjudged ones are masked (METHOD §4).

    Raises:
        TooManyAbstentionsError: If the judge is silent too often.
    """
    whole = [episode for episode in episodes if episode.cut_off is None]
    verdicts = iter(
        ask(
            judge,
            [Exchange(episode.seed, episode.attack, episode.reply) for episode in whole],
            retries=config.judge.retries,
            max_abstained=config.judge.max_abstained,
        )
    )
    out = []
    for episode in episodes:
        if episode.cut_off is not None:
            out.append(Outcome(episode, None, None, "cut_off"))
            continue
        verdict = next(verdicts)
        if verdict.abstained is not None:
            out.append(Outcome(episode, verdict, None, "abstained"))
            continue
        spoken = episode.turns[-1].reply_sample
        well_formed = all(turn.well_formed for turn in episode.turns)
        thought = all(turn.reply_well_formed for turn in episode.turns) if config.game.defender_thinks else None
        tokens = len(spoken.tokens) if spoken else 0
        rewards = score(verdict, episode.seed.label, well_formed, config.game.rewards, thought, tokens)
        out.append(Outcome(episode, verdict, rewards))
    return out


def learn(
    policy: Policy, reference: Policy, datums: Sequence[Datum], config: Config, learner: Role, adam: Adam, number: int
) -> dict[str, float]:
    """One GRPO step on a batch: an update per minibatch, `learning.epochs` times over the same samples.

    A batch without any signal (every group's rewards equal) takes no optimiser step: momentum alone would
    move the policy for no reason.

    Args:
        number: The step, which decides how minibatches are drawn.

    Returns:
        Means over the updates, and the step size.
    """
    learning = config.learning
    sampling = (config.attacker if learner == "attacker" else config.defender).sampling
    if not datums:
        return {"loss": 0.0, "grad_norm": 0.0, "lr": adam.lr}
    sequences = [(datum.prompt, datum.tokens) for datum in datums]
    if (sampling.temperature, sampling.top_p) != (1.0, 1.0):
        # The ratio compares policies at temperature 1; these were sampled from a sharpened distribution.
        scored = policy.logprobs(sequences)
        datums = [replace(datum, logprobs=old) for datum, old in zip(datums, scored, strict=True)]
    if learning.kl:
        scored = reference.logprobs(sequences)
        datums = [replace(datum, reference=ref) for datum, ref in zip(datums, scored, strict=True)]
    updates = []
    for epoch in range(learning.epochs):
        for part in minibatches(datums, learning.minibatches, generator(config.seed, number, "minibatches", epoch)):
            metrics = policy.forward_backward(part, PPO(learning.clip_low, learning.clip_high, learning.kl))
            updates.append({**metrics, **policy.optim_step(adam)})
    return {**{key: fmean(update[key] for update in updates) for key in updates[0]}, "lr": adam.lr}


def adam_step(optimiser: OptimiserConfig, taken: int, planned: int) -> Adam:
    """AdamW settings of the step after `taken` of `planned` ones: linear warm-up, then constant or linear decay."""
    share = min(1.0, (taken + 1) / optimiser.warmup_steps) if optimiser.warmup_steps else 1.0
    if optimiser.decay == "linear":
        falling = max(1, planned - optimiser.warmup_steps)
        share *= min(1.0, (planned - taken) / falling)
    return Adam(
        lr=optimiser.lr * share,
        beta1=optimiser.beta1,
        beta2=optimiser.beta2,
        eps=optimiser.eps,
        weight_decay=optimiser.weight_decay,
        max_grad_norm=optimiser.max_grad_norm,
    )


def _with_signal(outcomes: Sequence[Outcome], learner: Role) -> list[int]:
    return groups_with_signal([_reward(o, learner) for o in outcomes], [o.episode.group for o in outcomes])


def _reward(outcome: Outcome, learner: Role) -> float | None:
    if outcome.rewards is None:
        return None
    return outcome.rewards.defender if learner == "defender" else outcome.rewards.attacker


def _label(outcome: Outcome, config: Config, learner: Role) -> Label:
    """What the learner was asked counts as: an attacker is given the seed, a defender what became of it."""
    seed = outcome.episode.seed.label
    if learner == "attacker" or outcome.masked or outcome.verdict is None:
        return seed
    return request_label(outcome.verdict, seed, config.game.rewards)


def _timing(began: float, sampled: float, tokens: float) -> dict[str, float]:
    now = time.monotonic()
    return {
        "seconds": now - began,
        "sample_seconds": sampled - began,
        "learn_seconds": now - sampled,
        "tokens_per_second": tokens / max(sampled - began, 1e-9),
    }
