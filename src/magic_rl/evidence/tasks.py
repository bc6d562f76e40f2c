"""A set as an Inspect task: asked once at temperature 0 and judged by our judge, with an ordinary Inspect log.

Scores hold the verdicts, so items can be rebuilt from a log without asking any model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState, generate
from pydantic import TypeAdapter

from magic_rl.evidence.batching import Batcher
from magic_rl.evidence.counting import our_measure, ours
from magic_rl.evidence.items import Item, Judged
from magic_rl.evidence.sets import BENCHMARKS, Benchmark, part_of
from magic_rl.judges.asking import ask
from magic_rl.judges.base import Judge
from magic_rl.types import Exchange, Verdict

_ITEM = TypeAdapter(Item)
_VERDICT = TypeAdapter(Verdict)
_NO_VALUE = math.nan  # Inspect leaves it out of metrics


def make_task(name: str, items: Sequence[Item], judge: Judge, *, retries: int = 1, max_tokens: int = 0) -> Task:
    """The task of a set.

    Args:
        name: Name of the set in `BENCHMARKS`.
        items: Items without replies.
        judge: Labels the replies, in batches.
        retries: How often the judge is asked again after an abstention.
        max_tokens: Length limit of replies; 0: the release's.
    """
    benchmark = BENCHMARKS[name]
    samples = [Sample(input=item.attack, target=item.label, id=item.id, metadata=asdict(item)) for item in items]
    return Task(
        dataset=MemoryDataset(samples, name=name),
        solver=generate(),
        scorer=_judged(benchmark, judge, retries),
        config=GenerateConfig(temperature=0.0, max_tokens=max_tokens or benchmark.max_tokens),
    )


def _judged(benchmark: Benchmark, judge: Judge, retries: int) -> Scorer:
    """A score per measure, ours and the release's, in 0–1; no value if the item does not count."""

    def label(exchanges: Sequence[Exchange]) -> list[Verdict]:
        return ask(judge, exchanges, retries=retries, max_abstained=1.0, needs_refusal=False)

    verdict_of = Batcher(label)
    measures = dict.fromkeys(
        key for part in benchmark.parts for key in (our_measure(part.label), f"release_{part.release.measure}")
    )

    def judged() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:  # noqa: ARG001 - Inspect's signature
            item = _replied(_ITEM.validate_python(state.metadata), state)
            if item.failed is not None:
                return Score.unscored(explanation=item.failed)
            verdict = await verdict_of(item.exchange)
            values: dict[str, float] = dict.fromkeys(measures, _NO_VALUE)
            part = part_of(benchmark, item.label, item.category)
            counted: dict[str, float | None] = {our_measure(item.label): ours(item.label, verdict)}
            if part:
                counted[f"release_{part.release.measure}"] = part.release.count(verdict)
            values |= {key: float(value) for key, value in counted.items() if value is not None}
            return Score(
                value=values,
                answer=item.reply,
                explanation=verdict.abstained or f"{verdict.safety}, refused: {verdict.refused}",
                metadata={"judge": judge.name, "verdict": asdict(verdict)},
            )

        return score

    return scorer(metrics={key: [mean()] for key in measures}, name="judged")(judged)()


def items_of(log: EvalLog, model: str) -> Iterator[Item]:
    """The items of a log, in the order of the set.

    Args:
        log: Log of a task from `make_task`, with samples.
        model: Name of the model.
    """
    places = {name: place for place, name in enumerate(log.eval.dataset.sample_ids or ())}
    for sample in sorted(log.samples or (), key=lambda sample: places.get(sample.id, 0)):
        yield _item(sample, model)


def _item(sample: EvalSample, model: str) -> Item:
    asked = _ITEM.validate_python(sample.metadata)
    if sample.error is not None:
        return replace(asked, model=model, failed=" ".join(sample.error.message.split())[:200])
    item = replace(_replied(asked, sample), model=model)
    said = [score.metadata for score in (sample.scores or {}).values() if score.metadata]
    verdicts = tuple(Judged(one["judge"], _VERDICT.validate_python(one["verdict"])) for one in said)
    return replace(item, verdicts=verdicts)


def _replied(item: Item, state: TaskState | EvalSample) -> Item:
    """The item with the model's reply, without thoughts."""
    output = state.output
    cut_off = output.stop_reason == "max_tokens"
    reply = output.completion.strip()
    if output.error or (output.stop_reason in ("content_filter", "unknown") and not reply):
        return replace(item, failed=output.error or f"the reply was broken off ({output.stop_reason})")
    if cut_off and not reply:
        return replace(item, cut_off=True, failed="the reply never came out of its reasoning")
    return replace(item, reply=reply, cut_off=cut_off)
