"""The losses, as pure functions of per-token tensors.

A loss is given per token; the caller multiplies by each sequence's weight and sums, so how a batch was cut
into passes changes nothing (see `types.Datum.weight`). All tensors are flat, one entry for each of M tokens.
"""

from __future__ import annotations

from torch import Tensor

from magic_rl.types import PPO, CrossEntropy, ImportanceSampling, Loss


def token_losses(
    loss: Loss, logprobs: Tensor, *, old: Tensor | None, advantages: Tensor, reference: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Per-token loss to minimise.

    Args:
        loss: Which loss, and its settings.
        logprobs: log π_θ of the tokens, in nats, shape (M,); carries the gradient.
        old: log π_old, shape (M,); needed by all but cross-entropy.
        advantages: A_i of each token's sequence, shape (M,).
        reference: log π_ref, shape (M,); needed when the KL weight is not 0.

    Returns:
        The loss, shape (M,), and metrics as means over tokens, without gradient: `ratio`; for PPO `clip_fraction`,
        and `kl` when its weight is not 0.

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
    loss: PPO, logprobs: Tensor, ratio: Tensor, advantages: Tensor, reference: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
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
