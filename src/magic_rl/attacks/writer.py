"""The attack pool by a model (METHOD §2): it is asked for each rewrite, then for the thoughts that lead there.

Answers are what costs, so those that can be used are remembered as they come. Everything else is worked out from them
in the order of seeds and strategies: the pool is the same however often the work was interrupted, and in any order
the answers came. Encodings are written by the codecs, without the model.
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

_MAX_TOKENS = 2048  # a sentence of Malayalam may take hundreds, and some models think unseen
_TEMPERATURE = 1.0
_FIRST = 20  # answers of a stage of which one at least must be of use

Stage = Literal["rewrite", "reasoning"]


class Task(NamedTuple):
    """One example of the pool to be."""

    seed: Seed
    strategy: Strategy

    @property
    def encoded(self) -> bool:
        """Whether a codec writes it, not the model."""
        return self.strategy.family == "encoding"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A task that came to nothing."""

    seed: str
    strategy: str
    reason: str  # why, in words that many have in common
    detail: str = ""  # more of it; "" if there is no more to say
    text: str = ""  # what the writer said, if that is why


@dataclass(frozen=True, slots=True)
class Written:
    """What came of asking."""

    entries: tuple[PoolEntry, ...]  # the pool, by seed and then by strategy
    rejected: tuple[Rejected, ...]  # what was left out, in the same order
    calls: int  # questions answered, remembered ones included
    tokens: int  # tokens they took

    @property
    def reasons(self) -> Counter[str]:
        """How many were left out, by reason."""
        return Counter(each.reason for each in self.rejected)


class Writer:
    """A model that writes the pool."""

    def __init__(
        self, chat: Chat, prompts: Prompts, checks: Checks, memory: Memory | None = None, max_failed: float = 0.05
    ) -> None:
        """Put a writer to work.

        Args:
            chat: The model.
            prompts: What it is asked.
            checks: What its answers must pass.
            memory: Where usable answers are kept.
            max_failed: Share of a stage's calls that may fail and be left out; more stop the work.
        """
        self._chat, self._prompts, self._checks = chat, prompts, checks
        self._memory, self._max_failed = memory, max_failed
        self._calls = self._tokens = self._rejected = 0

    def write(
        self, seeds: Sequence[Seed], strategies: Sequence[Strategy], rng_seed: int, view: View = NOBODY
    ) -> Written:
        """Every seed with every strategy.

        Args:
            seeds: With ids of their own.
            rng_seed: Decides the words around encodings, and which of its answers a memory gives back.
            view: Who watches.

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
        """What can stand in the pool, still without the model's reasoning, and what cannot."""
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
        """What the writer says for each task to the words it is asked in.

        Raises:
            ChatError: If some could not be asked, more calls failed than are allowed, or nothing can be used.
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
                return  # the answers under way are still waited for
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
