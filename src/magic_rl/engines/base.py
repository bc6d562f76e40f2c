"""The seam between the game and where weights live. Shaped like the Tinker API: batches in, batches out.

One frozen base model carries any number of policies, each a named LoRA adapter. Nothing above this
file knows whether a policy is a table, an adapter in this process or a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from magic_rl.text.renderer import Renderer
from magic_rl.types import Adam, Datum, Loss, Sample, SamplingParams, Tokens


class Policy(Protocol):
    """A set of trainable (or frozen) parameters on an engine's base model."""

    @property
    def name(self) -> str:
        """Name of the adapter."""
        ...

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, seed: int) -> list[list[Sample]]:
        """Draw `n` samples for each of P prompts.

        Row `p * n + i` of the random stream depends on `(seed, p * n + i)` alone.

        Returns:
            P lists of n samples.
        """
        ...

    def logprobs(self, sequences: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, ...]]:
        """Log-probability in nats of each completion token of (prompt, completion) pairs, at temperature 1."""
        ...

    def forward_backward(self, datums: Sequence[Datum], loss: Loss) -> Mapping[str, float]:
        """Add the gradient of Σ weight · loss to the accumulated gradient.

        Returns:
            Metrics, at least `loss`.
        """
        ...

    def optim_step(self, adam: Adam) -> Mapping[str, float]:
        """Apply the accumulated gradient and clear it.

        Returns:
            Metrics, at least `grad_norm` (before clipping).
        """
        ...

    def save(self, directory: Path) -> None:
        """Write adapter and optimiser state, safetensors only, into an existing empty directory."""
        ...

    def snapshot(self, name: str) -> Policy:
        """A read-only copy, for opponents and evaluation."""
        ...


class Engine(Protocol):
    """Makes policies on one base model."""

    @property
    def renderer(self) -> Renderer:
        """Turns messages into this model's prompt ids and sampled ids back into text."""
        ...

    def renderer_with(self, variables: Mapping[str, object]) -> Renderer:
        """The renderer with variables for the model's chat template, such as `enable_thinking`."""
        ...

    def new_policy(self, name: str) -> Policy:
        """A fresh trainable policy that starts as the base model."""
        ...

    def load(self, directory: Path, name: str) -> Policy:
        """A trainable policy from what `Policy.save` wrote.

        Raises:
            UserError: If the folder holds no policy of this base model.
        """
        ...

    def base(self) -> Policy:
        """The base model itself, read-only: the reference."""
        ...
