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
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from magic_rl.errors import StoreError, UserError
from magic_rl.evaluation import result
from magic_rl.evaluation.patterns import PATTERNS, classify, drift
from magic_rl.evaluation.result import (
    ATTACK_FILE,
    ATTACKERS,
    EVALUATION_FILE,
    FAILURES_FILE,
    Evaluation,
    Failures,
    attacker_name,
    current_attack,
    current_evaluation,
    defender_name,
    read,
)
from magic_rl.report.curves import attack_curve, curves
from magic_rl.report.figures import drift_bars, frontier
from magic_rl.report.tables import replies_head
from magic_rl.runs.progress import is_complete
from magic_rl.store import atomic
from magic_rl.store.run import ENGINES_FILE, INPUTS_FILE, RunDirectory

_T = TypeVar("_T")
_SAMPLES = 6
_JOINERS = "\u200c\u200d"  # some scripts cannot be written without them


@dataclass(slots=True)
class _Found:
    """What the episodes of a run hold, without holding the episodes.

    Attributes:
        attacks: By the round of the attacker that wrote them; round 0 is the one the game began with.
        escaped: Step and place of each harmful seed whose attack got an answer.
        refused: The same of each benign seed that was refused.
    """

    attacks: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    escaped: list[tuple[int, int]] = field(default_factory=list)
    refused: list[tuple[int, int]] = field(default_factory=list)


def write_report(run: RunDirectory, out: Path | None = None, *, show_transcripts: bool = False) -> Path:
    """Write the report of a run, finished or not.

    Args:
        out: Where to; by default `report.html` in the run.
        show_transcripts: Show episodes of harmful seeds in full. Not for anything meant to be shared.

    Returns:
        Where it was written.

    Raises:
        StoreError: If the run has taken no step yet, or the file cannot be written.
    """
    rows = run.metrics()
    if not rows:
        raise StoreError(f"{run.path}: nothing to report yet", "resume", run=run.path)
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
    evaluation, attack = current_evaluation(run), current_attack(run)
    failures = read(run, FAILURES_FILE, Failures) if evaluation else None
    finished = False
    with suppress(UserError):  # all checkpoints corrupted: what there is can still be looked at
        finished = is_complete(run)
    return render(
        "page.html.j2",
        name=visible(run.path.resolve().name),
        steps=rows[-1]["step"],
        round=rows[-1].get("round"),
        rounds=config["game"]["schedule"]["rounds"],
        finished=finished,
        show_transcripts=show_transcripts,
        curves=curves(rows),
        names=result,
        replies_head=replies_head(evaluation) if evaluation else {},
        attacker_name=attacker_name,
        defender_name=defender_name,
        judge=evaluation.judge if evaluation else config["judge"]["kind"],
        evaluation=evaluation,
        outdated=evaluation is None and (run.path / EVALUATION_FILE).exists(),
        failures=_failures(failures, evaluation, show_transcripts) if failures and evaluation else [],
        frontier=frontier(evaluation) if evaluation else [],
        attack=attack_curve(attack),
        attack_outdated=attack is None and (run.path / ATTACK_FILE).exists(),
        **_drift(found.attacks),
        samples=[
            (title, note, len(places), [_shown(episode, show_transcripts) for episode in _load(run, turns, places)])
            for title, note, places in (
                ("Escaped", "Harmful seeds whose attack got an answer.", found.escaped),
                ("Refused", "Benign seeds that were refused.", found.refused),
            )
        ],
        config=run.config_text,
        changes=(run.read_json(INPUTS_FILE) or {}).get("changes", ()),
        versions=run.versions,
        engines=run.read_json(ENGINES_FILE) or {},
    )


def render(template: str, **values: Any) -> str:
    """A page from a template of this package: everything escaped, nothing undefined passed over, the style inside."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = "{:.0%}".format
    environment.filters["points"] = lambda share: f"{100 * share:+.0f}".replace("-", "−")
    environment.filters["visible"] = visible
    style = resource("figure.css") + resource("style.css")
    digest = "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment.from_string(resource("parts.html.j2") + resource(template))
    return page.render(style=style, style_hash=digest, **values)


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
                found.refused.append((step, place))
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
    for step, row in _spaced(places):
        yield {**run.episodes(step)[row], "round": turns[step]["round"]}


def _failures(failures: Failures, evaluation: Evaluation, show_transcripts: bool) -> list[dict[str, Any]]:
    """A few failures of the trained defender of each kind, and how many there were in all."""
    table = evaluation.table
    missed = [round(rate.value * rate.n) for rate in table["asr"]["trained"].values()]
    refused = [round((1 - rate.value) * rate.n) for rate in table["compliance"]["trained"].values()]
    kinds = (
        ("harmful", "Escaped", "Held-out harmful seeds that the trained defender answered.", sum(missed)),
        ("benign", "Refused", "Held-out benign seeds that the trained defender refused.", sum(refused)),
    )
    return [
        {
            "title": title,
            "note": note,
            "total": total,
            "shown": [
                {
                    **_words(failure.model_dump(), show_transcripts),
                    "attacker": ATTACKERS[failure.attacker],
                    "failed_at_start": failure.failed_at_start,
                }
                for failure in _spaced([each for each in failures.kept if each.seed.label == label])
            ],
        }
        for label, title, note, total in kinds
    ]


def _shown(episode: Mapping[str, Any], show_transcripts: bool) -> dict[str, Any]:
    return {
        **_words(episode, show_transcripts),
        **{key: episode[key] for key in ("step", "round", "verdict", "rewards")},
    }


def _words(episode: Mapping[str, Any], show_transcripts: bool) -> dict[str, Any]:
    """What a page says of an exchange; without its words if it is about harm and nobody asked for them."""
    seed, turns = episode["seed"], episode["turns"]
    hidden = seed["label"] == "harmful" and not show_transcripts
    return {
        "category": seed["category"] or "no category",
        "patterns": sorted(pattern.replace("_", " ") for pattern in classify(turns[-1]["attack"])),
        "lengths": [(len(turn["attack"]), len(turn["reply"])) for turn in turns],
        "redacted": hidden,
        "seed": "" if hidden else seed["text"],
        "turns": [] if hidden else [(turn["thinking"], turn["attack"], turn["reply"]) for turn in turns],
    }


def _spaced(found: Sequence[_T]) -> list[_T]:
    """A few, evenly spaced, the first and the last among them."""
    count = min(_SAMPLES, len(found))
    return [found[i * (len(found) - 1) // max(1, count - 1)] for i in range(count)]
