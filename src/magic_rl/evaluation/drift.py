"""How the attacks of a run change from round to round: `drift.json`, and the numbers in it.

All rounds are measured on equally many attacks, because most of the numbers depend on how many there are.
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
_UNSEEN = 0.1  # an n-gram order without matches counts as so many


class RoundDrift(Document):
    """The attacks of one attacker."""

    n: int  # number of attacks measured
    self_bleu: float | None  # mean BLEU of each with all others as references, 0–1; lower is more diverse
    # Mean cosine distance to the nearest attack of the pool; None if it is not measured.
    distance: float | None = None
    classified: int = 0  # number of attacks that the model labelled with classes
    shares: dict[str, float] = Field({})  # share of these that shows each class; shares may add up to more than 1
    hybrids: Estimate | None = None  # share of these that shows two classes or more
    combinations: int | None = None  # number of different sets of classes
    new: Estimate | None = None  # share of these whose set of classes no attack of the first round showed


class Drift(Document):
    """`drift.json`."""

    step: int  # step of training after which it was measured
    rounds: dict[int, RoundDrift]  # by the attacker's round; 0 is the attacker that the game began with
    classifier: str | None = None  # the model that labelled classes; None if none was named
    agreement: dict[str, Estimate] = Field({})  # agreement of that model with people, on labelled examples
    embedder: str | None = None  # the model that measures distances; None if it is not installed


def self_bleu(texts: Sequence[str]) -> float | None:
    """BLEU-4 of each text with all others as references, averaged (Zhu et al. 2018, arXiv 1802.01886).

    An n-gram order above 1 without a match counts as a tenth of a match (method 1 of Chen and Cherry 2014), because
    texts may be short.

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
) -> RoundDrift:
    """The numbers of one round.

    Args:
        attacks: Attacks of its attacker.
        classes: The classes that each attack shows; None where the model gave none. Empty if no model was asked.
        first: The same for the first round's attacks.
        distance: See `RoundDrift`.
    """
    known = [each for each in classes if each is not None]
    if not known:
        return RoundDrift(n=len(attacks), self_bleu=self_bleu(attacks), distance=distance)
    counts = Counter(name for each in known for name in each)
    before = {each for each in first if each is not None}
    return RoundDrift(
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
    """How well a model's classes agree with people's.

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
