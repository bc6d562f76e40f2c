"""The losses, as pure functions of per-token tensors.

A loss is given per token; the caller multiplies by each sequence's weight and sums, so how a batch was cut
into passes changes nothing (see `types.Datum.weight`). All tensors are flat, one entry for each of M tokens.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from magic_rl.types import PPO, CrossEntropy, ImportanceSampling, Loss

PerToken = Float[Tensor, " M"]
Scalar = Float[Tensor, ""]


def token_losses(
    loss: Loss, logprobs: PerToken, *, old: PerToken | None, advantages: PerToken, reference: PerToken | None
) -> tuple[PerToken, dict[str, Scalar]]:
    """Per-token loss to minimise.

    Args:
        loss: Which loss, and its settings.
        logprobs: log π_θ of the tokens, in nats; carries the gradient.
        old: log π_old; needed by all but cross-entropy.
        advantages: A_i of each token's sequence.
        reference: log π_ref; needed when the KL weight is not 0.

    Returns:
        The loss, and metrics as means over tokens, without gradient: `ratio`; for PPO `clip_fraction`, and `kl` when
        its weight is not 0.

    Raises:
        ValueError: If a tensor that the loss needs is missing.
    """
    if isinstance(loss, CrossEntropy):
        return -logprobs, {}
    if old is None:
        raise ValueError("the loss needs the log-probabilities the tokens were sampled with")
    ratio = (logprobs - old).exp()
    if isinstance(loss, ImportanceSampling):
        return -ratio * advantages, {"ratio": ratio.detach().mean()}
    return _ppo(loss, logprobs, ratio, advantages, reference)


def _ppo(
    loss: PPO, logprobs: PerToken, ratio: PerToken, advantages: PerToken, reference: PerToken | None
) -> tuple[PerToken, dict[str, Scalar]]:
    """Clipped surrogate (METHOD §3), plus β times the k3 estimate of KL(π_θ ‖ π_ref): exp(d) - d - 1, d = ref - new.

    As in GRPO, the estimate itself is differentiated. Its value is unbiased on-policy; its gradient, 1 - exp(d) a
    token, is on average the one of KL(π_ref ‖ π_θ), which has the same minimum.
    """
    clipped = ratio.clamp(1 - loss.clip_low, 1 + loss.clip_high)
    surrogate = (ratio * advantages).minimum(clipped * advantages)
    metrics = {
        "ratio": ratio.detach().mean(),
        # Only these tokens lose their gradient: outside the trust region on the side the advantage pushes to.
        "clip_fraction": (clipped * advantages < ratio * advantages).float().mean(),
    }
    if not loss.kl:
        return -surrogate, metrics
    if reference is None:
        raise ValueError("a KL term needs the reference's log-probabilities")
    gap = reference - logprobs
    divergence = gap.exp() - gap - 1
    return -surrogate + loss.kl * divergence, {**metrics, "kl": divergence.detach().mean()}
