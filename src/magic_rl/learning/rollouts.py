"""What one step samples, and which part of it is learned from.

The players play the step's seeds and the judge labels the episodes. Then the groups to learn from are chosen, and each
of their episodes gets the learner's advantage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from magic_rl.data.split import draw_seeds, evenly
from magic_rl.errors import DegenerateError, TooManyCutOffError
from magic_rl.game.play import Draws, GameRules, Players, play
from magic_rl.game.rewards import ReplyForm, request_label, score
from magic_rl.game.schedule import Schedule
from magic_rl.judges.ahead import asked_early
from magic_rl.judges.asking import ask, exceeds
from magic_rl.judges.base import Judge
from magic_rl.learning.advantages import estimate_advantages, groups_with_signal
from magic_rl.learning.arena import Arena, LoopSettings
from magic_rl.learning.fluency import Fluency
from magic_rl.rng import derive, generator
from magic_rl.types import Episode, Exchange, Label, Outcome, Role

SCORED = 16  # replies measured per step


def sample_outcomes(arena: Arena, schedule: Schedule, number: int) -> list[Outcome]:
    """Play and judge one step's seeds; with dynamic sampling, more seeds until enough groups have signal (DAPO).

    Returns:
        The outcomes of everything played, those of a group side by side. Group numbers are unique within the step.
    """
    settings, learner = arena.settings, schedule.learner
    game, learning, count = settings.game, settings.learning, settings.batch_size[learner]
    plain_share = game.plain_share if learner == "defender" else 0.0
    rules = GameRules(learner, game.turns, learning.group_size, plain_share)
    outcomes: list[Outcome] = []
    for draw in range(1 + learning.dynamic_sampling):
        opponents = arena.opponents.draw(schedule, count, number, draw) if arena.opponents else ()
        with asked_early(arena.judge) as label:
            episodes = play(
                draw_seeds(arena.seeds, count, generator(settings.rng_seed, number, "seeds", draw)),
                Players(arena.attacker, arena.defender, opponents),
                rules,
                Draws(settings.rng_seed, number, draw),
                label and (lambda over, label=label: label(_exchanges(over))),
            )
        numbered = [replace(episode, group=episode.group + draw * count) for episode in episodes]
        outcomes += judge_episodes(numbered, arena.judge, settings)
        if len(_with_signal(outcomes, learner)) >= count:
            break
    return outcomes


def judge_episodes(episodes: Sequence[Episode], judge: Judge, settings: LoopSettings) -> list[Outcome]:
    """Verdict and rewards of each episode; cut-off and unjudged ones are masked (METHOD §4).

    Raises:
        TooManyAbstentionsError: If the judge abstains too often.
        TooManyCutOffError: If more than `learning.max_cut_off` of the episodes are cut off.
    """
    _check_cut_off(episodes, settings)
    asked = _exchanges(episodes)
    verdicts = iter(ask(judge, asked, retries=settings.retries, max_abstained=settings.max_abstained))
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
        thought = all(turn.reply_well_formed for turn in episode.turns) if settings.game.defender_thinks else None
        form = ReplyForm(thought, len(spoken.tokens) if spoken else 0)
        rewards = score(verdict, episode.seed.label, well_formed, settings.game.rewards, form)
        out.append(Outcome(episode, verdict, rewards))
    return out


def _exchanges(episodes: Sequence[Episode]) -> list[Exchange]:
    """What the judge sees: every episode that was not cut off."""
    return [Exchange(each.seed, each.attack, each.reply) for each in episodes if each.cut_off is None]


def _check_cut_off(episodes: Sequence[Episode], settings: LoopSettings) -> None:
    """Stop before a judge is asked: cut-off episodes are masked, and a step with no others teaches nothing."""
    cut = Counter(episode.limit_reached for episode in episodes if episode.limit_reached)
    if exceeds(cut.total(), len(episodes), settings.learning.max_cut_off):
        (role, limit), _ = cut.most_common(1)[0]
        raise TooManyCutOffError(
            f"{cut.total()} of {len(episodes)} episodes were cut off, more than max_cut_off "
            f"({settings.learning.max_cut_off:.0%}) allows, most by the {role}'s {limit}",
            "raise limit",
            role=role,
            limit=limit,
        )


def measure_fluency(outcomes: Sequence[Outcome], arena: Arena, number: int) -> Fluency:
    """Whether a sample of the step's replies to first attacks is still language.

    The yardstick comes from replies to plain seeds. But an attack may ask for something that no plain seed does, such
    as one word over and over. So if more than an eighth looks degenerate, the untouched model answers the same attacks
    and its replies become the yardstick.

    Raises:
        DegenerateError: If more than `learning.max_degenerate` of them are degenerate.
    """
    # First turns only: later prompts hold replies of this defender, and the untouched model would continue their style.
    first = [outcome.episode.turns[0].reply_sample for outcome in outcomes]
    samples = evenly([sample for sample in first if sample and sample.tokens], SCORED)
    if arena.yardstick is None:
        return Fluency()
    sampling = arena.defender.sampling
    policy = None if (sampling.temperature, sampling.top_p) == (1.0, 1.0) else arena.defender.policy
    found = arena.yardstick.measure(samples, policy)
    if sum(found.degenerate) > len(found.degenerate) / 8:
        draw = derive(arena.settings.rng_seed, number, "yardstick")
        found = arena.yardstick.to_same([sample.prompt for sample in samples], sampling, draw).measure(samples, policy)
    count, n, allowed = sum(found.degenerate), len(found.degenerate), arena.settings.learning.max_degenerate
    if count > max(1, allowed * n):  # not `exceeds`: with fewer than 20 it would never stop below one half
        raise DegenerateError(
            f"defender: {count} of {n} replies are no longer language (log-probability per token under the untouched "
            f"model {found.logprob:.1f}, distinct trigrams {found.distinct:.0%}); max_degenerate allows "
            f"{allowed:.0%}",
            "smaller step size",
            role="defender",
        )
    return found


def choose_groups(outcomes: Sequence[Outcome], learner: Role, count: int) -> list[Outcome]:
    """The groups to learn from: the first `count` that have signal, filled up with others if there are fewer."""
    groups = list(dict.fromkeys(outcome.episode.group for outcome in outcomes))
    signal = _with_signal(outcomes, learner)
    chosen = set([*signal, *(group for group in groups if group not in set(signal))][:count])
    return [outcome for outcome in outcomes if outcome.episode.group in chosen]


def advantages_of(
    outcomes: Sequence[Outcome], settings: LoopSettings, learner: Role, weights: Mapping[Label, float] | None = None
) -> list[float | None]:
    """The learner's advantage in each episode; None where masked.

    Args:
        weights: Factors by the request's label, from the operating point; None weights all alike.
    """
    learning = settings.learning
    labels = [_label(outcome, settings, learner) for outcome in outcomes]
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


def _with_signal(outcomes: Sequence[Outcome], learner: Role) -> list[int]:
    return groups_with_signal([_reward(o, learner) for o in outcomes], [o.episode.group for o in outcomes])


def _reward(outcome: Outcome, learner: Role) -> float | None:
    if outcome.rewards is None:
        return None
    return outcome.rewards.defender if learner == "defender" else outcome.rewards.attacker


def _label(outcome: Outcome, settings: LoopSettings, learner: Role) -> Label:
    """The label of the learner's input: for an attacker the seed's, for a defender that of the request it answers."""
    seed = outcome.episode.seed.label
    if learner == "attacker" or outcome.masked or outcome.verdict is None:
        return seed
    return request_label(outcome.verdict, seed, settings.game.rewards)
