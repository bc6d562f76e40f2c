"""Your own engine: here the local one, with a meter that counts the tokens sampled and learned from.

Anything that makes policies on a base model is an engine; the game does not know where the weights are. To use this
one in a run, name it: `engine.kind = "own_engine:MeteredEngine"`, with the folder of this file on PYTHONPATH.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from magic_rl import Engine, LocalEngine, Policy, SamplingParams


class MeteredPolicy:
    """A policy that counts tokens and passes every call on."""

    def __init__(self, policy: Policy, meter: Counter[str]) -> None:
        self._policy, self._meter = policy, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def sample(self, prompts: Sequence[tuple[int, ...]], n: int, params: SamplingParams, rng_seed: int) -> Any:
        """See `Policy.sample`."""
        samples = self._policy.sample(prompts, n, params, rng_seed)
        self._meter["sampled"] += sum(len(sample.tokens) for group in samples for sample in group)
        return samples

    def forward_backward(self, datums: Sequence[Any], loss: Any) -> Mapping[str, float]:
        """See `Policy.forward_backward`."""
        self._meter["learned"] += sum(len(datum.tokens) for datum in datums)
        return self._policy.forward_backward(datums, loss)

    def snapshot(self, name: str) -> Any:
        """See `Policy.snapshot`."""
        return MeteredPolicy(self._policy.snapshot(name), self._meter)


class MeteredEngine:
    """An engine whose trainable policies are metered."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Takes the same arguments as `LocalEngine`."""
        self._engine: Engine = LocalEngine(*args, **options)
        self.meter: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def new_policy(self, name: str) -> Any:
        """See `Engine.new_policy`."""
        return MeteredPolicy(self._engine.new_policy(name), self.meter)

    def load(self, directory: Path, name: str) -> Any:
        """See `Engine.load`."""
        return MeteredPolicy(self._engine.load(directory, name), self.meter)


def main() -> None:
    """Sample eight tokens and print the meter."""
    engine = MeteredEngine("default")
    policy = engine.new_policy("defender")
    policy.sample([(1, 2, 3)], 2, SamplingParams(max_tokens=4), rng_seed=0)
    print(dict(engine.meter))


if __name__ == "__main__":
    main()
