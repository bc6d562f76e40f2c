"""A model writes the attack pool (METHOD §2): first each rewrite, then the thoughts that lead to it.

Answers cost money or time, so usable ones are remembered as they arrive. Everything else is computed from them in the
order of seeds and strategies: the pool does not depend on interruptions or on the order in which answers arrive. The
codecs write the encodings, without the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from magic_rl.attacks.checks import ANSWER, SCHEMA, Checks, fold
from magic_rl.attacks.pool import PoolEntry
from magic_rl.attacks.strategies import Strategy
from magic_rl.attacks.templates import Rewrite, write_attack
from magic_rl.chat.base import Chat, ChatRequest, Completion
from magic_rl.chat.memory import Memory, ask
from magic_rl.errors import ChatError
from magic_rl.prompts import Prompts
from magic_rl.rng import generator
from magic_rl.types import Message, Seed
from magic_rl.view import NOBODY, View

_MAX_TOKENS = 2048  # a sentence of Malayalam may take hundreds, and some models have hidden thoughts
_TEMPERATURE = 1.0
_FIRST = 20  # of so many first answers of a stage at least one must be usable

Stage = Literal["rewrite", "reasoning"]


class Task(NamedTuple):
    """One example to write."""

    seed: Seed
    strategy: Strategy

    @property
    def encoded(self) -> bool:
        """Whether a codec writes it instead of the model."""
        return self.strategy.family == "encoding"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A task that was left out."""

    seed: str
    strategy: str
    reason: str  # why, worded so that equal reasons can be counted
    detail: str = ""  # details of the reason; "" if there are none
    text: str = ""  # the writer's text, if it is the reason


@dataclass(frozen=True, slots=True)
class Written:
    """The result of writing a pool."""

    entries: tuple[PoolEntry, ...]  # the pool, by seed and then by strategy
    rejected: tuple[Rejected, ...]  # the tasks left out, in the same order
    calls: int  # calls answered or failed, remembered answers included
    tokens: int  # tokens that these calls took

    @property
    def reasons(self) -> Counter[str]:
        """Number of tasks left out, by reason."""
        return Counter(each.reason for each in self.rejected)


