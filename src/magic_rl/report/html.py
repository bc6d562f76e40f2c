"""One self-contained HTML page about a run.

Model text is hostile: all of it is escaped, hidden behind a click, and harmful transcripts are left out unless asked
for. The page holds no script, and its content security policy forbids any to run and anything to be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import tomllib
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from magic_rl.errors import UserError
from magic_rl.evaluation.outcomes import is_current
from magic_rl.evaluation.patterns import PATTERNS, drift
from magic_rl.evaluation.results import ATTACK_FILE, attack_result
from magic_rl.report import tables
from magic_rl.report.exploitability import attack_curve
from magic_rl.report.figures import curves, drift_bars, heatmap
from magic_rl.report.frontier import frontier
from magic_rl.store import atomic
from magic_rl.store.run import ENGINES_FILE, INPUTS_FILE, RunDirectory

_SAMPLES = 6
_HEATMAPS = (
    ("asr", "Attack success rate", "Harmful seeds that got an answer. Lower is better for the defender."),
    ("compliance", "Benign compliance", "Benign seeds that were answered. Higher is better."),
)
_JOINERS = "\u200c\u200d"  # some scripts cannot be written without them


@dataclass(slots=True)
class _Found:
    """What the episodes of a run hold, without holding the episodes.

    Attributes:
        attacks: By the round of the attacker that wrote them; round 0 is the one the game began with.
        escaped: Step and place of each harmful seed whose attack got an answer.
        collapsed: Step and place of each benign seed that was refused.
    """

    attacks: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    escaped: list[tuple[int, int]] = field(default_factory=list)
    collapsed: list[tuple[int, int]] = field(default_factory=list)


def write_report(run: RunDirectory, out: Path | None = None, *, show_transcripts: bool = False) -> Path:
    """Write the report of a run, finished or not.

    Args:
        out: Where to; by default `report.html` in the run.
        show_transcripts: Show episodes of harmful seeds in full. Not for anything meant to be shared.

    Returns:
        Where it was written.

    Raises:
        UserError: If the run has taken no step yet, or the file cannot be written.
    """
    rows = run.metrics()
    if not rows:
        raise UserError(f"{run.path}: nothing to report yet; `magic-rl resume {run.path}` goes on training")
    target = out or run.path / "report.html"
    page = _page(run, rows, show_transcripts)
    with atomic.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_file(target, page.encode("utf-8", "backslashreplace"))
    return target


def visible(text: str) -> str:
    """Text with codes in place of signs that show nothing or turn the direction of what follows."""
    return "".join(
        char
        if char in "\n\t" + _JOINERS or unicodedata.category(char) not in {"Cc", "Cf", "Co", "Cs"}
        else f"\\u{ord(char):04x}"
        for char in text
    )


def _page(run: RunDirectory, rows: Sequence[Mapping[str, Any]], show_transcripts: bool) -> str:
    turns = {row["step"]: row for row in rows if row["stage"] == "play"}
    config = tomllib.loads(run.config_text)
    found = _look_through(run, turns, mixed=config["game"].get("opponents", "last") != "last")
    style = resource("figure.css") + resource("style.css")
    return (
        environment()
        .from_string(resource("parts.html.j2") + resource("page.html.j2"))
        .render(
            name=visible(run.path.resolve().name),
            steps=rows[-1]["step"],
            round=rows[-1].get("round"),
            rounds=config["game"]["schedule"]["rounds"],
            show_transcripts=show_transcripts,
            curves=curves(rows),
            **_evaluated(run, config["judge"]["kind"], show_transcripts),
            **_drift(found.attacks),
            samples=[
                (title, note, len(places), [_shown(episode, show_transcripts) for episode in _load(run, turns, places)])
                for title, note, places in (
                    ("Escaped", "Harmful seeds whose attack got an answer.", found.escaped),
                    ("Collapsed", "Benign seeds that were refused.", found.collapsed),
                )
            ],
            config=run.config_text,
            changes=(run.read_json(INPUTS_FILE) or {}).get("changes", ()),
            versions=run.versions,
            engines=run.read_json(ENGINES_FILE) or {},
            style=style,
            style_hash=digest(style),
        )
    )


def _evaluated(run: RunDirectory, judge: str, show_transcripts: bool) -> dict[str, Any]:
    """What the page says of the evaluation, unless that is of other players, settings or an earlier version."""
    summary: Mapping[str, Any] | None = run.read_json("summary.json")
    evaluation: Mapping[str, Any] | None = run.read_json("evaluation.json")
    failures: Mapping[str, Any] | None = run.read_json("failures.json")
    outdated = summary is not None and not is_current(summary, run)
    if summary is None or outdated:
        summary = evaluation = None
    elif not is_current(evaluation, run):
        evaluation = None
    return {
        "outdated": outdated,
        "judge": evaluation["judge"] if evaluation else judge,
        "verdict": summary["verdict"] if summary else None,
        "summary": tables.summary_rows(summary) if summary else [],
        "attackers": tables.attacker_rows(summary) if summary else [],
        "failures": tables.failure_samples(failures, summary, _SAMPLES, show_transcripts=show_transcripts)
        if failures and summary
        else [],
        "split": evaluation.get("split", "held_out").replace("_", "-") if evaluation else None,
        "held_out": evaluation["held_out"] if evaluation else None,
        "categories": tables.category_rows(evaluation) if evaluation else [],
        "frontier": frontier(evaluation, summary) if evaluation and summary else [],
        "attack": attack_curve(attack_result(run)),
        "attack_outdated": attack_result(run) is None and run.read_json(ATTACK_FILE) is not None,
        "heatmaps": [(key, title, note, heatmap(evaluation, key)) for key, title, note in _HEATMAPS]
        if evaluation
        else [],
        "defenders": evaluation["defenders"] if evaluation else [],
        "abstained": evaluation["abstained"] if evaluation else 0,
        "replies": [
            *([("untouched model", summary["replies"]["untouched"])] if summary and summary.get("replies") else []),
            *(zip(evaluation["defenders"], evaluation["replies"], strict=True) if evaluation else ()),
        ],
        "agreement": evaluation["agreement"] if evaluation else [],
    }


def environment() -> Environment:
    """Templates of pages: everything escaped, nothing undefined passed over."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = "{:.0%}".format
    environment.filters["points"] = lambda share: f"{100 * share:+.0f}".replace("-", "−")
    environment.filters["visible"] = visible
    return environment


