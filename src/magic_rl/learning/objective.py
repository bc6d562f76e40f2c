"""Objectives as advantages: how much each token's log-probability should rise or fall.

At any point, an objective on the ratio ρ = π_θ/π_old has the gradient Σ weight · c · ∇log π_θ with one number c per
token. An engine that multiplies advantages by an importance ratio can therefore optimise all of them: it is given c as
the advantage, and the log-probabilities at that very point, where the ratio is 1. So clipping and the KL term need no
loss in the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from magic_rl.learning.settings import LearningConfig
from magic_rl.types import Datum

Tokenwise = Float[np.ndarray, " M"]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known about the M tokens of one completion; log-probabilities in nats."""

    current: Tokenwise  # log π_θ
    old: Tokenwise  # log π_old
    advantages: Tokenwise  # advantage of each token
    reference: Tokenwise | None = None  # log π_ref; None without a KL term


def coefficients(known: Known, learning: LearningConfig) -> tuple[Tokenwise, dict[str, float]]:
    """The gradient of the objective, which is maximised, with respect to each token's log-probability.

    `ppo` clips each token's ratio on the side its advantage pushes to (METHOD §3). `gspo` does so with one ratio per
    sequence, the geometric mean of the tokens' ratios (Zheng et al. 2025, arXiv:2507.18071). `cispo` caps the ratio and
    never drops a token (MiniMax 2025, arXiv:2506.13585). The KL term is β times the k3 estimate exp(d) - d - 1 with
    d = log π_ref - log π_θ; the estimate itself is differentiated, as in GRPO.

    Args:
        known: What is known about one completion.
        learning: Which objective, its clip range, and β.

    Returns:
        The coefficients, and metrics as sums over tokens: `ratio`, `clip_fraction`, `kl` with a KL term, `objective`.
    """
    gaps = known.current - known.old
    ratio = np.exp(np.full_like(gaps, gaps.mean()) if learning.objective == "gspo" else gaps)
    low, high = 1 - learning.clip_low, 1 + learning.clip_high
    if learning.objective == "cispo":
        clipped = kept = np.minimum(ratio, high)
        beyond = ratio > high
    else:
        clipped = np.clip(ratio, low, high)
        beyond = clipped * known.advantages < ratio * known.advantages
        kept = np.where(beyond, 0.0, ratio)
    found = kept * known.advantages
    value = np.where(beyond, clipped, ratio) * known.advantages
    metrics = {"ratio": float(ratio.sum()), "clip_fraction": float(beyond.sum())}
    if known.reference is not None:
        gap = known.reference - known.current
        divergence = np.exp(gap) - gap - 1
        found, value = found - learning.kl_coef * (1 - np.exp(gap)), value - learning.kl_coef * divergence
        metrics["kl"] = float(divergence.sum())
    return found, {**metrics, "objective": float(value.sum())}


def importance_sampling_datums(
    datums: Sequence[Datum],
    current: Sequence[tuple[float, ...]],
    references: Sequence[tuple[float, ...]],
    learning: LearningConfig,
) -> tuple[list[Datum], dict[str, float]]:
    """Datums with which an engine that only knows importance sampling learns by the objective.

    Args:
        datums: With advantages, and the log-probabilities under π_old.
        current: log π_θ of each datum's tokens, at the point where the gradient is taken.
        references: log π_ref of the same tokens; empty without a KL term.
        learning: The objective.

    Returns:
        Datums whose advantages are the coefficients, and metrics as means over tokens; `loss` is the negative
        weighted sum of the objective.
    """
    out, totals, loss = [], dict[str, float](), 0.0
    for i, datum in enumerate(datums):
        at = np.array(current[i])
        reference = np.array(references[i]) if references else None
        known = Known(at, np.array(datum.logprobs), np.array(datum.advantages), reference)
        found, metrics = coefficients(known, learning)
        out.append(replace(datum, advantages=tuple(found.tolist()), logprobs=current[i]))
        loss -= datum.weight * metrics.pop("objective")
        totals = {key: totals.get(key, 0.0) + value for key, value in metrics.items()}
    tokens = sum(len(datum.tokens) for datum in datums)
    return out, {"loss": loss, **{key: value / tokens for key, value in totals.items()}}
