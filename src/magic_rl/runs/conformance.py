"""Checks that an engine does what the loop relies on, by a few steps and samples that take minutes.

Servers fail silently: they answer with the base model for an adapter whose names they do not know, with the latest
weights for an earlier version, or drop a gradient. Each of these fails a check. Checks compare log-probabilities (in
nats, mean absolute difference over tokens), most of them relative to how far training moves the same numbers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from magic_rl.engines.base import Engine, Policy
from magic_rl.types import PPO, Adam, CrossEntropy, Datum, Message, SamplingParams, Tokens

# Allowed for rounding, in nats. The same kernels give the same numbers except for the batch they run in. A server's
# sampler has other kernels than its trainer: in bfloat16 they differed by .02 to .05 nats where this was tried.
_SAME, _OTHER_KERNELS = 0.02, 0.1
_SHARE = 0.05  # of how far training moved the numbers
_ADAM = Adam(lr=5e-3)
_QUESTIONS = ("Name a colour.", "How is the weather?", "Write one line about bees.", "What is two and two?")
_ANSWERS = ("Blue, I would say.", "Seven trees stand by the lake.", "Bees do what bees do.", "It is four.")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    claim: str  # what should hold
    holds: bool  # whether it does
    measured: str  # the numbers behind it, in words


def conformance(engine: Engine) -> Iterator[Finding]:
    """Check an engine, one claim after the other.

    Args:
        engine: Of any kind; policies are made on it and dropped again.

    Yields:
        One finding per claim.

    Raises:
        UserError: If the engine cannot be used at all.
    """
    bench = _Bench(engine)
    for check in (_apart, _sampled, _clipped, _snapshot, _nothing):
        yield from check(bench)
    with tempfile.TemporaryDirectory() as folder:
        yield from _accumulated(bench, Path(folder) / "fresh")
        yield from _resumed(bench, Path(folder) / "trained")


class _Bench:
    """An engine, examples to learn, and a policy that has learned them."""

    def __init__(self, engine: Engine) -> None:
        self.engine, render = engine, engine.renderer
        self.prompts = [render.prompt([Message("user", text)]) for text in _QUESTIONS]
        answers = [render.completion(text) for text in _ANSWERS]
        self.pairs = list(zip(self.prompts, answers, strict=True))
        self.datums = [Datum(*pair, weight=1 / (len(answers) * len(pair[1]))) for pair in self.pairs]
        self.untouched = engine.base().logprobs(self.pairs)
        self.fresh = engine.new_policy("check-untrained")
        self.trained = engine.new_policy("check-trained")
        self.train(self.trained, steps=3)
        self.moved = _gap(self.trained.logprobs(self.pairs), self.untouched)

    def train(self, policy: Policy, *parts: Sequence[Datum], steps: int = 1, lr: float = _ADAM.lr) -> None:
        """Take supervised steps, each with one backward call per part; by default all examples are one part."""
        for _ in range(steps):
            for part in parts or (self.datums,):
                policy.forward_backward(part, CrossEntropy())
            policy.optim_step(Adam(lr=lr))

    def like(self, claim: str, one: Policy, two: Policy) -> Finding:
        """Whether two policies are the same."""
        gap = _gap(one.logprobs(self.pairs), two.logprobs(self.pairs))
        return Finding(
            claim, gap <= min(_SAME, _SHARE * self.moved), f"{gap:.2g} apart; training moves {self.moved:.2g}"
        )


def _apart(bench: _Bench) -> Iterator[Finding]:
    gap = _gap(bench.fresh.logprobs(bench.pairs), bench.untouched)
    yield Finding("an untrained adapter is the base model", gap <= _SAME, f"{gap:.2g} apart")
    gap = _gap(bench.trained.logprobs(bench.pairs), bench.fresh.logprobs(bench.pairs))
    yield Finding("two adapters differ after one is trained", gap > 5 * _SAME, f"{gap:.2g} apart")


def _sampled(bench: _Bench) -> Iterator[Finding]:
    for name, policy in (("the base model", bench.engine.base()), ("a trained adapter", bench.trained)):
        gap, _ = _rescored(policy, bench.prompts)
        yield Finding(f"samples are of {name}", gap <= _OTHER_KERNELS, f"{gap:.2g} from the same tokens scored again")


def _clipped(bench: _Bench) -> Iterator[Finding]:
    """Tokens beyond the clip range must have no gradient, however a server reads the thresholds."""
    policy = bench.engine.new_policy("check-clipped")
    now = policy.logprobs(bench.pairs)
    beyond = [
        Datum(prompt, tokens, 1.0, (1.0,) * len(tokens), tuple(value - 1 for value in row))
        for (prompt, tokens), row in zip(bench.pairs, now, strict=True)
    ]
    policy.forward_backward(beyond, PPO())
    policy.optim_step(_ADAM)
    gap = _gap(policy.logprobs(bench.pairs), now)
    yield Finding("clipped tokens are not learned from", gap <= min(_SAME, _SHARE * bench.moved), f"{gap:.2g} apart")


def _snapshot(bench: _Bench) -> Iterator[Finding]:
    copy = bench.trained.snapshot("check-snapshot")
    before, (_, said) = copy.logprobs(bench.pairs), _rescored(copy, bench.prompts)
    now = bench.trained.logprobs(said)
    bench.train(bench.trained, steps=3)
    learned = _gap(bench.trained.logprobs(said), now)
    gap = _gap(copy.logprobs(bench.pairs), before)
    yield Finding("a snapshot stays as it is while its policy learns", gap <= _SAME, f"{gap:.2g} apart")
    gap, _ = _rescored(copy, bench.prompts)
    measured = f"{gap:.2g} from the same tokens scored again; its policy moved {learned:.2g}"
    yield Finding("samples of a snapshot are its own", gap <= min(_OTHER_KERNELS, learned / 2), measured)


def _nothing(bench: _Bench) -> Iterator[Finding]:
    before = bench.fresh.logprobs(bench.pairs)
    bench.train(bench.fresh, lr=0.0)
    gap = _gap(bench.fresh.logprobs(bench.pairs), before)
    yield Finding("a step of size 0 changes nothing", gap <= _SAME, f"{gap:.2g} apart")


def _accumulated(bench: _Bench, folder: Path) -> Iterator[Finding]:
    # Both from one saved adapter, because the engine may initialise each new one differently.
    folder.mkdir()
    bench.engine.new_policy("check-fresh").save(folder)
    one, two = (bench.engine.load(folder, f"check-{name}") for name in ("one-call", "two-calls"))
    half = len(bench.datums) // 2
    bench.train(one)
    bench.train(two, bench.datums[:half], bench.datums[half:])
    yield bench.like("two accumulated calls equal one", one, two)


def _resumed(bench: _Bench, folder: Path) -> Iterator[Finding]:
    folder.mkdir()
    bench.trained.save(folder)
    loaded = bench.engine.load(folder, "check-loaded")
    yield bench.like("what is saved is loaded", bench.trained, loaded)
    for policy in (bench.trained, loaded):
        bench.train(policy, bench.datums[:1], steps=2)
    yield bench.like("a loaded policy then learns as the saved one does", bench.trained, loaded)


def _rescored(policy: Policy, prompts: Sequence[Tokens]) -> tuple[float, list[tuple[Tokens, Tokens]]]:
    """How far log-probabilities of samples are from those of the same tokens scored again, and the sequences."""
    samples = [sample for row in policy.sample(prompts, 4, SamplingParams(16), 0) for sample in row]
    said = [(sample.prompt, sample.tokens) for sample in samples]
    return _gap([sample.logprobs for sample in samples], policy.logprobs(said)), said


def _gap(one: Sequence[tuple[float, ...]], two: Sequence[tuple[float, ...]]) -> float:
    """Mean absolute difference over tokens."""
    return fmean(abs(a - b) for left, right in zip(one, two, strict=True) for a, b in zip(left, right, strict=True))
