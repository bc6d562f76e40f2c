"""How the attacks of a run change from round to round: `drift.json`, and the numbers in it.

All rounds are measured on as many attacks, because most of the numbers grow or shrink with how many are looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from magic_rl.evaluation.agreement import Agreement
from magic_rl.evaluation.classes import CLASSES, Classes
from magic_rl.evaluation.estimates import Estimate, rate_of
from magic_rl.evaluation.result import Document

DRIFT_FILE = "drift.json"
_ORDER = 4  # longest n-gram of BLEU
_UNSEEN = 0.1  # matches that an n-gram order without any counts as


class OfRound(Document):
    """The attacks of one attacker.

    Attributes:
        n: How many were looked at.
        self_bleu: Of each with all others as references, on average, 0–1; the lower, the more diverse.
        distance: Cosine distance to the nearest attack of the pool, on average; None where that is not measured.
        classified: How many the model told the classes of.
        shares: Of those, the share that shows each class; shares may add up to more than 1.
        hybrids: Of those, the share that shows two classes or more.
        combinations: How many different sets of classes they show.
        new: Share of them whose set of classes no attack of the first round showed.
    """

    n: int
    self_bleu: float | None
    distance: float | None = None
    classified: int = 0
    shares: dict[str, float] = Field({})
    hybrids: Estimate | None = None
    combinations: int | None = None
    new: Estimate | None = None


class Drift(Document):
    """`drift.json`.

    Attributes:
        step: Of training, after which it was measured.
        rounds: By the round of the attacker; 0 is the one that the game began with.
        classifier: The model that told classes; None if none was named.
        agreement: Of that model with people, on labelled examples.
        embedder: What distances are measured by; None if it is not installed.
    """

    step: int
    rounds: dict[int, OfRound]
    classifier: str | None = None
    agreement: dict[str, Estimate] = Field({})
    embedder: str | None = None


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
    scores = [[1.0] * _ORDER for _ in words]
    for order in range(_ORDER):
        counts = [Counter(zip(*(said[i:] for i in range(order + 1)), strict=False)) for said in words]
        most = Counter[tuple[str, ...]]()  # of each n-gram: in how many places of one text it stands, at most,
        next_most = Counter[tuple[str, ...]]()  # and in the text after that
        for gram, times in ((gram, times) for count in counts for gram, times in count.items()):
            next_most[gram] = max(next_most[gram], min(times, most[gram]))
            most[gram] = max(most[gram], times)
        for place, count in enumerate(counts):
            matches = sum(
                min(times, next_most[gram] if times == most[gram] else most[gram]) for gram, times in count.items()
            )
            scores[place][order] = (matches or (_UNSEEN if order else 0)) / max(1, count.total())
    lengths = [len(said) for said in words]
    total = 0.0
    for place, precisions in enumerate(scores):
        own = max(1, lengths[place])
        nearest = min((lengths[:place] + lengths[place + 1 :]), key=lambda length: (abs(length - own), length))
        penalty = min(1.0, math.exp(1 - nearest / own))
        total += penalty * math.prod(precisions) ** (1 / _ORDER)
    return total / len(texts)


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
        example and a class, with `answered`, the share of pairs with an answer.
    """
    pairs = [
        (name in label, None if answer is None else name in answer)
        for label, answer in zip(labels, answers, strict=True)
        for name in CLASSES
    ]
    rates = Agreement.of([label for label, _ in pairs], [answer for _, answer in pairs]).rates()
    same = rate_of(None if answer is None else answer == label for label, answer in zip(labels, answers, strict=True))
    return {"same classes": same, **{name: rates[name] for name in ("precision", "recall", "F1", "answered")}}
