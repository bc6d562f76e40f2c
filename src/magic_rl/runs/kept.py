"""What a policy said, on disk until the work it belongs to is done, so that work goes on from where it was stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from magic_rl.engines.base import Policy
from magic_rl.store.atomic import write_file
from magic_rl.types import Sample, SamplingParams, Tokens


class Kept:
    """A policy that does not say anything twice. Implements `learning.fluency.Scores`.

    Each call has a file, named by a digest of the policy's name and of what is asked.
    """

    def __init__(self, policy: Policy, folder: Path) -> None:
        """Args: folder: Exists. Different policies of one name need folders of their own."""
        self._policy, self._folder = policy, folder

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        """See `engines.base.Policy.sample`. Raises: StoreError: If what was said cannot be written."""
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
        """See `engines.base.Policy.logprobs`; computed each time, as it is little."""
        return self._policy.logprobs(sequences)
