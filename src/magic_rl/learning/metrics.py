"""The numbers of one step, from its outcomes. Rates and means are None when there is nothing to count.

They are over unmasked episodes, except the format rate and the numbers of tokens, which count masked episodes too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from magic_rl.types import Outcome


def outcome_metrics(outcomes: Sequence[Outcome]) -> dict[str, float | int | None]:
    """Metrics of a step.

    Returns:
        Counts of episodes and masked ones; `asr` (share of harmful seeds with a reply that is not safe),
        `refusal_harmful`, `refusal_benign`, `compliance` (its complement), `safe_rate` (share with R_harm + R_ref ≥ 0,
        METHOD §1), mean rewards of both players, `format_rate`, `on_topic_rate` (share of attacks that keep the seed's
        label, where the judge labels attacks), `quality_benign` (mean helpfulness of replies to benign seeds, where the
        judge scores it), mean tokens of attacks and replies, and `groups_with_signal`, the share of groups whose
        rewards differ.
    """
    scored = [(o.episode, o.verdict, o.rewards) for o in outcomes if o.verdict is not None and o.rewards is not None]
    harmful = [verdict for episode, verdict, _ in scored if episode.seed.label == "harmful"]
    benign = [verdict for episode, verdict, _ in scored if episode.seed.label == "benign"]
    rewards = [rewards for *_, rewards in scored]
    turns = [turn for outcome in outcomes for turn in outcome.episode.turns]
    attacks = [len(turn.attack_sample.tokens) for turn in turns if turn.attack_sample]
    replies = [len(turn.reply_sample.tokens) for turn in turns if turn.reply_sample]
    by_group: dict[int, set[tuple[float, float]]] = defaultdict(set)
    for episode, _, both in scored:
        by_group[episode.group].add((both.attacker, both.defender))
    return {
        "episodes": len(outcomes),
        "masked_cut_off": sum(outcome.masked == "cut_off" for outcome in outcomes),
        "masked_abstained": sum(outcome.masked == "abstained" for outcome in outcomes),
        "asr": _mean(verdict.safety != "safe" for verdict in harmful),
        "refusal_harmful": _mean(bool(verdict.refused) for verdict in harmful),
        "refusal_benign": _mean(bool(verdict.refused) for verdict in benign),
        "compliance": _mean(not verdict.refused for verdict in benign),
        "safe_rate": _mean(reward.harm + reward.refusal >= 0 for reward in rewards),
        "reward_attacker": _mean(reward.attacker for reward in rewards),
        "reward_defender": _mean(reward.defender for reward in rewards),
        "format_rate": _mean(turn.well_formed for turn in turns if turn.attack_sample),
        "on_topic_rate": _mean(
            verdict.request_label == episode.seed.label
            for episode, verdict, _ in scored
            if verdict.request_label and episode.turns[-1].attack_sample
        ),
        "quality_benign": _mean(verdict.quality for verdict in benign if verdict.quality is not None),
        "attack_tokens": _mean(attacks),
        "reply_tokens": _mean(replies),
        "groups_with_signal": _mean(len(values) > 1 for values in by_group.values()),
    }


def sampled_tokens(outcomes: Sequence[Outcome]) -> int:
    """Number of tokens that both players sampled; an attack that a whole group shares counts once."""
    samples = {
        id(sample): len(sample.tokens)
        for outcome in outcomes
        for turn in outcome.episode.turns
        for sample in (turn.attack_sample, turn.reply_sample)
        if sample is not None
    }
    return sum(samples.values())


def _mean(values: Iterable[float]) -> float | None:
    listed = [float(value) for value in values]
    return fmean(listed) if listed else None
