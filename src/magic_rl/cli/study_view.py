"""Watching a study: a table of the runs at work in a terminal, a line for what happens anywhere else."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from magic_rl.cli.shown import shown
from magic_rl.cli.view import TerminalView, clock
from magic_rl.view import RunEvent

_TITLES = {"train": "training", "resume": "training, resumed", "evaluate": "evaluation", "attack": "fresh attacker"}
_PAUSE = 60.0  # seconds between two lines about the same run
_WIDTH = 160  # characters of a line that a run wrote


class StudyView(TerminalView):
    """Shows which runs are at work and how the others ended."""

    _refresh = 2

    def __init__(self, total: int, console: Console | None = None) -> None:
        """Args: total: Runs of the study. console: See `TerminalView`."""
        super().__init__(console)
        self._total, self._done, self._failed = total, 0, 0
        self._at_work: dict[str, tuple[str, str]] = {}  # stage and last line of each run
        self._since: dict[str, float] = {}
        self._said: dict[str, float] = {}
        self._began = time.monotonic()

    def run(self, name: str, event: RunEvent, text: str = "") -> None:
        now, title = time.monotonic(), _TITLES.get(text, text)
        self._done += event in ("skipped", "finished")
        self._failed += event == "failed"
        if event == "began":
            self._since.setdefault(name, now)
            self._at_work[name] = (title, "")
        elif event == "line":
            self._at_work[name] = (self._at_work.get(name, ("", ""))[0], shown(text, _WIDTH))
            if self._live is not None or now - self._said.get(name, 0.0) < _PAUSE:
                return
        elif event in ("finished", "failed"):
            self._at_work.pop(name, None)
        self._said[name] = now
        took = clock(now - self._since.get(name, now))
        said: dict[RunEvent, str] = {
            "skipped": f"finished before ({self._count()})",
            "began": title,
            "line": f"{text}, {took} so far",
            "finished": f"finished after {took} ({self._count()})",
            "failed": f"failed: {text}",
            "stopping": "finishing its step, then saving; press Ctrl-C again to stop at once",
        }
        self.note(shown(f"{name}: {said[event]}", 2 * _WIDTH))

    def _count(self) -> str:
        return f"{self._done} of {self._total}"

    def _panel(self) -> Group:
        now = time.monotonic()
        failed = f", {self._failed} failed" if self._failed else ""
        head = f"{self._count()} runs finished{failed}, {clock(now - self._began)}"
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(overflow="fold")
        table.add_column()
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)  # what the others leave
        for run, (stage, text) in list(self._at_work.items()):
            table.add_row(Text(run), Text(stage, "dim"), clock(now - self._since.get(run, now)), Text(text, "dim"))
        return Group(Text(head), table)
