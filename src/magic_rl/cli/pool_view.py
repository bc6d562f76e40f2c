"""Watching a model write the attack pool: a bar in a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_TITLES = {"rewrite": "rewrites", "reasoning": "reasoning"}
_PAUSE = 10.0  # seconds between two lines


class PoolView:
    """Shows how far a writer is. Implements `attacks.writer.Progress`; use as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        """Args: console: Where to write; by default standard error, so that standard output stays clean."""
        self._console = console or Console(stderr=True, highlight=False)
        live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[spent]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=not live,
        )
        self._live = live
        self._title, self._total, self._done = "", 0, 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stage(self, name: str, total: int) -> None:
        """See `Progress.stage`."""
        self._title, self._total, self._done = _TITLES.get(name, name), total, 0
        self._began = self._said = time.monotonic()
        for task in self._bar.task_ids:
            self._bar.stop_task(task)
        self._bar.add_task(self._title, total=total, spent="")
        if not self._live:
            self._line(f"{self._title}: {total} to write")

    def step(self, rejected: int, calls: int, tokens: int) -> None:
        """See `Progress.step`."""
        self._done += 1
        spent = f"{rejected} rejected, {calls} calls, {tokens} tokens"
        if self._live:
            self._bar.update(self._bar.task_ids[-1], completed=self._done, spent=spent)
            return
        now = time.monotonic()
        if self._done == self._total or now - self._said >= _PAUSE:
            self._said = now
            seconds = (self._total - self._done) * (now - self._began) / self._done
            left = timedelta(seconds=round(seconds))
            self._line(f"{self._title} {self._done}/{self._total}: {spent}, {left} left")

    def _line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, emoji=False, highlight=False)
