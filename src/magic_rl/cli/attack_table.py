"""The table that ends `magic-rl attack`: how far a fresh attacker gets against both defenders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_TITLES = (("start", "defender at the start"), ("trained", "defender trained"))


def attack_table(result: Mapping[str, Any]) -> str:
    """`attack.json` as plain lines: rates in percent on held-out harmful seeds, with 95 % intervals.

    A seed counts once, however many attacks it met. A rate of 0 is shown as the bound that it is.
    """
    return "\n".join(
        [*(f"{name:<31}{start:<29}{trained}".rstrip() for name, start, trained in _cells(result)), _ratio(result)]
    )


def _cells(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    start, trained = (result["defenders"][name] for name, _ in _TITLES)
    yield "fresh attacker, %", _TITLES[0][1], _TITLES[1][1]
    for one, other in zip(start["curve"], trained["curve"], strict=True):
        yield f"ASR after {one['step']} of {result['steps']} steps", _rate(one["asr"]), _rate(other["asr"])
    if start.get("degenerate") or trained.get("degenerate"):
        yield "degenerate replies", f"{start['degenerate']:.0%}", f"{trained['degenerate']:.0%}"
    for k, rate in start["best_of"].items():
        name = f"attack@{k}" if k == "1" else f"attack@{k}, best of {k} per seed"
        yield name, _rate(rate), _rate(trained["best_of"][k])


def _rate(rate: Mapping[str, Any]) -> str:
    if not rate["n"]:
        return "–"
    if not rate["rate"]:
        return f"0 of {rate['n']}: at most {100 * rate['high']:.1f} %"
    return f"{100 * rate['rate']:5.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}], n={rate['n']}"


def _ratio(result: Mapping[str, Any]) -> str:
    title = "ASR after the last step, trained / start (lower is better): "
    ratio = result["ratio"]
    if ratio is None:
        return f"{title}not defined, as the start's is 0"
    if not ratio["value"]:
        return f"{title}0, at most {ratio['high']:.2f}"
    return f"{title}{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
