"""Progress of long work: training, evaluations, fresh attackers, a writer of attacks, the runs of a study.

The work reports what happens to a `View`, and the view decides how it looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from magic_rl.types import Exchange, Verdict

RunEvent = Literal["skipped", "began", "line", "finished", "failed", "stopping"]


class View:
    """Gets reports of long work; this base class ignores them."""

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """A stage of at most `total` steps begins, or continues after `done` of them."""

    def step(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """A step was taken."""

    def exchange(self, exchange: Exchange, verdict: Verdict) -> None:
        """An exchange was judged; it is shown so that the user sees what the numbers are about."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""

    def run(self, name: str, event: RunEvent, text: str = "") -> None:
        """Something happened to one of several runs.

        Args:
            event: "skipped": it was finished before; "began": a stage of it began (`text` names it); "line": it wrote
                another line (`text`); "failed": it is left as it is (`text` says why); "stopping": the user asked it
                to stop.
        """


NOBODY = View()
Count = Callable[[int, int], None]  # called with the number done and the total
_count: ContextVar[Count] = ContextVar("count", default=lambda _done, _all: None)


def count(done: int, total: int) -> None:
    """Report progress from deep inside the work to the `counting` block around it, if any."""
    _count.get()(done, total)


@contextmanager
def counting(tell: Count) -> Iterator[None]:
    """Within the block, pass the progress that `count` reports on to `tell`."""
    before = _count.set(tell)
    try:
        yield
    finally:
        _count.reset(before)
