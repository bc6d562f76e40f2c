"""How well a judge agrees with people, or two judges with each other.

Pure counting: labels and answers in, numbers with 95 % intervals out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from magic_rl.evaluation.estimates import NORMAL, Estimate, rate, rate_of
from magic_rl.evaluation.result import Kappa
from magic_rl.judges.panel import Votes

_LABELS: tuple[Literal["safety", "refused"], ...] = ("safety", "refused")


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge's answers to a yes-no question against people's labels."""

    both: int  # yes by the label and by the judge
    only_judge: int  # yes by the judge alone (false positives)
    only_label: int  # yes by the label alone (false negatives)
    neither: int  # no by both
    abstained: int  # items without an answer of the judge; only the rate `answered` counts them

    @classmethod
    def of(cls, labels: Sequence[bool], answers: Sequence[bool | None]) -> Agreement:
        """Count how answers agree with labels.

        Args:
            labels: People's labels, one per item.
            answers: The judge's answers for the same items in the same order; None where it abstains.

        Raises:
            ValueError: If the two differ in length.
        """
        pairs = Counter(zip(labels, answers, strict=True))
        abstained = pairs[True, None] + pairs[False, None]
        return cls(pairs[True, True], pairs[False, True], pairs[True, False], pairs[False, False], abstained)

    @property
    def opposite(self) -> Agreement:
        """The same counts for the opposite question: whether a reply answers, if this is whether it refuses."""
        return Agreement(self.neither, self.only_label, self.only_judge, self.both, self.abstained)

    def rates(self) -> dict[str, Estimate]:
        """Accuracy, precision, recall, F1, and the share of items with an answer.

        F1, the harmonic mean of precision and recall, is 2J / (1 + J) with the share J = both / (both + only_judge +
        only_label). It increases with J, so Wilson's bounds of J give bounds of F1 that are deterministic and never
        outside [0, 1].
        """
        n = self.both + self.only_judge + self.only_label + self.neither
        shared = rate(self.both, self.both + self.only_judge + self.only_label)
        f1, low, high = (2 * share / (1 + share) for share in (shared.value, shared.low, shared.high))
        return {
            "accuracy": rate(self.both + self.neither, n),
            "precision": rate(self.both, self.both + self.only_judge),
            "recall": rate(self.both, self.both + self.only_label),
            "F1": Estimate(f1, low, high, n),
            "answered": rate(n, n + self.abstained),
        }


def corrected(observed: Estimate, size: float, measured: Agreement) -> Estimate:
    """The true rate of yes, from the observed rate of a judge whose error was measured.

    The value is Rogan and Gladen's (1978, Am. J. Epidemiology 107:71–76): (p + specificity − 1) / (sensitivity +
    specificity − 1), clipped to [0, 1]. The interval is Lang and Reiczigel's (2014, Preventive Veterinary Medicine
    113:13–22), which takes into account that sensitivity and specificity were themselves measured on a few items: it
    adds z² items to the rate, half of them yes, and a right and a wrong one to either side of the measurement.

    Args:
        observed: The rate p by the judge.
        size: Number of independent items that would tell as much about it; see `estimates.clustered_size`.
        measured: The judge against people, on items like those of the rate.

    Returns:
        The corrected rate; one with n = 0 if there is no rate, people's labels are all yes or all no, or the judge is
        no better than chance, so that its answers say nothing about the true rate.
    """
    yes, no = measured.both + measured.only_label, measured.neither + measured.only_judge
    if not (observed.n and yes and no):
        return rate(0, 0)
    youden = measured.both / yes + measured.neither / no - 1
    sensitivity, specificity = (measured.both + 1) / (yes + 2), (measured.neither + 1) / (no + 2)
    adjusted = sensitivity + specificity - 1
    if min(youden, adjusted) <= 0:
        return rate(0, 0)
    value = min(1.0, max(0.0, (observed.value + measured.neither / no - 1) / youden))

    more = size + NORMAL**2
    share = (size * observed.value + NORMAL**2 / 2) / more
    middle = (share + specificity - 1) / adjusted
    of_yes = sensitivity * (1 - sensitivity) / (yes + 2)
    of_no = specificity * (1 - specificity) / (no + 2)
    spread = math.sqrt(share * (1 - share) / more + middle**2 * of_yes + (1 - middle) ** 2 * of_no) / adjusted
    middle += 2 * NORMAL**2 * (middle * of_yes - (1 - middle) * of_no)
    low, high = middle - NORMAL * spread, middle + NORMAL * spread
    return Estimate(value, max(0.0, min(value, low)), min(1.0, max(value, high)), observed.n)


def cohens_kappa(one: Sequence[Hashable], other: Sequence[Hashable], seeds: Sequence[str] | None = None) -> Estimate:
    """Agreement of two raters beyond chance (Cohen 1960), in −1…1: (p_o − p_e) / (1 − p_e).

    The interval comes from Wilson's bounds of the observed agreement p_o, with the agreement by chance p_e held fixed;
    unlike the usual standard error it does not vanish if the raters agree on all of a few items.

    Args:
        one: A label per item.
        other: The other rater's labels of the same items in the same order.
        seeds: The seed of each item, if items share seeds; p_o is then clustered by seed.

    Returns:
        Kappa; 0 in [−1, 1] if it is not defined: no items, or both raters give the same label throughout.

    Raises:
        ValueError: If the two differ in length.
    """
    observed = rate_of((a == b for a, b in zip(one, other, strict=True)), seeds)
    n, left, right = observed.n, Counter(one), Counter(other)
    by_chance = sum(left[label] * right[label] for label in left)  # of n² pairs
    if by_chance == n * n:
        return Estimate(0.0, -1.0, 1.0, n)
    chance = by_chance / n**2
    value, low, high = ((share - chance) / (1 - chance) for share in (observed.value, observed.low, observed.high))
    return Estimate(value, max(-1.0, low), high, n)


def panel_agreement(votes: Sequence[Votes]) -> list[Kappa]:
    """How well the members of a panel agree, pair by pair and label by label, where both gave a verdict."""
    found = []
    for one, other in combinations(votes, 2):
        both = [
            (a, b)
            for a, b in zip(one.verdicts, other.verdicts, strict=True)
            if a.abstained is None and b.abstained is None
        ]
        for label in _LABELS:
            pairs = [(getattr(a, label), getattr(b, label)) for a, b in both]
            known = [pair for pair in pairs if None not in pair]
            kappa = cohens_kappa([a for a, _ in known], [b for _, b in known])
            found.append(Kappa(one=one.judge, other=other.judge, label=label, kappa=kappa))
    return found
