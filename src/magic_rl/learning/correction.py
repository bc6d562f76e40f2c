"""Corrections for samples that another program drew, and how far its log-probabilities differ from the learner's.

The same weights give slightly different log-probabilities in a sampling server and in the engine that learns. By the
ratio w = π_learner/π_sampler of each token, advantages are weighted or tokens masked. That works on any engine, because
advantages are per token. Samples that are a step behind are corrected by the same ratio (the decoupled objective of
Hilton et al. 2022, "Batch size-invariance for policy optimization"). Names follow TRL and verl, defaults verl ("rollout
correction").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from magic_rl.learning.settings import Correction
from magic_rl.types import Datum

Tokenwise = Float[np.ndarray, " M"]

LIMITS: dict[Correction, tuple[float, float]] = {
    "token_truncate": (0.0, 2.0),
    "token_mask": (0.5, 2.0),
    "sequence_mask": (0.5, 2.0),
    "geometric_mask": (0.999, 1.001),
}


def weights(gaps: Tokenwise, kind: Correction, limits: tuple[float, float]) -> Tokenwise:
    """Factor of each token's advantage.

    Truncated importance weights are min(w, high) (Yao et al. 2025, "Your efficient RL framework secretly brings you
    off-policy training"). Masks give weight 0 to a token or sequence whose ratio lies outside the limits; inside, a
    token's weight is its ratio, and that of all tokens of a sequence the product of its ratios (TRL's `*_mask`). The
    geometric mask compares the geometric mean of the token ratios, which does not depend on length, with the limits,
    and inside leaves the weight at 1 (verl).

    Args:
        gaps: log π_learner - log π_sampler of one sequence's tokens, in nats.
        kind: Which correction.
        limits: Smallest and largest ratio.
    """
    low, high = limits
    if kind == "none":
        return np.ones_like(gaps)
    if kind == "token_truncate":
        return np.asarray(np.clip(np.exp(gaps), low, high))
    if kind == "token_mask":
        ratio = np.exp(gaps)
    else:
        with np.errstate(over="ignore"):  # a product of many ratios; infinity is outside any limit
            ratio = np.exp(np.full_like(gaps, gaps.sum() if kind == "sequence_mask" else gaps.mean()))
    inside = (ratio >= low) & (ratio <= high)
    return np.where(inside, 1.0 if kind == "geometric_mask" else ratio, 0.0)


def correct(
    datums: Sequence[Datum],
    rescored: Sequence[tuple[float, ...]],
    kind: Correction,
    limits: tuple[float, float] | None = None,
) -> tuple[list[Datum], dict[str, float]]:
    """Replace the sampler's log-probabilities by the learner's, and weight the advantages by the ratio.

    Args:
        datums: As sampled.
        rescored: log π of the same tokens by the engine that learns, with its current weights. The samples were drawn
            with the same weights, or with those of one step before.
        kind: Which correction; "none" only measures.
        limits: Smallest and largest ratio; by default the correction's own in `LIMITS`.

    Returns:
        Datums to learn from, and how far sampler and learner differ: `mismatch`, the mean absolute difference of
        log-probabilities in nats; `mismatch_outside`, the share of tokens whose ratio is outside [0.9, 1.1];
        `effective_samples`, (Σw)² / (n Σw²) over tokens, 1 if all weights are equal.
    """
    gaps = [np.array(new) - np.array(datum.logprobs) for datum, new in zip(datums, rescored, strict=True)]
    found = [weights(gap, kind, limits or LIMITS.get(kind, (0.0, 1.0))) for gap in gaps]
    out = [
        replace(datum, advantages=tuple((np.array(datum.advantages) * weight).tolist()), logprobs=new)
        for datum, new, weight in zip(datums, rescored, found, strict=True)
    ]
    gap, weight = np.concatenate(gaps), np.concatenate(found)
    outside = np.abs(np.expm1(gap)) > 0.1
    total = float((weight**2).sum())
    return out, {
        "mismatch": float(np.abs(gap).mean()),
        "mismatch_outside": float(outside.mean()),
        "effective_samples": float(weight.sum()) ** 2 / (len(weight) * total) if total else 0.0,
    }
