"""The attack pool by a model (METHOD §2): it is asked for each rewrite, then for the thoughts that lead there.

Answers are what costs, so they alone are kept while the pool is built (`partial`). Everything else is worked out from
them in the order of seeds and strategies: the pool is the same however often the work was interrupted, and in whatever
order the answers came. Encodings are written by the codecs, without the model.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from magic_rl.attacks.checks import ANSWER, SCHEMA, Checks, fold
from magic_rl.attacks.partial import Answer, Partial, Stage
from magic_rl.attacks.pool import PoolEntry
from magic_rl.attacks.strategies import STRATEGIES, Strategy
from magic_rl.attacks.templates import Rewrite, write_attack
from magic_rl.endpoints.base import Chat, ChatRequest, Completion
from magic_rl.errors import UserError
from magic_rl.prompts import Prompts
from magic_rl.rng import generator
from magic_rl.types import Message, Seed

_MAX_TOKENS = 2048  # a sentence of Malayalam may take hundreds, and some models think unseen
_TEMPERATURE = 1.0
_FIRST = 20  # answers of a stage that are looked at before the others are asked for


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
    """A task that came to nothing.

    Attributes:
        reason: Why, in words that many have in common.
        detail: More of it; "" if there is no more to say.
        text: What the writer said, if that is why.
    """

    seed: str
    strategy: str
    reason: str
    detail: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What came of asking.

    Attributes:
        entries: The pool, by seed and then by strategy.
        rejected: What was left out, in the same order.
        calls: Questions asked, those of earlier sittings included.
        tokens: Tokens they took.
    """

    entries: tuple[PoolEntry, ...]
    rejected: tuple[Rejected, ...]
    calls: int
    tokens: int

    @property
    def reasons(self) -> Counter[str]:
        """How many were left out, by reason."""
        return Counter(each.reason for each in self.rejected)


class Progress(Protocol):
    """Who is told how it goes."""

    def stage(self, name: Stage, total: int, done: int) -> None:
        """So many questions of a stage are to be asked, and so many are answered already."""
        ...

    def step(self, rejected: int, calls: int, tokens: int) -> None:
        """One more is answered; the counts are of the whole build."""
        ...


def made_with(model: str, prompts: Prompts, seeds: Sequence[Seed]) -> dict[str, str]:
    """What a writer's answers depend on, for `open_partial`; a choice of other strategies does not change them.

    Args:
        model: The writer's `Chat.identity`.
    """
    words = (prompts.writer_rewrite_harmful, prompts.writer_rewrite_benign, prompts.writer_reasoning, ANSWER)
    instructions = [strategy.instruction for strategy in STRATEGIES.values()]
    return {
        "writer model": model,
        "wording of the prompts": _digest([words, instructions]),
        "choice of seeds": _digest([(seed.id, seed.text, seed.label) for seed in seeds]),
        "sampling": f"{_MAX_TOKENS} tokens at temperature {_TEMPERATURE:g}",
    }