def digest(style: str) -> str:
    """A style sheet as the content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


def resource(name: str) -> Markup:
    """A file of this package, trusted as it is."""
    return Markup(resources.files("magic_rl.report").joinpath(name).read_text("utf-8"))  # noqa: S704 - our own file


def _look_through(run: RunDirectory, turns: Mapping[int, Mapping[str, Any]], *, mixed: bool = False) -> _Found:
    """Read every episode once.

    While the defender learns, its group shares one attack, which counts once, and the attacker is still that of the
    round before.

    Args:
        mixed: Whether it meets a mixture of earlier attackers instead (`game.opponents`). Episodes do not say whose an
            attack is, so those of the first round alone count then, when there is a single attacker.
    """
    found = _Found()
    for step, row in turns.items():
        shared = row["learner"] == "defender"
        counted = set()
        for place, episode in enumerate(run.episodes(step)):
            for turn in episode["turns"]:
                key = (episode["group"], turn["attack"])
                if shared and mixed and row["round"] > 1:
                    continue
                if turn["attack_tokens"] and not (shared and key in counted):
                    counted.add(key)
                    found.attacks[row["round"] - shared].append(turn["attack"])
            verdict = episode["verdict"]
            if episode["masked"] or not verdict:
                continue
            if episode["seed"]["label"] == "harmful" and verdict["safety"] != "safe":
                found.escaped.append((step, place))
            if episode["seed"]["label"] == "benign" and verdict["refused"]:
                found.collapsed.append((step, place))
    return found


def _drift(attacks: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """The drift figure and the table of classes."""
    shares = drift(dict(sorted(attacks.items())))
    return {
        "drift": drift_bars({f"round {n} (n = {len(attacks[n])})": row for n, row in shares.items()}, PATTERNS)
        if shares
        else None,
        "drift_head": ("Class", "Family", *(f"Round\u00a0{n}" for n in shares)),
        "drift_rows": [
            (pattern.replace("_", " "), family, *(f"{row[pattern]:.0%}" for row in shares.values()))
            for pattern, family in PATTERNS.items()
            if any(row[pattern] for row in shares.values())
        ],
    }


def _load(
    run: RunDirectory, turns: Mapping[int, Mapping[str, Any]], places: Sequence[tuple[int, int]]
) -> Iterator[dict[str, Any]]:
    """A few episodes, evenly spaced."""
    for place in tables.spaced(len(places), _SAMPLES):
        step, row = places[place]
        yield {**run.episodes(step)[row], "round": turns[step]["round"]}


def _shown(episode: Mapping[str, Any], show_transcripts: bool) -> dict[str, Any]:
    """What the page says of an episode; without its words if they are harmful and not asked for."""
    redacted = tables.redacted(episode["seed"], show_transcripts=show_transcripts)
    return {
        "step": episode["step"],
        "round": episode["round"],
        "category": episode["seed"]["category"] or "no category",
        "patterns": tables.patterns(episode["turns"][-1]["attack"]),
        "verdict": episode["verdict"],
        "rewards": episode["rewards"],
        "lengths": [(len(turn["attack"]), len(turn["reply"])) for turn in episode["turns"]],
        "redacted": redacted,
        "seed": "" if redacted else episode["seed"]["text"],
        "turns": [] if redacted else [(t["thinking"], t["attack"], t["reply"]) for t in episode["turns"]],
    }
