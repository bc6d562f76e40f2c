"""Claims about which rows are sampled together: places, waiting prompts, and that no sample depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from magic_rl.engines.local import sampling
from magic_rl.engines.local.decoding import SharedDecoder
from magic_rl.types import SamplingParams, Tokens
from magic_rl.view import counting
from tests.support.tiny_engine import PROMPTS, engine, trained


def test_what_a_row_samples_does_not_depend_on_its_batch(tiny_model: Path) -> None:
    together = trained(engine(tiny_model)).sample(PROMPTS, 4, SamplingParams(20), rng_seed=5)
    apart = trained(engine(tiny_model, rows=4)).sample(PROMPTS, 4, SamplingParams(20), rng_seed=5)
    assert [[s.tokens for s in group] for group in together] == [[s.tokens for s in group] for group in apart]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_looking_at_stops_seldom_changes_no_sample(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    prompts: list[Tokens] = [(5, i) for i in range(20, 30)] + PROMPTS
    policy = trained(engine(tiny_model, rows=12))  # some wait, and join rows that are further on
    often = policy.sample(prompts, 3, SamplingParams(21, temperature), rng_seed=5)
    monkeypatch.setattr(sampling, "_UNCHECKED", {})
    seldom = policy.sample(prompts, 3, SamplingParams(21, temperature), rng_seed=5)
    for one, two in zip(often, seldom, strict=True):
        assert [(s.tokens, s.finish) for s in one] == [(s.tokens, s.finish) for s in two]
        for a, b in zip(one, two, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, rel=1e-4, abs=1e-5)


def test_no_prompts_give_no_samples(tiny_model: Path) -> None:
    assert engine(tiny_model).base().sample([], 2, SamplingParams(max_tokens=4), rng_seed=1) == []


def test_waiting_prompts_take_the_places_of_those_that_are_done(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[Tokens] = [(5, i) for i in range(20, 60)] + PROMPTS
    policy = trained(engine(tiny_model, rows=8))
    running: list[int] = []
    go_on = SharedDecoder.go_on

    def counted(self: SharedDecoder, tokens: torch.Tensor) -> torch.Tensor:
        running.append(self.groups)
        return go_on(self, tokens)

    monkeypatch.setattr(SharedDecoder, "go_on", counted)
    samples = policy.sample(prompts, 1, SamplingParams(30), rng_seed=4)
    steps = [len(group[0].tokens) for group in samples]
    one_batch_after_another = sum(max(steps[i : i + 8]) for i in range(0, len(steps), 8))
    assert len(running) < 0.7 * one_batch_after_another
    assert max(running) == 8
    together = trained(engine(tiny_model)).sample(prompts, 1, SamplingParams(30), rng_seed=4)
    assert [group[0].tokens for group in samples] == [group[0].tokens for group in together]


def test_whoever_counts_is_told_how_many_samples_are_done(tiny_model: Path) -> None:
    told: list[tuple[int, int]] = []
    with counting(lambda done, total: told.append((done, total))):
        trained(engine(tiny_model, rows=4)).sample(PROMPTS, 2, SamplingParams(20), rng_seed=5)
    assert told == sorted(told)
    assert told[-1] == (2 * len(PROMPTS), 2 * len(PROMPTS))


def test_prompts_are_encoded_within_a_budget_of_tokens(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[Tokens] = [(5, i) * 10 for i in range(20, 40)] + [(7, 8) * 100]
    tight, roomy = trained(engine(tiny_model, budget=10)), trained(engine(tiny_model))
    encoded: list[list[int]] = []
    admit = SharedDecoder.admit

    def counted(self: SharedDecoder, arriving: Sequence[Tokens]) -> torch.Tensor:
        encoded.append([len(prompt) for prompt in arriving])
        return admit(self, arriving)

    monkeypatch.setattr(SharedDecoder, "admit", counted)
    few = tight.sample(prompts, 2, SamplingParams(20), rng_seed=4)
    assert encoded == [[20] * 4] * 5 + [[200]]  # 8 times the budget; the last is longer by itself
    encoded.clear()
    all_at_once = roomy.sample(prompts, 2, SamplingParams(20), rng_seed=4)
    assert encoded == [[20] * 20 + [200]]
    assert [[s.tokens for s in group] for group in few] == [[s.tokens for s in group] for group in all_at_once]
