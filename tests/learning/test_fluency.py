"""Claims about degeneration: a defender that no longer speaks a language is never presented as a safe one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from magic_rl.cli.remedies import in_words
from magic_rl.config import load_config
from magic_rl.engines.local.policy import LocalPolicy
from magic_rl.errors import DegenerateError
from magic_rl.game.play import plain_turn
from magic_rl.learning.arena import LoopSettings
from magic_rl.learning.fluency import Yardstick, distinct_trigrams
from magic_rl.learning.rollouts import measure_fluency
from magic_rl.learning.settings import LearningConfig
from magic_rl.runs.evaluate import evaluate
from magic_rl.runs.train import train
from magic_rl.store.run import RunDirectory
from magic_rl.types import Episode, Outcome, Sample, SamplingParams, Seed, Tokens
from tests.runs.test_train import Silent

WORDS, LOOP = 50, 49


class Counting:
    """A language of 50 words in which each is followed by the next with probability 0.9, else by any other."""

    def logprobs(self, sequences: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, ...]]:
        likely, other = np.log(0.9), np.log(0.1 / (WORDS - 1))
        return [
            tuple(
                float(likely if b == (a + 1) % WORDS or (asked, a, b) == (LOOP, 0, LOOP) else other)
                for a, b in pairwise((asked, *tokens))
            )
            for (*_, asked), tokens in sequences
        ]

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, _seed: int) -> list[list[Sample]]:
        """It counts; if a prompt asks for LOOP, it repeats two words over and over."""
        said = [(0, LOOP) * 6 if prompt[-1] == LOOP else tuple(range(1, 13)) for prompt in prompts]
        return [[Sample(p, tokens, (-0.1,) * 12, "stop")] * n for p, tokens in zip(prompts, said, strict=True)]


def sample(*tokens: int) -> Sample:
    return Sample((0,), tokens, tuple(-0.1 for _ in tokens), "stop")


def fluent(begin: int, length: int = 12) -> Sample:
    return sample(*((begin + i) % WORDS for i in range(length)))


@pytest.mark.parametrize(
    ("reply", "degenerate"),
    [
        (fluent(7), False),
        (sample(30, 31, 32, 40, 41, 42, 43), False),  # unusual, as a refusal is to a model that never refuses
        (sample(*np.random.default_rng(1).permutation(WORDS)[:12].tolist()), True),  # word salad
        (sample(*([1, 2] * 12)), True),  # a loop
        (sample(5), True),  # a single unlikely word
    ],
)
def test_a_reply_is_measured_against_the_untouched_models_own(reply: Sample, degenerate: bool) -> None:
    yardstick = Yardstick(Counting(), [fluent(begin) for begin in range(1, 17)])
    found = yardstick.measure([reply])
    assert found.degenerate == (degenerate,)
    assert found.kl == pytest.approx(-0.1 - (found.logprob or 0))


@pytest.mark.parametrize(
    "odd", [sample(*([1, 2, 3] * 8)), sample(*np.random.default_rng(2).permutation(WORDS)[:12].tolist())]
)
def test_a_few_odd_replies_of_its_own_excuse_no_policy_that_is_all_odd(odd: Sample) -> None:
    yardstick = Yardstick(Counting(), [*(fluent(begin) for begin in range(1, 31)), odd, odd])
    salad = [sample(*np.random.default_rng(seed).permutation(WORDS)[:12].tolist()) for seed in range(16)]
    loops = [sample(*([seed, 40, 7] * 8)) for seed in range(16)]
    assert sum(yardstick.measure([*salad, *loops]).degenerate) == 32


def test_a_model_of_noise_is_not_called_degenerate_for_its_noise() -> None:
    rng = np.random.default_rng(0)
    noise = [sample(*rng.integers(0, WORDS, 12).tolist()) for _ in range(64)]
    found = Yardstick(Counting(), noise[:32]).measure(noise[32:])
    assert sum(found.degenerate) <= 6  # by each criterion, about a tenth falls below nine in ten of 32 others


def test_distinct_trigrams_are_all_of_a_short_text_and_few_of_a_loop() -> None:
    assert distinct_trigrams((1, 2)) == 1.0
    assert distinct_trigrams((1, 2, 3, 4, 5)) == 1.0
    assert distinct_trigrams((1,) * 12) == 0.1


@pytest.fixture
def broken(tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunDirectory]:
    """A run whose defender stammers from the beginning; the untouched model does not."""
    sample_as_it_is = LocalPolicy.sample

    def stammering(self: LocalPolicy, *asked: Any, **named: Any) -> list[list[Sample]]:
        groups = sample_as_it_is(self, *asked, **named)
        if not (self._parameters and "defender" in self.name):
            return groups
        return [
            [replace(s, tokens=(97,) * 12, logprobs=(-1.0,) * 12, finish="stop") for s in group] for group in groups
        ]

    monkeypatch.setattr(LocalPolicy, "sample", stammering)
    settings = ["attacker.batch_size=4", "defender.batch_size=4", "learning.group_size=4", "evaluation.temperature=1"]
    return lambda *more: train(load_config(tiny_config, [*settings, *more]), tmp_path / "run", Silent())


@pytest.mark.parametrize("limit", [0.5, 0.1])
def test_training_stops_with_one_line_when_replies_are_broken(
    broken: Callable[..., RunDirectory], limit: float
) -> None:
    with pytest.raises(DegenerateError, match=rf"replies are no longer language .* allows {limit:.0%}") as caught:
        broken(f"learning.max_degenerate={limit}")
    assert "smaller defender.optimiser.lr" in in_words(caught.value)


def test_an_evaluation_states_degeneration_beside_asr(broken: Callable[..., RunDirectory]) -> None:
    run = broken()
    found = evaluate(run, Silent())
    untouched, trained = found.replies["untouched"], found.replies["trained"]
    assert untouched.degenerate.value < 0.2
    assert untouched.kl == pytest.approx(0.0, abs=1e-6)
    assert trained.degenerate.value > 0.5
    assert trained.distinct is not None
    assert trained.distinct < 0.5
    assert found.verdict.startswith("Broken")
    played = [row for row in run.metrics() if row["stage"] == "play"]
    assert {"degenerate_rate", "reply_kl", "reply_logprob", "reply_distinct"} <= set(played[0])


def found_in_a_step(replies: Sequence[Sample], limit: float) -> int:
    """How many of a step's replies are found degenerate; the yardstick's own replies to plain seeds all count."""
    turns = [replace(plain_turn("?"), reply_sample=each) for each in replies]
    outcomes = [Outcome(Episode(Seed("s", "?", "benign"), (turn,), 0), None, None) for turn in turns]
    yardstick = Yardstick(Counting(), [fluent(begin) for begin in range(1, 17)])
    defender = SimpleNamespace(policy=Counting(), sampling=SamplingParams(12))
    settings = LoopSettings(learning=LearningConfig(max_degenerate=limit))
    arena: Any = SimpleNamespace(yardstick=yardstick, defender=defender, settings=settings)
    return sum(measure_fluency(outcomes, arena, 1).degenerate)


def test_a_limit_below_one_half_counts_for_the_few_that_are_measured() -> None:
    replies = [sample(*([1, 2] * 12)) for _ in range(4)] + [fluent(begin) for begin in range(12)]
    assert found_in_a_step(replies, 0.25) == 4
    with pytest.raises(DegenerateError, match="4 of 16 replies"):
        found_in_a_step(replies, 0.2)


def test_attacks_that_ask_for_odd_replies_raise_no_false_alarm() -> None:
    """Nor do they excuse word salad."""
    asked = [replace(fluent(begin), prompt=(LOOP,)) for begin in range(16)]
    odd = [replace(each, tokens=(0, LOOP) * 6) for each in asked]
    assert sum(Yardstick(Counting(), [fluent(begin) for begin in range(1, 17)]).measure(odd).degenerate) == 16
    assert found_in_a_step(odd, 0.25) == 0
    salad = [replace(e, tokens=tuple(np.random.default_rng(i).permutation(45)[:12])) for i, e in enumerate(asked)]
    with pytest.raises(DegenerateError, match="16 of 16 replies"):
        found_in_a_step(salad, 0.25)
