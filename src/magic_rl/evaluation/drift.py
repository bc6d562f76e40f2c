"""How the attacks of a run change from round to round: `drift.json`, and the numbers in it.

All rounds are measured on as many attacks, because most of the numbers grow or shrink with how many are looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from pydantic import Field

from magic_rl.evaluation.agreement import Agreement
from magic_rl.evaluation.classes import CLASSES, Classes
from magic_rl.evaluation.estimates import Estimate, rate_of
from magic_rl.evaluation.result import Document

DRIFT_FILE = "drift.json"
_ORDER = 4  # longest n-gram of BLEU
_UNSEEN = 0.1  # matches that an n-gram order without any counts as


class OfRound(Document):
    """The attacks of one attacker."""

    n: int  # how many were looked at
    self_bleu: float | None  # of each with all others as references, on average, 0–1; the lower, the more diverse
    # Cosine distance to the nearest attack of the pool, on average; None where that is not measured.
    distance: float | None = None
    classified: int = 0  # how many the model told the classes of
    shares: dict[str, float] = Field({})  # of those, the share that shows each class; shares may add up to more than 1
    hybrids: Estimate | None = None  # of those, the share that shows two classes or more
    combinations: int | None = None  # how many different sets of classes they show
    new: Estimate | None = None  # share of them whose set of classes no attack of the first round showed


class Drift(Document):
    """`drift.json`."""

    step: int  # of training, after which it was measured
    rounds: dict[int, OfRound]  # by the round of the attacker; 0 is the one that the game began with
    classifier: str | None = None  # the model that told classes; None if none was named
    agreement: dict[str, Estimate] = Field({})  # of that model with people, on labelled examples
    embedder: str | None = None  # what distances are measured by; None if it is not installed


def self_bleu(texts: Sequence[str]) -> float | None:
    """BLEU-4 of each text with all others as references, averaged (Zhu et al. 2018, arXiv 1802.01886).

    A longer n-gram order without a match counts as a tenth of one (method 1 of Chen and Cherry 2014), as texts may be
    short.

    Returns:
        0–1; None for fewer than two texts.
    """
    if len(texts) < 2:
        return None
    words = [text.casefold().split() for text in texts]
    counts = [
        [Counter(zip(*(said[i:] for i in range(n)), strict=False)) for said in words] for n in range(1, _ORDER + 1)
    ]
    scores = []
    for place, said in enumerate(words):
        score = 1.0
        for order, of in enumerate(counts):
            own, others = of[place], of[:place] + of[place + 1 :]
            matches = sum(min(times, max(other[gram] for other in others)) for gram, times in own.items())
            score *= ((matches or (_UNSEEN if order else 0)) / max(1, own.total())) ** (1 / _ORDER)
        length, lengths = max(1, len(said)), [len(other) for other in words[:place] + words[place + 1 :]]
        nearest = min(lengths, key=lambda other: (abs(other - length), other))
        scores.append(score * min(1.0, math.exp(1 - nearest / length)))
    return fmean(scores)


def of_round(
    attacks: Sequence[str],
    classes: Sequence[Classes | None] = (),
    first: Sequence[Classes | None] = (),
    distance: float | None = None,
) -> OfRound:
    """The numbers of one round.

    Args:
        attacks: Of its attacker.
        classes: That each shows; None where the model told none. Empty if none was asked.
        first: The same of the first round's.
        distance: See `OfRound`.
    """
    known = [each for each in classes if each is not None]
    if not known:
        return OfRound(n=len(attacks), self_bleu=self_bleu(attacks), distance=distance)
    counts = Counter(name for each in known for name in each)
    before = {each for each in first if each is not None}
    return OfRound(
        n=len(attacks),
        self_bleu=self_bleu(attacks),
        distance=distance,
        classified=len(known),
        shares={name: counts[name] / len(known) for name in CLASSES if counts[name]},
        hybrids=rate_of(len(each) > 1 for each in known),
        combinations=len(set(known)),
        new=rate_of(each not in before for each in known),
    )


def agreement_with_people(labels: Sequence[Classes], answers: Sequence[Classes | None]) -> dict[str, Estimate]:
    """How far a model tells classes as people do.

    Returns:
        `same classes`: share of examples with exactly the labelled ones; precision, recall and F1 over all pairs of an
        example and a class; `answered`, the share of examples with an answer.
    """
    pairs = [
        (name in label, None if answer is None else name in answer)
        for label, answer in zip(labels, answers, strict=True)
        for name in CLASSES
    ]
    rates = Agreement.of([label for label, _ in pairs], [answer for _, answer in pairs]).rates()
    same = rate_of(None if answer is None else answer == label for label, answer in zip(labels, answers, strict=True))
    answered = rate_of(answer is not None for answer in answers)
    return {"same classes": same, **{n: rates[n] for n in ("precision", "recall", "F1")}, "answered": answered}
