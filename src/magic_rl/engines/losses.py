"""The losses, as pure functions of per-token tensors, and the step that follows them.

A loss is given per token; the caller multiplies by each sequence's weight and sums, so how a batch was cut
into passes changes nothing (see `types.Datum.weight`). All tensors are flat, one entry for each of M tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from magic_rl.types import Adam, CrossEntropy, Datum, ImportanceSampling, Loss

PerToken = Float[Tensor, " M"]
Scalar = Float[Tensor, ""]


def token_losses(
    loss: Loss, logprobs: PerToken, *, old: PerToken | None, advantages: PerToken | None
) -> tuple[PerToken, dict[str, Scalar]]:
    """Per-token loss to minimise.

    Args:
        loss: Which loss, and its settings.
        logprobs: log π_θ of the tokens, in nats; carries the gradient.
        old: log π_old; needed by all but cross-entropy.
        advantages: A of each token; needed likewise.

    Returns:
        The loss, and metrics as means over tokens, without gradient: `ratio`, and for PPO `clip_fraction`.

    Raises:
        ValueError: If a tensor that the loss needs is missing.
    """
    if isinstance(loss, CrossEntropy):
        return -logprobs, {}
    if old is None or advantages is None:
        raise ValueError("the loss needs advantages and the log-probabilities the tokens were sampled with")
    ratio = (logprobs - old).exp()
    if isinstance(loss, ImportanceSampling):
        return -ratio * advantages, {"ratio": ratio.detach().mean()}
    clipped = ratio.clamp(1 - loss.clip_low, 1 + loss.clip_high)
    surrogate = (ratio * advantages).minimum(clipped * advantages)
    return -surrogate, {
        "ratio": ratio.detach().mean(),
        # Only these tokens get no gradient: their ratio is out of the range, on the side the advantage pushes to.
        "clip_fraction": (clipped * advantages < ratio * advantages).float().mean(),
    }


def weighted_loss(loss: Loss, datums: Sequence[Datum], logprobs: PerToken) -> tuple[Scalar, dict[str, float]]:
    """Σ weight · loss over the tokens of datums; and metrics: its value as `loss`, and those of `token_losses`.

    Args:
        loss: Which loss.
        datums: Sequences, with what the loss needs.
        logprobs: log π_θ of all their tokens, one datum after the other.

    Raises:
        ValueError: If some datums lack what the loss needs.
    """

    def flat(rows: Iterable[Sequence[float]]) -> PerToken | None:
        values = [value for row in rows for value in row]
        if values and len(values) != len(logprobs):
            raise ValueError(f"{len(values)} per-token values for {len(logprobs)} tokens")
        return logprobs.new_tensor(values) if values else None

    old, advantages = flat(datum.logprobs for datum in datums), flat(datum.advantages for datum in datums)
    per_token, metrics = token_losses(loss, logprobs, old=old, advantages=advantages)
    weights = [datum.weight for datum in datums for _ in datum.tokens]
    total = (per_token * logprobs.new_tensor(weights)).sum()
    return total, {"loss": total.item(), **{key: value.item() for key, value in metrics.items()}}


def take_step(optimiser: torch.optim.Optimizer, parameters: Iterable[Tensor], adam: Adam) -> dict[str, float]:
    """Clip the gradients, take one step and clear them. Returns: `grad_norm`, the norm before clipping."""
    norm = nn.utils.clip_grad_norm_(parameters, adam.max_grad_norm)
    for group in optimiser.param_groups:
        group.update(lr=adam.lr, betas=(adam.beta1, adam.beta2), eps=adam.eps, weight_decay=adam.weight_decay)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return {"grad_norm": norm.item()}
