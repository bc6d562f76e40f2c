"""How each kind of server departs from the Tinker API, as data, taken from the servers' source code.

`payload` makes up for a departure if that is possible. If not, the setting it concerns is refused by name, or mentioned
once if it has its default value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from magic_rl.types import PPO, CrossEntropy, Datum, Loss


@dataclass(frozen=True, slots=True)
class Server:
    """One kind of server."""

    client: str  # versions of the client package that it works with, as pip writes them
    # LoRA alpha of every adapter, as the API has no field for it; None: a multiple of the rank that is set when the
    # server is started.
    alpha: float | None = 32.0
    # Fields of `Adam` that it ignores, each with what it does instead.
    ignores: Mapping[str, str] = field(default_factory=dict)
    averages: bool = False  # whether it divides a sequence's loss by its tokens, and an update by its sequences
    unloads: bool = True  # whether models can be unloaded to make room for others


_STARTED_WITH = "it takes its own, which must be set to the same where it is started"
_OF_SKYRL = dict.fromkeys(("beta1", "beta2", "eps", "weight_decay", "max_grad_norm"), _STARTED_WITH)

SERVERS: Mapping[str, Server] = {
    "tinker": Server("tinker>=0.26", unloads=False),
    "tuft": Server("tinker>=0.25,<0.26", alpha=None),
    "skyrl-jax": Server("tinker<=0.24.1", ignores={"max_grad_norm": "gradients are not clipped"}, averages=True),
    "skyrl-megatron": Server("tinker<=0.24.1", ignores=_OF_SKYRL),
    "skyrl-fsdp": Server("tinker<=0.24.1", ignores=_OF_SKYRL),
}


@dataclass(frozen=True, slots=True)
class Payload:
    """A sequence as it is sent to a server."""

    loss: str  # name of the loss on the server
    config: dict[str, float] | None  # its settings
    inputs: list[int]  # ids that the model reads
    tensors: dict[str, list[Any]]  # values for each of these ids, by name


def payload(datum: Datum, loss: Loss, server: Server, count: int) -> Payload:
    """A datum in the API's format, such that the server adds the gradient of weight · Σ loss.

    The API's losses are sums over tokens. Weights are part of the advantages, which scale a clipped objective as well.
    For a server that divides by T tokens and `count` sequences, they are multiplied by both. The cross-entropy of such
    a server divides by the sum of the weights, so CISPO with the ratio clipped to 1, which has the same gradient,
    replaces it.

    Args:
        datum: With a prompt of at least one id, as nothing predicts the first id.
        loss: Which loss.
        server: How the server departs from the API.
        count: Number of datums in the whole update.
    """
    ids = [*datum.prompt, *datum.tokens]
    lead = [0.0] * (len(datum.prompt) - 1)
    targets = ids[1:]
    tensors: dict[str, list[Any]] = {"target_tokens": targets}
    factor = datum.weight * (len(targets) * count if server.averages else 1)
    if isinstance(loss, CrossEntropy):
        weights = [*lead, *[factor] * len(datum.tokens)]
        if not server.averages:
            return Payload("cross_entropy", None, ids[:-1], {**tensors, "weights": weights})
        tensors |= {"advantages": weights, "logprobs": [0.0] * len(targets)}
        return Payload("cispo", {"clip_low_threshold": 1.0, "clip_high_threshold": 1.0}, ids[:-1], tensors)
    advantages = [*lead, *(advantage * factor for advantage in datum.advantages)]
    tensors |= {"advantages": advantages, "logprobs": [*lead, *datum.logprobs]}
    if not isinstance(loss, PPO):
        return Payload("importance_sampling", None, ids[:-1], tensors)
    limits = {"clip_low_threshold": 1 - loss.clip_low, "clip_high_threshold": 1 + loss.clip_high}
    return Payload("ppo", limits, ids[:-1], tensors)
