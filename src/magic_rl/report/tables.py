"""Rows of the report's evaluation tables, and the held-out failures as they may be shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from magic_rl.evaluation.patterns import classify

_ATTACKS = {
    "vanilla": "seeds as they are",
    "sft_attacker": "rewritten by the SFT attacker",
    "last_attacker": "rewritten by the last attacker",
}
_MEASURES = (
    ("asr", "Attack success rate (ASR)", "↓ lower is better"),
    ("compliance", "Benign compliance", "↑ higher is better"),
    ("j", "J = compliance − ASR, in points", "↑ higher is better"),
)
_FAILURES = (
    ("escaped", "Escaped", "Held-out harmful seeds that the trained defender answered."),
    ("refused", "Refused", "Held-out benign seeds that the trained defender refused."),
)
WHO = ("untouched", "start", "trained")


def summary_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table, measure by measure.

    Returns:
        `{"title", "direction", "is_rate", "rows"}` for each measure, and a row `{"title", "cells", "change"}` for each
        kind of attacks. Cells are rates or, of J, estimates: None where one of the rates rests on no episode.
    """
    return [
        {
            "title": title,
            "direction": direction,
            "is_rate": measure != "j",
            "rows": [
                {
                    "title": name,
                    "cells": [_cell(summary, measure, who, attacks) for who in WHO],
                    "change": _change(summary, measure, attacks),
                }
                for attacks, name in _ATTACKS.items()
                if attacks in summary[measure]["start"]
            ],
        }
        for measure, title, direction in _MEASURES
    ]


def attacker_rows(summary: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """For each attacker its format rate and on-topic rate, the latter None where the judge labels no prompts."""
    return [
        (name.removeprefix("rewritten by the "), rates["format"], rates["on_topic"])
        for attacks, name in _ATTACKS.items()
        if (rates := summary["attackers"].get(attacks))
    ]


def category_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """For each held-out category a row for each kind of attacks: `{"title", "asr", "compliance"}`."""
    return [
        (
            category or "no category",
            [{"title": name, **attacks[key]} for key, name in _ATTACKS.items() if key in attacks],
        )
        for category, attacks in evaluation["categories"].items()
    ]


def failure_samples(
    failures: Mapping[str, Any], summary: Mapping[str, Any], most: int, *, show_transcripts: bool
) -> list[dict[str, Any]]:
    """A few failures of the trained defender, evenly spaced over the attackers.

    Args:
        failures: failures.json.
        summary: summary.json, which knows how many there were in all.
        most: How many of each kind.
        show_transcripts: Whether the words of harmful seeds are shown.

    Returns:
        `{"title", "note", "total", "shown"}` for each kind.
    """
    samples = []
    for kind, title, note in _FAILURES:
        found = [(name, row) for name, kinds in failures["trained"].items() for row in kinds[kind]]
        chosen = [found[i] for i in spaced(len(found), most)]
        samples.append(
            {
                "title": title,
                "note": note,
                "total": sum(_failed(summary, kind)),
                "shown": [_shown(name, row, show_transcripts) for name, row in chosen],
            }
        )
    return samples


def spaced(total: int, most: int) -> list[int]:
    """At most `most` places of `total`, evenly spaced, the first and the last among them."""
    count = min(most, total)
    return [i * (total - 1) // max(1, count - 1) for i in range(count)]


def redacted(seed: Mapping[str, Any], *, show_transcripts: bool) -> bool:
    """Whether an exchange is shown without its words: it is about harm, and nobody asked for them."""
    return seed["label"] == "harmful" and not show_transcripts


def patterns(attack: str) -> list[str]:
    """The classes an attack shows, in plain words."""
    return sorted(pattern.replace("_", " ") for pattern in classify(attack))


def _cell(summary: Mapping[str, Any], measure: str, who: str, attacks: str) -> Any:
    return summary[measure][who][attacks] if measure != "j" or _counts(summary, measure, who, attacks) else None


def _change(summary: Mapping[str, Any], measure: str, attacks: str) -> Any:
    """None where there was nothing to compare."""
    measured = all(_counts(summary, measure, who, attacks) for who in ("start", "trained"))
    return summary["change"][measure][attacks] if measured else None


def _counts(summary: Mapping[str, Any], measure: str, who: str, attacks: str) -> bool:
    """Whether a number rests on episodes; J needs both kinds."""
    return all(summary[of][who][attacks]["n"] for of in (("asr", "compliance") if measure == "j" else (measure,)))


def _failed(summary: Mapping[str, Any], kind: str) -> Iterator[int]:
    for rate in summary["asr" if kind == "escaped" else "compliance"]["trained"].values():
        hits = round(rate["rate"] * rate["n"])
        yield hits if kind == "escaped" else rate["n"] - hits


def _shown(attacks: str, row: Mapping[str, Any], show_transcripts: bool) -> dict[str, Any]:
    """What the page says of a failure; without its words if they are harmful and not asked for."""
    turns: Sequence[Mapping[str, str]] = row["turns"]
    hidden = redacted(row["seed"], show_transcripts=show_transcripts)
    return {
        "attacks": _ATTACKS[attacks],
        "category": row["seed"]["category"] or "no category",
        "failed_at_start": row["failed_at_start"],
        "patterns": patterns(turns[-1]["attack"]),
        "lengths": [(len(turn["attack"]), len(turn["reply"])) for turn in turns],
        "redacted": hidden,
        "seed": "" if hidden else row["seed"]["text"],
        "turns": [] if hidden else [(turn["thinking"], turn["attack"], turn["reply"]) for turn in turns],
    }
