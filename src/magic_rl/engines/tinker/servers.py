"""What each kind of server does otherwise than the Tinker API says, as data: read in the sources of the servers.

Where a departure can be made up for, `payload` does so; what cannot is refused by the name of its setting, or said
once where the setting is at its default.
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
    # LoRA alpha of every adapter, as the API has no word for it; None: a multiple of the rank that is set where the
    # server is started.
    alpha: float | None = 32.0
    # Fields of `Adam` that it ignores, each with what holds instead.
    ignores: Mapping[str, str] = field(default_factory=dict)
    averages: bool = False  # whether a sequence's loss is divided by its tokens, and an update by its sequences
    unloads: bool = True  # whether a model can be unloaded, as adapters have a limited number of places


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
    """A sequence as a server is sent it."""

    loss: str  # name of the loss at the server
    config: dict[str, float] | None  # its settings
    inputs: list[int]  # ids the model reads
    tensors: dict[str, list[Any]]  # values for each of these ids, by name


def payload(datum: Datum, loss: Loss, server: Server, count: int) -> Payload:
    """A datum in the words of the API, such that the server adds the gradient of weight · Σ loss.

    The API's losses are sums over tokens. Weights are in the advantages, which scale a clipped objective as well.
    A server that divides by T tokens and `count` sequences is sent that much more. Its cross-entropy divides by the
    sum of the weights, so there the loss is CISPO with a ratio that is clipped to 1, whose gradient is the same.

    Args:
        datum: With a prompt of at least one id, as nothing predicts the first id.
        loss: Which loss.
        server: What it does otherwise.
        count: Datums of the whole update.
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
