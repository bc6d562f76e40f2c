"""Who watches long work: training, evaluations, fresh attackers, a writer of attacks, the runs of a study.

Work says what happens; how that looks is up to whoever listens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from magic_rl.types import Exchange, Verdict

RunEvent = Literal["skipped", "began", "line", "finished", "failed", "stopping"]


class View:
    """Somebody who watches; as it stands, nobody does."""

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """A stage of at most `total` steps begins, or continues after `done` of them."""

    def step(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """A step was taken."""

    def exchange(self, exchange: Exchange, verdict: Verdict) -> None:
        """An attack and the reply to it, so that whoever watches sees what the numbers are about."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""

    def run(self, name: str, event: RunEvent, text: str = "") -> None:
        """Something happened to one of several runs.

        Args:
            event: It was finished before; a stage of it began (`text` names it); it wrote another line; it is finished;
                it failed and is left as it is (`text` says why); or it was told to stop, as the user asked.
        """


NOBODY = View()
Count = Callable[[int, int], None]  # of what was done, and of all
_count: ContextVar[Count] = ContextVar("count", default=lambda _done, _all: None)


def count(done: int, total: int) -> None:
    """Work deep below says how far it is, to whoever counts."""
    _count.get()(done, total)


@contextmanager
def counting(tell: Count) -> Iterator[None]:
    """Within the block `tell` is told how far work is."""
    before = _count.set(tell)
    try:
        yield
    finally:
        _count.reset(before)
