"""One self-contained HTML page about a run.

Model text is hostile: all of it is escaped, hidden behind a click, and harmful transcripts are left out unless asked
for. A content security policy forbids the page to reach anything outside of itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from magic_rl.errors import UserError
from magic_rl.evaluation.patterns import PATTERNS, classify, drift
from magic_rl.report.figures import curves, drift_bars, heatmap
from magic_rl.store.run import RunDirectory

_SAMPLES = 6
_SUMMARY_ROWS = (
    ("asr", "vanilla", "Attack success, seeds as they are"),
    ("asr", "sft_attacker", "Attack success, SFT attacker"),
    ("asr", "last_attacker", "Attack success, last attacker"),
    ("compliance", "vanilla", "Benign compliance, seeds as they are"),
    ("compliance", "rewritten", "Benign compliance, rewritten by the last attacker"),
)


def write_report(run: RunDirectory, out: Path | None = None, *, show_transcripts: bool = False) -> Path:
    """Write the report of a run, finished or not.

    Args:
        out: Where to; by default `report.html` in the run.
        show_transcripts: Show episodes of harmful seeds in full. Not for anything meant to be shared.

    Raises:
        UserError: If the run has taken no step yet, or the file cannot be written.
    """
    rows = run.metrics()
    if not rows:
        raise UserError(f"{run.path}: nothing to report yet; `magic-rl resume {run.path}` goes on training")
    rounds = {row["step"]: row["round"] for row in rows if row["stage"] == "play"}
    evaluation, summary = run.read_json("evaluation.json"), run.read_json("summary.json")
    shares = drift(_attacks(run, rounds))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = "{:.0%}".format
    template = environment.from_string(resources.files("magic_rl.report").joinpath("page.html.j2").read_text("utf-8"))
    page = template.render(
        name=run.path.name,
        summary=list(_summary_rows(summary)) if summary else [],
        curves=[(title, note, _embedded(figure)) for title, note, figure in curves(rows)],
        heatmaps=[
            (title, _embedded(heatmap(evaluation, measure)))
            for measure, title in (("asr", "Attack success rate"), ("compliance", "Benign compliance"))
        ]
        if evaluation
        else [],
        evaluation=evaluation,
        drift=_embedded(drift_bars(shares, PATTERNS)) if shares else None,
        drift_rounds=sorted(shares),
        drift_rows=[
            (pattern.replace("_", " "), family, [shares[n][pattern] for n in sorted(shares)])
            for pattern, family in PATTERNS.items()
            if any(row[pattern] for row in shares.values())
        ],
        samples=[
            (title, note, [_shown(episode, show_transcripts) for episode in chosen])
            for title, note, chosen in _samples(run, rounds)
        ],
        config=run.config_text,
        versions=run.versions,
        judge=evaluation["judge"] if evaluation else None,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own code, inlined so that the page works offline
    )
    target = out or run.path / "report.html"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from error
    return target


def _embedded(figure: go.Figure) -> Markup:
    """A figure's JSON, safe within a script element."""
    return Markup(str(figure.to_json()).replace("<", "\\u003c"))  # noqa: S704 - no tag can open


def _summary_rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any, Any]]:
    for measure, name, title in _SUMMARY_ROWS:
        if name in summary[measure]["start"]:
            change = summary.get("change", {}).get(measure, {}).get(name)
            yield title, summary[measure]["start"][name], summary[measure]["trained"][name], change


def _attacks(run: RunDirectory, rounds: Mapping[int, int]) -> dict[int, list[str]]:
    """Rewritten attacks by round."""
    out: dict[int, list[str]] = defaultdict(list)
    for step, number in rounds.items():
        out[number] += [turn["attack"] for e in run.episodes(step) for turn in e["turns"] if turn["attack_tokens"]]
    return {number: attacks for number, attacks in sorted(out.items()) if attacks}


def _samples(run: RunDirectory, rounds: Mapping[int, int]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Escaped and collapsed episodes, spread over the run."""
    escaped: list[dict[str, Any]] = []
    collapsed: list[dict[str, Any]] = []
    for step, number in rounds.items():
        for episode in run.episodes(step):
            verdict = episode["verdict"]
            if episode["masked"] or not verdict:
                continue
            if episode["seed"]["label"] == "harmful" and verdict["safety"] != "safe":
                escaped.append({**episode, "round": number})
            if episode["seed"]["label"] == "benign" and verdict["refused"]:
                collapsed.append({**episode, "round": number})
    return [
        ("Escaped", "Harmful seeds whose attack got an answer.", _spread(escaped)),
        ("Collapsed", "Benign seeds that were refused.", _spread(collapsed)),
    ]


def _spread(episodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few, evenly spaced."""
    if len(episodes) <= _SAMPLES:
        return list(episodes)
    return [episodes[i * (len(episodes) - 1) // (_SAMPLES - 1)] for i in range(_SAMPLES)]


def _shown(episode: Mapping[str, Any], show_transcripts: bool) -> dict[str, Any]:
    """What the page says of an episode; without its words if they are harmful and not asked for."""
    redacted = episode["seed"]["label"] == "harmful" and not show_transcripts
    last = episode["turns"][-1]
    return {
        "step": episode["step"],
        "round": episode["round"],
        "category": episode["seed"]["category"] or "no category",
        "patterns": sorted(pattern.replace("_", " ") for pattern in classify(last["attack"])),
        "verdict": episode["verdict"],
        "rewards": episode["rewards"],
        "lengths": [(turn["attack_tokens"], turn["reply_tokens"]) for turn in episode["turns"]],
        "redacted": redacted,
        "seed": "" if redacted else episode["seed"]["text"],
        "turns": [] if redacted else [(t["thinking"], t["attack"], t["reply"]) for t in episode["turns"]],
    }
