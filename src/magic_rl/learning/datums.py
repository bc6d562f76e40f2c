"""Scored episodes become sequences to learn from: the very ids that were sampled, each with its advantage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from magic_rl.types import Datum, Outcome, Role


def build_datums(
    outcomes: Sequence[Outcome],
    advantages: Sequence[float | None],
    learner: Role,
    *,
    reduction: Literal["sequence", "token"] = "sequence",
    keep_zero: bool = False,
) -> list[Datum]:
    """Datums of the learner's samples in all unmasked episodes.

    The weights turn the summed loss into a mean over sequences of means over tokens ("sequence", GRPO) or a mean
    over all tokens of the step ("token", DAPO). Samples with advantage 0 have no gradient and are left out, but
    count in the mean.

    Args:
        keep_zero: Keep samples with advantage 0, because a KL term still has a gradient there.
    """
    samples = [
        (sample, advantage, outcome.episode.group)
        for outcome, advantage in zip(outcomes, advantages, strict=True)
        if advantage is not None and outcome.masked is None
        for turn in outcome.episode.turns
        if (sample := turn.attack_sample if learner == "attacker" else turn.reply_sample) is not None
    ]
    all_tokens = sum(len(sample.tokens) for sample, *_ in samples)
    return [
        Datum(
            prompt=sample.prompt,
            tokens=sample.tokens,
            weight=1 / (len(samples) * len(sample.tokens)) if reduction == "sequence" else 1 / all_tokens,
            advantages=(advantage,) * len(sample.tokens),
            logprobs=sample.logprobs,
            group=group,
        )
        for sample, advantage, group in samples
        if advantage or keep_zero
    ]


def minibatches(datums: Sequence[Datum], parts: int, rng: np.random.Generator) -> list[list[Datum]]:
    """Split a step's datums into `parts` with about equally many groups each, in random order, one update per part.

    A group stays whole, because its datums share their prompt. Weights are scaled so that each part's loss has the
    size of the whole step's.

    Returns:
        At most `parts` lists, none of them empty; for one part, the datums in their given order.
    """
    if parts == 1:
        return [list(datums)]
    groups = np.array(sorted({datum.group for datum in datums}))
    chosen = [set(part.tolist()) for part in np.array_split(rng.permutation(groups), parts) if len(part)]
    return [
        [replace(datum, weight=datum.weight * len(chosen)) for datum in datums if datum.group in part]
        for part in chosen
    ]
