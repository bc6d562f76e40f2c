"""The table that ends an evaluation: what the defender lost and kept, each rate with its 95 % interval and count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_ROWS = (
    ("asr", "vanilla", "ASR, vanilla seeds"),
    ("asr", "sft_attacker", "ASR, SFT attacker"),
    ("asr", "last_attacker", "ASR, last attacker"),
    ("compliance", "vanilla", "benign compliance, vanilla"),
    ("compliance", "rewritten", "benign compliance, rewritten"),
)


def summary_table(summary: Mapping[str, Any]) -> str:
    """`summary.json` as plain lines: the starting and the trained defender on held-out seeds, in percent.

    The change is the paired difference, in points, also with its 95 % interval.
    """
    return "\n".join(
        f"{name:<30}{start:<29}{trained:<29}{change}".rstrip() for name, start, trained, change in _cells(summary)
    )


def _cells(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    yield "held-out seeds, %", "defender at the start", "defender trained", "change"
    for measure, key, name in _ROWS:
        start, trained = (summary[measure][who].get(key) for who in ("start", "trained"))
        yield name, _rate(start), _rate(trained), _change(summary.get("change", {}).get(measure, {}).get(key))


def _rate(rate: Mapping[str, Any] | None) -> str:
    """A rate; nothing was measured when it is missing or rests on no episode."""
    if rate is None or not rate["n"]:
        return "–"
    return f"{100 * rate['rate']:5.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}], n={rate['n']}"


def _change(change: Mapping[str, Any] | None) -> str:
    if change is None:
        return ""
    return f"{100 * change['mean']:+.1f} [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]"
