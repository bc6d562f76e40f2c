"""Watching a study: a table of the runs at work in a terminal, a line for what happens anywhere else."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from magic_rl.cli.shown import shown
from magic_rl.cli.view import clock

_TITLES = {"train": "training", "resume": "training, resumed", "evaluate": "evaluation", "attack": "fresh attacker"}
_PAUSE = 60.0  # seconds between two lines about the same run
_WIDTH = 160  # characters of a line that a run wrote


class StudyView:
    """Shows which runs are at work and how the others ended. Implements `study.runner.Watcher`; a context manager."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        """Make a view.

        Args:
            total: Runs of the study.
            console: Where to write; by default standard error, so that standard output stays clean.
        """
        self._console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._total, self._done, self._failed = total, 0, 0
        self._at_work: dict[str, tuple[str, str]] = {}  # stage and last line of each run
        self._since: dict[str, float] = {}
        self._said: dict[str, float] = {}
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, refresh_per_second=2, get_renderable=self._panel)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def skipped(self, run: str) -> None:
        """See `Watcher.skipped`."""
        self._done += 1
        self._line(f"{run}: finished before ({self._count()})")

    def began(self, run: str, stage: str) -> None:
        """See `Watcher.began`."""
        self._since.setdefault(run, time.monotonic())
        self._said[run] = time.monotonic()
        self._at_work[run] = (_TITLES.get(stage, stage), "")
        self._line(f"{run}: {_TITLES.get(stage, stage)}")

    def line(self, run: str, text: str) -> None:
        """See `Watcher.line`."""
        stage, _ = self._at_work.get(run, ("", ""))
        self._at_work[run] = (stage, shown(text, _WIDTH))
        if self._live is None and time.monotonic() - self._said.get(run, 0.0) >= _PAUSE:
            self._said[run] = time.monotonic()
            self._line(f"{run}: {text}, {self._time(run)} so far")

    def finished(self, run: str) -> None:
        """See `Watcher.finished`."""
        self._done += 1
        self._line(f"{run}: finished after {self._time(run)} ({self._count()})")
        self._at_work.pop(run, None)

    def failed(self, run: str, why: str) -> None:
        """See `Watcher.failed`."""
        self._failed += 1
        self._at_work.pop(run, None)
        self._line(f"{run}: failed: {why}")

    def stopping(self, run: str) -> None:
        """See `Watcher.stopping`."""
        self._line(f"{run}: finishing its step, then saving; press Ctrl-C again to stop at once")

    def _count(self) -> str:
        return f"{self._done} of {self._total}"

    def _time(self, run: str) -> str:
        return clock(time.monotonic() - self._since.get(run, time.monotonic()))

    def _line(self, text: str) -> None:
        self._console.print(shown(text, 2 * _WIDTH), soft_wrap=True, markup=False, emoji=False, highlight=False)

    def _panel(self) -> Group:
        failed = f", {self._failed} failed" if self._failed else ""
        head = f"{self._count()} runs finished{failed}, {clock(time.monotonic() - self._began)}"
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis")
        for run, (stage, text) in list(self._at_work.items()):
            table.add_row(Text(run), Text(stage, "dim"), self._time(run), Text(text, "dim"))
        return Group(Text(head), table)
