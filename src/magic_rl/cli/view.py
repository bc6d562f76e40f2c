"""Watching a run, or a pool being written: a live panel in a terminal, plain lines anywhere else.

The panel shows who is learning, what came of the last step and how long the rest will take. Lines carry the same
numbers, one step per line, without control characters, so they can be piped and searched.
"""

from __future__ import annotations

import time
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from magic_rl.cli.shown import shown
from magic_rl.types import Exchange, Verdict
from magic_rl.view import View

_WIDTH = 160  # characters shown of a text

_TITLES = {
    "sft_attacker": "attacker SFT",
    "warmup_defender": "defender warm-up",
    "play": "co-evolution",
    "attack": "attacks for evaluation",
    "evaluate": "evaluation",
    "classes": "classes of attacks",
    "attack_start": "fresh attacker, starting defender",
    "attack_trained": "fresh attacker, trained defender",
    "rewrite": "rewrites",
}
# Metric, name on screen, how to write it.
_SHOWN = (
    ("asr", "ASR", "{:.0%}"),
    ("refusal_harmful", "refused harmful", "{:.0%}"),
    ("refusal_benign", "refused benign", "{:.0%}"),
    ("reward_defender", "reward defender", "{:+.2f}"),
    ("reward_attacker", "reward attacker", "{:+.2f}"),
    ("format_rate", "format", "{:.0%}"),
    ("compliance", "compliance", "{:.0%}"),
    ("loss", "loss", "{:.3f}"),
    ("reply_kl", "KL to the untouched model", "{:.2f}"),
    ("degenerate_rate", "degenerate replies", "{:.0%}"),
    ("masked_cut_off", "cut off", "{}"),
    ("masked_abstained", "abstained", "{}"),
    ("rejected", "rejected", "{}"),
    ("calls", "calls", "{}"),
    ("tokens", "tokens", "{}"),
)


class TerminalView(View, ABC):
    """What views have in common. Use as a context manager; lines are printed even outside of one."""

    _refresh = 4  # times per second

    def __init__(self, console: Console | None = None) -> None:
        """Args: console: Where to write; by default standard error, so that standard output stays clean."""
        self._console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, refresh_per_second=self._refresh, get_renderable=self._panel)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        """One line, above the panel if there is one, of signs that cannot steer a terminal."""
        self._console.print(_plain(text), soft_wrap=True, markup=False, emoji=False, highlight=False)

    @abstractmethod
    def _panel(self) -> RenderableType:
        """What a terminal shows, as of now."""


class Screen(TerminalView):
    """Shows a run as it goes.

    The time left is that of the current stage, from the mean duration of its last steps.
    """

    def __init__(self, console: Console | None = None, *, pause: float = 0.0) -> None:
        """Args: pause: Seconds that pass at least between the lines of two steps where there is no panel."""
        super().__init__(console)
        self._pause = pause
        self._stage, self._total, self._done = "", 0, 0
        self._metrics: Mapping[str, Any] = {}
        self._speed: float | None = None
        self._exchange: tuple[tuple[str, str], ...] = ()
        self._seconds: list[float] = []
        self._last = self._said = time.monotonic()

    def stage(self, name: str, total: int, done: int = 0) -> None:
        self._stage, self._total, self._done = _TITLES.get(name, name), total, done
        self._metrics, self._speed, self._seconds = {}, None, []
        self._last = self._said = time.monotonic()
        if self._live is None:
            self.note(f"{self._stage}: {total} step{'s' if total != 1 else ''}")

    def step(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        now = time.monotonic()
        self._seconds = [*self._seconds[-15:], now - self._last]
        self._last = now
        self._done += 1
        self._metrics, self._speed = metrics, timing.get("tokens_per_second")
        if self._live is None and (self._done == self._total or now - self._said >= self._pause):
            self._said = now
            numbers = ", ".join(f"{name} {value}" for name, value in self._numbers())
            self.note(f"{self._stage} {self._done}/{self._total} {self._who()}{numbers}, {clock(self._left())} left")

    def exchange(self, exchange: Exchange, verdict: Verdict) -> None:
        """An attack and the reply to it, shortened; in a panel the last one stays on show."""
        outcome = "refused" if verdict.refused else "safe" if verdict.safety == "safe" else "harmful"
        self._exchange = (
            (f"{exchange.seed.label} seed", exchange.seed.text),
            ("attack", exchange.attack),
            ("reply", exchange.reply),
            ("judged", verdict.abstained or outcome),
        )
        if self._live is None:
            for name, text in self._exchange:
                self.note(f"  {name}: {_short(text)}")

    def _who(self) -> str:
        if "learner" in self._metrics:
            return f"round {self._metrics['round']}, {self._metrics['learner']} learns: "
        if "attacker" in self._metrics:
            return f"{', '.join(self._metrics[who] for who in ('attacker', 'defender') if who in self._metrics)}: "
        return ""

    def _numbers(self) -> list[tuple[str, str]]:
        shown = [
            (name, form.format(self._metrics[key]))
            for key, name, form in _SHOWN
            if self._metrics.get(key) is not None
            and (self._metrics[key] or not key.startswith(("masked", "degenerate")))
        ]
        if self._speed is not None:
            shown.append(("tokens/s", f"{self._speed:.0f}"))
        return shown

    def _left(self) -> float:
        """Seconds until the stage ends."""
        if not self._seconds:
            return 0.0
        left = (self._total - self._done) * sum(self._seconds) / len(self._seconds)
        return max(0.0, left - (time.monotonic() - self._last))

    def _panel(self) -> Panel:
        progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
        )
        left = f"{clock(self._left())} left" if self._seconds else ""
        progress.add_task(self._stage or "starting", total=self._total or 1, completed=self._done, left=left)
        table = Table.grid(Column(), Column(no_wrap=True), Column(), Column(no_wrap=True), padding=(0, 3))
        numbers = self._numbers()
        half = (len(numbers) + 1) // 2
        for one, two in zip(numbers[:half], [*numbers[half:], ("", "")], strict=False):
            table.add_row(_dim(one[0]), one[1], _dim(two[0]), two[1])
        last = Table.grid(padding=(0, 2))
        for name, text in self._exchange:
            last.add_row(_dim(name), Text(_short(text)))
        return Panel(Group(progress, escape(self._who().rstrip(": ")), table, last), title="MAGIC", title_align="left")


def _plain(text: str) -> str:
    """Text without signs that could steer a terminal."""
    return "".join(" " if unicodedata.category(char) in {"Cc", "Cf"} else char for char in text)


def _dim(text: str) -> Text:
    """A label. Not markup, as a line printed above a panel without markup draws the panel without it too."""
    return Text(text, style="dim")


def _short(text: str) -> str:
    return shown(text, _WIDTH) or "(nothing)"


def clock(seconds: float) -> str:
    """A duration as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
