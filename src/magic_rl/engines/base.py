"""The seam between the game and where weights live. Shaped like the Tinker API: batches in, batches out.

One frozen base model carries any number of policies, each a named LoRA adapter. Nothing above this
file knows whether a policy is a table, an adapter in this process or one on a server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from magic_rl.text.renderer import Renderer
from magic_rl.types import Adam, Datum, Loss, Sample, SamplingParams, Tokens


@dataclass(frozen=True, slots=True)
class ComputePath:
    """How an engine computes log-probabilities, and how exactly.

    Attributes:
        kind: "shared": common beginnings of sequences are encoded once. "padded": each sequence has a row of its own in
            a padded batch. "equal lengths": the same, but only with sequences of equal length, as the model cannot be
            padded. "exact": a table. "remote": on a server, which `reason` names.
        reason: Why prompts are not shared, or which server computes; else "".
        parity: Distance of our log-probabilities from the model's own in a wider precision, in nats: the root mean
            square over tokens of chat text. NaN if unknown.
        own: The same distance for the model's own attention in the precision it runs in.
        sampler: What samples instead of the engine; "" if the engine does.
        processes: How many processes compute in parallel.
    """

    kind: Literal["shared", "padded", "equal lengths", "exact", "remote"]
    reason: str = ""
    parity: float = 0.0
    own: float = 0.0
    sampler: str = ""
    processes: int = 1

    @property
    def shares(self) -> bool:
        """Whether prompts are encoded once for all their completions."""
        return self.kind == "shared"

    def __str__(self) -> str:
        """One line for a log."""
        computed = f"{self._computed()}; in {self.processes} processes" if self.processes > 1 else self._computed()
        return f"{computed}; sampled by {self.sampler}" if self.sampler else computed

    def _computed(self) -> str:
        if self.kind == "exact":
            return "exact"
        if self.kind == "remote":
            return self.reason
        numbers = f"within {self.parity:.2g} nats of a wider precision; the model's own attention: {self.own:.2g}"
        if self.shares:
            return f"shared prompts ({numbers})"
        return (
            f"prompts are not shared, as {self.reason}. Learning encodes a prompt again for each of its samples: a "
            "smaller group or shorter prompts cost less; Llama, Qwen, Gemma and Mistral share them"
        )


class Policy(Protocol):
    """A set of trainable (or frozen) parameters on an engine's base model."""

    @property
    def name(self) -> str:
        """Name of the adapter."""

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        """Draw `n` samples for each of P prompts.

        Row `p * n + i` of the random stream depends on `(rng_seed, p * n + i)` alone.

        Returns:
            P lists of n samples.
        """

    def logprobs(self, sequences: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, ...]]:
        """Log-probability in nats of each completion token of (prompt, completion) pairs, at temperature 1."""

    def forward_backward(self, datums: Sequence[Datum], loss: Loss) -> Mapping[str, float]:
        """Add the gradient of Σ weight · loss to the accumulated gradient.

        Returns:
            Metrics, at least `loss`.
        """

    def optim_step(self, adam: Adam) -> Mapping[str, float]:
        """Apply the accumulated gradient and clear it.

        Returns:
            Metrics; `grad_norm`, before clipping, if it is known.
        """

    def save(self, directory: Path) -> None:
        """Write adapter and optimiser state, safetensors only, into an existing empty directory."""

    def snapshot(self, name: str) -> Policy:
        """A read-only copy, for opponents and evaluation."""


class Engine(Protocol):
    """Makes policies on one base model."""

    @property
    def path(self) -> ComputePath:
        """How it computes and how exactly."""

    @property
    def identity(self) -> str:
        """What distinguishes its base model from any other, also from the same one after more training."""

    @property
    def renderer(self) -> Renderer:
        """Turns messages into this model's prompt ids and sampled ids back into text."""

    def renderer_with(self, variables: Mapping[str, object]) -> Renderer:
        """The renderer with variables for the model's chat template, such as `enable_thinking`."""

    def new_policy(self, name: str) -> Policy:
        """A fresh trainable policy that starts as the base model."""

    def load(self, directory: Path, name: str) -> Policy:
        """A trainable policy from what `Policy.save` wrote.

        Raises:
            UserError: If the folder holds no policy of this base model.
        """

    def base(self) -> Policy:
        """The base model itself, read-only: the reference."""
        ...


@runtime_checkable
class LimitedEngine(Protocol):
    """An engine that does not support all settings of a step, and says so before long work begins."""

    def unable(self, adam: Adam) -> Mapping[str, str]:
        """Why it cannot take a step with these settings: a reason for each field of `adam` that it does not support."""
        ...