class Writer:
    """A model that writes the pool."""

    def __init__(
        self, chat: Chat, prompts: Prompts, checks: Checks, memory: Memory | None = None, max_failed: float = 0.05
    ) -> None:
        """Set up a writer.

        Args:
            chat: The model.
            prompts: The questions to it.
            checks: The checks that its answers must pass.
            memory: Where usable answers are kept.
            max_failed: Share of a stage's calls that may fail and be left out; more are an error.
        """
        self._chat, self._prompts, self._checks = chat, prompts, checks
        self._memory, self._max_failed = memory, max_failed
        self._calls = self._tokens = self._rejected = 0

    def write(
        self, seeds: Sequence[Seed], strategies: Sequence[Strategy], rng_seed: int, view: View = NOBODY
    ) -> Written:
        """Rewrite all seeds with all strategies.

        Args:
            seeds: Seeds with unique ids.
            strategies: The strategies; repeated ones count once.
            rng_seed: Decides the templates around encodings. It is part of the key of remembered answers, so another
                one asks again.
            view: Shows the work.

        Raises:
            ChatError: If the model cannot be asked, its budget is spent, or too many calls fail.
        """
        tasks = [Task(seed, strategy) for seed in seeds for strategy in dict.fromkeys(strategies)]
        asked = {t: self._prompts.rewrite(t.seed, t.strategy.instruction) for t in tasks if not t.encoded}
        said = self._ask("rewrite", asked, rng_seed, view)
        drafts, rejected = self._drafts(tasks, said, rng_seed)

        self._rejected = len(rejected)
        asked = {t: self._prompts.reasoning(t.seed, draft.attack) for t, draft in drafts.items() if not t.encoded}
        entries = []
        thoughts = self._ask("reasoning", asked, rng_seed, view)
        for task, draft in drafts.items():
            thinking = draft.thinking if task.encoded else thoughts[task]
            if isinstance(thinking, Rejected):
                rejected[task] = replace(thinking, reason=f"reasoning: {thinking.reason}")
            else:
                entries.append(PoolEntry(task.seed, task.strategy.name, thinking, draft.attack))
        left_out = tuple(rejected[task] for task in tasks if task in rejected)
        return Written(tuple(entries), left_out, self._calls, self._tokens)

    def _drafts(
        self, tasks: Sequence[Task], said: dict[Task, str | Rejected], rng_seed: int
    ) -> tuple[dict[Task, Rewrite], dict[Task, Rejected]]:
        """The rewrites that may enter the pool, still without the model's reasoning, and the tasks left out."""
        drafts: dict[Task, Rewrite] = {}
        rejected: dict[Task, Rejected] = {}
        seen: set[str] = set()
        for task in tasks:
            if task.encoded:
                rng = generator(rng_seed, 0, f"attack pool: {task.strategy.name}: {task.seed.id}")
                try:
                    drafts[task] = write_attack(task.seed, task.strategy, rng)
                except ValueError as error:
                    rejected[task] = _rejected(task, "cannot be encoded", str(error))
                continue
            attack = said[task]
            if isinstance(attack, Rejected):
                rejected[task] = attack
            elif fold(attack) in seen:
                rejected[task] = _rejected(task, "the same as another rewrite", text=attack)
            else:
                seen.add(fold(attack))
                drafts[task] = Rewrite("", attack)
        return drafts, rejected

    def _ask(self, stage: Stage, words: dict[Task, str], rng_seed: int, view: View) -> dict[Task, str | Rejected]:
        """The writer's text for each task, asked with the task's question in `words`, or why there is none.

        Raises:
            ChatError: If the budget is spent, more calls fail than allowed, or none of the first answers is usable.
        """
        tasks, useless, failed = list(words), Counter[str](), Counter[str]()
        new = 0
        view.stage(stage, len(tasks))

        def read(place: int, text: str) -> str:
            seed, strategy = tasks[place]
            return self._checks.rewrite(seed, strategy, text) if stage == "rewrite" else self._checks.text(text)

        def done(_: int, completion: Completion) -> None:
            nonlocal new
            if completion.cause == "spent":
                return  # answers under way still arrive
            new += not completion.remembered
            self._calls += 1
            self._tokens += completion.tokens
            if completion.failed is not None:
                self._rejected += 1
                useless[completion.failed] += 1
                failed[completion.failed] += completion.cause != "unusable"
            view.step({"rejected": self._rejected, "calls": self._calls, "tokens": self._tokens}, {})
            if failed.total() > self._max_failed * len(tasks):
                raise ChatError(
                    f"{failed.total()} calls failed ({failed.most_common(1)[0][0]}), more than the "
                    f"{self._max_failed:.0%} of the {stage} stage that may be left out"
                )
            if new == useless.total() == _FIRST < len(tasks):
                raise ChatError(
                    f"none of the first {_FIRST} answers can be used ({useless.most_common(1)[0][1]} times: "
                    f"{useless.most_common(1)[0][0]}); look at the model and its server before all are paid for"
                )

        requests = [
            ChatRequest(
                (Message("user", f"{words[task]}\n{ANSWER}"),), _MAX_TOKENS, _TEMPERATURE, SCHEMA, sample=rng_seed
            )
            for task in tasks
        ]
        answers = ask(self._chat, requests, read, self._memory, done)
        if spent := [a.failed for a in answers if isinstance(a, Completion) and a.cause == "spent"]:
            raise ChatError(str(spent[0]))
        return {task: _taken(task, answer) for task, answer in zip(tasks, answers, strict=True)}


def _taken(task: Task, answer: str | Completion) -> str | Rejected:
    if isinstance(answer, str):
        return answer
    failed = answer.failed or ""
    if answer.cause == "unusable":
        return _rejected(task, failed, text=answer.text)
    if answer.cause == "cut_off":
        return _rejected(task, "cut off", f"at {_MAX_TOKENS} tokens")
    return _rejected(task, "the call failed", failed)


def _rejected(task: Task, reason: str, detail: str = "", text: str = "") -> Rejected:
    return Rejected(task.seed.id, task.strategy.name, reason, detail, text)