class Writer:
    """A model that writes the pool."""

    def __init__(
        self,
        chat: Chat,
        prompts: Prompts,
        checks: Checks,
        partial: Partial,
        progress: Progress,
        *,
        max_failed: float = 0.05,
        batch: int = 0,
    ) -> None:
        """Put a writer to work.

        Args:
            chat: The model.
            prompts: What it is asked.
            checks: What its answers must pass.
            partial: Where they are kept.
            progress: Who is told.
            max_failed: Share of a stage's calls that may fail and be left out; more stop the work.
            batch: Questions handed over at once; 0: all of them. For models that answer only batch by batch.
        """
        self._chat, self._prompts, self._checks = chat, prompts, checks
        self._partial, self._progress = partial, progress
        self._max_failed, self._batch = max_failed, batch
        self._failed: dict[tuple[Stage, Task], str] = {}
        self._cut_off = Counter[Stage]()
        self._failed_tokens = self._rejected = 0

    def write(self, seeds: Sequence[Seed], strategies: Sequence[Strategy], run_seed: int) -> Written:
        """Every seed with every strategy.

        Args:
            seeds: With ids of their own.
            run_seed: Decides the words around encodings.

        Raises:
            UserError: If the model cannot be asked, its budget is spent, or too many calls fail. What was answered
                is kept.
        """
        tasks = [Task(seed, strategy) for seed in seeds for strategy in dict.fromkeys(strategies)]
        asked = [task for task in tasks if not task.encoded]
        self._ask("rewrite", asked, lambda task: self._prompts.rewrite(task.seed, task.strategy.instruction))
        drafts, rejected = self._drafts(tasks, run_seed)

        self._rejected = len(rejected)
        asked = [task for task in drafts if not task.encoded]
        self._ask("reasoning", asked, lambda task: self._prompts.reasoning(task.seed, drafts[task].attack))
        entries = []
        for task, draft in drafts.items():
            if not task.encoded and (no := self._reject("reasoning", task)):
                rejected[task] = no
                continue
            thinking = draft.thinking if task.encoded else self._text("reasoning", task)
            entries.append(PoolEntry(task.seed, task.strategy.name, thinking, draft.attack))
        left_out = tuple(rejected[task] for task in tasks if task in rejected)
        return Written(tuple(entries), left_out, self._calls, self._tokens)

    def _drafts(self, tasks: Sequence[Task], run_seed: int) -> tuple[dict[Task, Rewrite], dict[Task, Rejected]]:
        """What can stand in the pool, still without the model's reasoning, and what cannot."""
        drafts: dict[Task, Rewrite] = {}
        rejected: dict[Task, Rejected] = {}
        seen: set[str] = set()
        for task in tasks:
            if task.encoded:
                rng = generator(run_seed, 0, f"attack pool: {task.strategy.name}: {task.seed.id}")
                try:
                    drafts[task] = write_attack(task.seed, task.strategy, rng)
                except ValueError as error:
                    rejected[task] = _rejected(task, "cannot be encoded", str(error))
            elif no := self._reject("rewrite", task):
                rejected[task] = no
            elif fold(attack := self._text("rewrite", task)) in seen:
                rejected[task] = _rejected(task, "the same as another rewrite", text=attack)
            else:
                seen.add(fold(attack))
                drafts[task] = Rewrite("", attack)
        return drafts, rejected

    @property
    def _calls(self) -> int:
        return len(self._partial) + len(self._failed)

    @property
    def _tokens(self) -> int:
        return self._partial.tokens + self._failed_tokens

    def _ask(self, stage: Stage, tasks: Sequence[Task], words: Callable[[Task], str]) -> None:
        """Have the questions of a stage answered that are not yet.

        Raises:
            UserError: If some could not be asked, or more calls failed than are allowed.
        """
        # What could not be used is asked again: the writer may have been repaired since.
        waiting = [task for task in tasks if not self._answer(stage, task) or self._reject(stage, task)]
        self._progress.stage(stage, len(tasks), len(tasks) - len(waiting))
        allowed = self._max_failed * len(tasks)
        first, rest = waiting[:_FIRST], waiting[_FIRST:]
        size = self._batch or max(1, len(waiting))
        for some in (first, rest):
            for start in range(0, len(some), size):
                self._ask_batch(stage, some[start : start + size], words, allowed)
            said = [no for task in first if (no := self._reject(stage, task))]
            if some is first and rest and len(said) == len(first):
                reason, times = Counter(f"{no.reason} {no.detail}".strip() for no in said).most_common(1)[0]
                raise UserError(
                    f"attacker.writer: none of the first {len(first)} answers can be used ({times} times: {reason}); "
                    "look at the model and its server before all the others are paid for"
                )

    def _ask_batch(self, stage: Stage, tasks: Sequence[Task], words: Callable[[Task], str], allowed: float) -> None:
        def note(index: int, completion: Completion) -> None:
            if completion.cause == "spent":
                return  # the answers under way are still waited for
            self._note(stage, tasks[index], completion)
            if not completion.failed:
                return
            if completion.cause == "cut_off":
                self._cut_off[stage] += 1
            failed = Counter(reason for (at, _), reason in self._failed.items() if at == stage)
            failed[f"cut off at {_MAX_TOKENS} tokens"] = self._cut_off[stage]
            if failed.total() > allowed:
                raise UserError(
                    f"attacker.writer: {failed.total()} calls failed ({failed.most_common(1)[0][0]}), more than "
                    f"--max-failed {self._max_failed:g} of this stage leaves out"
                )

        requests = [
            ChatRequest((Message("user", f"{words(task)}\n{ANSWER}"),), _MAX_TOKENS, _TEMPERATURE, SCHEMA)
            for task in tasks
        ]
        for task, completion in zip(tasks, self._chat.complete(requests, note), strict=True):
            if not self._answer(stage, task) and (stage, task) not in self._failed:
                raise UserError(f"attacker.writer: {completion.failed}")

    def _note(self, stage: Stage, task: Task, completion: Completion) -> None:
        """Take what came of one question."""
        failed, cut_off = completion.failed, completion.cause == "cut_off"
        if failed and not cut_off:
            self._failed[stage, task] = failed
            self._failed_tokens += completion.tokens
        else:
            name = task.strategy.name
            self._partial.add(Answer(stage, task.seed.id, name, completion.text, completion.tokens, cut_off))
        self._rejected += self._reject(stage, task) is not None
        self._progress.step(self._rejected, self._calls, self._tokens)

    def _answer(self, stage: Stage, task: Task) -> Answer | None:
        return self._partial.get(stage, task.seed.id, task.strategy.name)

    def _text(self, stage: Stage, task: Task) -> str:
        """What the writer wrote. Raises: ValueError: If it cannot be used; why."""
        answer = self._answer(stage, task)
        said = answer.text if answer else ""
        return self._checks.rewrite(task.seed, task.strategy, said) if stage == "rewrite" else self._checks.text(said)

    def _reject(self, stage: Stage, task: Task) -> Rejected | None:
        """Why what came of a question cannot stand in the pool, other than for what came of the others."""
        about = "reasoning: " if stage == "reasoning" else ""
        if (stage, task) in self._failed:
            return _rejected(task, f"{about}the call failed", self._failed[stage, task])
        answer = self._answer(stage, task)
        if answer is not None and answer.cut_off:
            return _rejected(task, f"{about}cut off", f"at {_MAX_TOKENS} tokens")
        try:
            self._text(stage, task)
        except ValueError as error:
            return _rejected(task, f"{about}{error}", text=answer.text if answer else "")
        return None


def _rejected(task: Task, reason: str, detail: str = "", text: str = "") -> Rejected:
    return Rejected(task.seed.id, task.strategy.name, reason, detail, text)


def _digest(value: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
