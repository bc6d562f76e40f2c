"""The table that ends an evaluation: what the defender lost and kept, each rate with n and a 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_ROWS = (
    ("asr", "vanilla", "ASR, vanilla seeds"),
    ("asr", "sft_attacker", "ASR, SFT attacker"),
    ("asr", "last_attacker", "ASR, last attacker"),
    ("compliance", "vanilla", "benign compliance, vanilla"),
    ("compliance", "rewritten", "benign compliance, rewritten"),
)


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print `summary.json`: starting against trained defender on held-out seeds."""
    table = Table(
        title="Held-out seeds: rate [95 % Wilson interval], n", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("")
    table.add_column("defender at the start", no_wrap=True)
    table.add_column("defender trained", no_wrap=True)
    for measure, key, name in _ROWS:
        table.add_row(name, *(_cell(summary[measure][who].get(key)) for who in ("start", "trained")))
    (console or Console()).print(table)


def _cell(rate: Mapping[str, Any] | None) -> str:
    if rate is None or not rate["n"]:
        return "–"
    return f"{rate['rate']:6.1%} \\[{rate['low']:.1%}, {rate['high']:.1%}], n={rate['n']}"
