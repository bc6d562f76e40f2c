"""Keeps a policy's samples on disk until the work that they belong to is done, so that stopped work can continue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from magic_rl.engines.base import Policy
from magic_rl.store.atomic import write_file
from magic_rl.types import Sample, SamplingParams, Tokens


class CachedPolicy:
    """A policy that never repeats a call to `sample`. Implements `learning.fluency.ScoringPolicy`.

    Each call has a file, named by a digest of the policy's name and of the arguments.
    """

    def __init__(self, policy: Policy, folder: Path) -> None:
        """Args: folder: Must exist. Different policies of the same name need different folders."""
        self._policy, self._folder = policy, folder

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        """See `engines.base.Policy.sample`. Raises: StoreError: If the samples cannot be written."""
        asked = repr((self._policy.name, list(prompts), n, params, rng_seed))
        file = self._folder / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"
        if file.is_file():
            said = json.loads(file.read_bytes())
            return [
                [Sample(prompt, tuple(tokens), tuple(logprobs), finish) for tokens, logprobs, finish in group]
                for prompt, group in zip(prompts, said, strict=True)
            ]
        samples = self._policy.sample(prompts, n, params, rng_seed)
        said = [[(sample.tokens, sample.logprobs, sample.finish) for sample in group] for group in samples]
        write_file(file, json.dumps(said).encode())
        return samples

    def logprobs(self, sequences: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, ...]]:
        """See `engines.base.Policy.logprobs`; computed each time, because it is cheap."""
        return self._policy.logprobs(sequences)
