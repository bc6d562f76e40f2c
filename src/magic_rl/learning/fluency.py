"""Whether replies are still language: word salad neither does harm nor refuses, so no rate shows it.

The yardstick is what the untouched model says as defender. A reply is degenerate if that model finds it less likely
than nine in ten of its own replies, and nearer in log-probability to those replies with their tokens shuffled than to
the replies themselves; or if it repeats itself more than nine in ten of them and has less than half their mean share of
distinct trigrams. The limit is nine in ten because a single own reply that loops would otherwise excuse every loop.
Refusals pass, even if the untouched model never refuses and finds them unlikely. Only a sample of the replies is
scored, in one forward pass of that model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol, runtime_checkable

from magic_rl.rng import generator
from magic_rl.text.renderer import SamplingPolicy
from magic_rl.types import Sample, SamplingParams, Tokens


@runtime_checkable
class ScoringPolicy(SamplingPolicy, Protocol):
    """The part of a policy that is used here; see `engines.base.Policy`."""

    def logprobs(self, sequences: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, ...]]:
        """Log-probability in nats of each completion token."""


@dataclass(frozen=True, slots=True)
class Fluency:
    """Measurements of a sample of replies: means over replies of means over tokens; None without replies."""

    degenerate: tuple[bool, ...] = ()  # for each reply, whether it is no longer language
    logprob: float | None = None  # log-probability per token under the untouched model, in nats
    # KL(π ‖ untouched model) per token in nats, estimated by log π − log π_untouched on the replies.
    kl: float | None = None
    distinct: float | None = None  # share of a reply's token trigrams that are distinct

    def as_dict(self) -> dict[str, float | None]:
        """The measurements as metrics of a step."""
        rate = fmean(self.degenerate) if self.degenerate else None
        return {
            "degenerate_rate": rate,
            "reply_logprob": self.logprob,
            "reply_kl": self.kl,
            "reply_distinct": self.distinct,
        }


class Yardstick:
    """The untouched model and the limits that its own replies set."""

    def __init__(self, untouched: ScoringPolicy, own: Sequence[Sample]) -> None:
        """Set the limits.

        Args:
            untouched: The base model without an adapter.
            own: Its replies.
        """
        self._untouched = untouched
        rng = generator(0, 0, "shuffled replies")
        own = [sample for sample in own if sample.tokens]
        shuffled = [(sample.prompt, tuple(rng.permutation(sample.tokens).tolist())) for sample in own]
        as_they_are = [fmean(each) for each in untouched.logprobs([(s.prompt, s.tokens) for s in own])]
        salad = [fmean(each) for each in untouched.logprobs(shuffled)]
        distinct = [distinct_trigrams(sample.tokens) for sample in own]
        self._least_logprob = min(_worst(as_they_are), (fmean(as_they_are) + fmean(salad)) / 2) if own else -math.inf
        self._least_distinct = min(_worst(distinct), fmean(distinct) / 2) if own else 0.0

    def to_same(self, prompts: Sequence[Tokens], sampling: SamplingParams, rng_seed: int) -> Yardstick:
        """A yardstick from the untouched model's replies to these very prompts."""
        return Yardstick(self._untouched, [own for (own,) in self._untouched.sample(prompts, 1, sampling, rng_seed)])

    def measure(self, replies: Sequence[Sample], policy: SamplingPolicy | None = None) -> Fluency:
        """Measure replies.

        Args:
            policy: The policy that sampled them. None uses the samples' log-probabilities, which are the policy's
                if it was sampled at temperature 1 and top_p 1.
        """
        replies = [sample for sample in replies if sample.tokens]
        if not replies:
            return Fluency()
        sequences = [(sample.prompt, sample.tokens) for sample in replies]
        base = [fmean(each) for each in self._untouched.logprobs(sequences)]
        said = (
            policy.logprobs(sequences) if isinstance(policy, ScoringPolicy) else [sample.logprobs for sample in replies]
        )
        distinct = [distinct_trigrams(sample.tokens) for sample in replies]
        return Fluency(
            tuple(
                not logprob >= self._least_logprob or share < self._least_distinct  # not a number is degenerate too
                for logprob, share in zip(base, distinct, strict=True)
            ),
            fmean(base),
            fmean(fmean(own) - logprob for own, logprob in zip(said, base, strict=True)),
            fmean(distinct),
        )


def _worst(own: Sequence[float]) -> float:
    """The value that nine in ten of the untouched model's replies reach."""
    return sorted(own)[len(own) // 10]


def distinct_trigrams(tokens: Sequence[int]) -> float:
    """Share of a sequence's trigrams that are distinct, 0–1; 1 if it has none."""
    trigrams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if trigrams else 1.0
