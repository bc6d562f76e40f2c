"""A policy that learns here and is sampled by servers: all but `sample` is the local policy's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from magic_rl.engines.local.policy import LocalPolicy
from magic_rl.engines.vllm.calls import Version
from magic_rl.engines.vllm.servers import Servers
from magic_rl.text.renderer import Arrived
from magic_rl.types import Adam, Datum, Loss, Sample, SamplingParams, Tokens


class ServedPolicy:
    """A local policy whose every version goes to the servers. Implements `engines.base.Policy`."""

    def __init__(self, inner: LocalPolicy, servers: Servers, *, adapted: bool = True) -> None:
        """Args: inner: Learns. adapted: Whether it is more than the base model."""
        self.name = inner.name
        self._inner, self._servers, self._adapted = inner, servers, adapted
        self._version: Version | None = None  # what the servers have of it; None: not as it is now

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        """See `Policy.sample` and `Servers.sample`."""
        return self.stream(prompts, n, params, rng_seed, lambda _place, _samples: None)

    def stream(
        self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int, arrived: Arrived
    ) -> list[list[Sample]]:
        """See `Streams.stream`."""
        if not prompts:
            return []
        if self._adapted and self._version is None:
            self._version = self._servers.publish(self.name, self._inner.snapshot(self.name).save)  # no optimiser
        return self._servers.sample(self._version, prompts, n, params, rng_seed, arrived=arrived)

    def logprobs(self, sequences: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, ...]]:
        """See `Policy.logprobs`."""
        return self._inner.logprobs(sequences)

    def forward_backward(self, datums: Sequence[Datum], loss: Loss) -> dict[str, float]:
        """See `Policy.forward_backward`."""
        return self._inner.forward_backward(datums, loss)

    def optim_step(self, adam: Adam) -> dict[str, float]:
        """See `Policy.optim_step`."""
        self._version = None
        return self._inner.optim_step(adam)

    def save(self, directory: Path) -> None:
        """See `Policy.save`."""
        self._inner.save(directory)

    def snapshot(self, name: str) -> ServedPolicy:
        """See `Policy.snapshot`. It is the same version at the servers, while they have it."""
        copy = ServedPolicy(self._inner.snapshot(name), self._servers, adapted=self._adapted)
        copy._version = self._version
        return copy
