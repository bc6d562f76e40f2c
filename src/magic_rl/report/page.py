"""One self-contained HTML page about a run.

Model text is hostile: all of it is escaped and hidden behind a click, and harmful transcripts are left out unless asked
for. The page has no script, and its content security policy forbids running one or fetching anything.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from magic_rl.errors import StoreError, UserError
from magic_rl.evaluation import result
from magic_rl.evaluation.drift import DRIFT_FILE, Drift
from magic_rl.evaluation.restricted import restricted_game
from magic_rl.evaluation.result import Cost, Evaluation, Failures, read
from magic_rl.report import tables
from magic_rl.report.curves import attack_curve, curves
from magic_rl.report.figures import drift_bars, frontier
from magic_rl.store import atomic
from magic_rl.store.run import ENGINES_FILE, INPUTS_FILE, RunDirectory

_T = TypeVar("_T")
_SAMPLES = 6
_NAMES = {"default": "SmolLM2-135M-Instruct (the default)"}
_JOINERS = "\u200c\u200d"  # some scripts cannot be written without them


def write_report(run: RunDirectory, out: Path | None = None, *, show_transcripts: bool = False) -> Path:
    """Write the report of a run, finished or not.

    Args:
        out: The file to write; by default `report.html` in the run.
        show_transcripts: Show episodes of harmful seeds in full. Not for pages that will be shared.

    Returns:
        The file that was written.

    Raises:
        StoreError: If the run has taken no step yet, or the file cannot be written.
    """
    rows = run.metrics()
    if not rows:
        raise StoreError(f"{run.path}: nothing to report yet", "resume", run=run.path)
    target = out or run.path / "report.html"
    page = _page(run, rows, show_transcripts)
    atomic.make_folder(target.parent)
    atomic.write_file(target, page.encode("utf-8", "backslashreplace"))
    return target


def visible(text: str) -> str:
    """Text with codes in place of characters that are invisible or change the direction of the text after them."""
    return "".join(
        char
        if char in "\n\t" + _JOINERS or unicodedata.category(char) not in {"Cc", "Cf", "Co", "Cs"}
        else f"\\u{ord(char):04x}"
        for char in text
    )


def _page(run: RunDirectory, rows: Sequence[Mapping[str, Any]], show_transcripts: bool) -> str:
    turns = {row["step"]: row for row in rows if row["stage"] == "play"}
    config = tomllib.loads(run.config_text)
    escaped, refused = _failed(run, turns)
    evaluation, attack = result.current_evaluation(run), result.current_attack(run)
    drift = read(run, DRIFT_FILE, Drift)
    failures = read(run, result.FAILURES_FILE, Failures) if evaluation else None
    finished = False
    with suppress(UserError):  # all checkpoints corrupted: the rest can still be shown
        finished = run.is_complete
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
        tables=tables,
        judge=evaluation.judge if evaluation else config["judge"]["kind"],
        by_rules=_by_rules(config),
        models=_models(config),
        cost=_cost(run, read(run, result.COST_FILE, Cost) if evaluation else None),
        evaluation=evaluation,
        restricted=restricted_game(evaluation.crossplay) if evaluation else None,
        others=_others(run),
        outdated=evaluation is None and (run.path / result.EVALUATION_FILE).exists(),
        failures=_failures(failures, evaluation, show_transcripts) if failures and evaluation else [],
        frontier=frontier(evaluation) if evaluation else [],
        attack=attack_curve(attack),
        attack_outdated=attack is None and (run.path / result.ATTACK_FILE).exists(),
        drift=drift if drift and drift.step == rows[-1]["step"] else None,
        drift_bars=drift_bars,
        samples=[
            (title, note, len(places), [_shown(run, place, turns, show_transcripts) for place in _spaced(places)])
            for title, note, places in (
                ("Escaped", "Harmful seeds whose attack got an answer.", escaped),
                ("Refused", "Benign seeds that were refused.", refused),
            )
        ],
        config=run.config_text,
        changes=(run.read_json(INPUTS_FILE) or {}).get("changes", ()),
        versions=run.versions,
        engines=run.read_json(ENGINES_FILE) or {},
    )


def render(template: str, **values: Any) -> str:
    """A page from a template of this package: values are escaped, undefined ones are errors, the style is inlined."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = "{:.0%}".format
    environment.filters["points"] = lambda share: f"{100 * share:+.0f}".replace("-", "−")
    environment.filters["visible"] = visible
    style = resource("figure.css") + resource("style.css")
    digest = "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment.from_string(resource("parts.html.j2") + resource(template))
    return page.render(style=style, style_hash=digest, **values)


def resource(name: str) -> Markup:
    """A file of this package, which needs no escaping."""
    return Markup(resources.files("magic_rl.report").joinpath(name).read_text("utf-8"))  # noqa: S704 - our own file


def _failed(run: RunDirectory, steps: Iterable[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Step and place of the harmful episodes that were answered, and of the benign ones that were refused.

    Each episode is read once and none is kept in memory.
    """
    escaped, refused = list[tuple[int, int]](), list[tuple[int, int]]()
    for step in steps:
        for place, episode in enumerate(run.episodes(step)):
            verdict, harmful = episode["verdict"], episode["seed"]["label"] == "harmful"
            if not episode["masked"] and verdict and (verdict["safety"] != "safe" if harmful else verdict["refused"]):
                (escaped if harmful else refused).append((step, place))
    return escaped, refused


def _by_rules(config: Mapping[str, Any]) -> bool:
    """Whether the demo's rules are the only judge."""
    judge = config["judge"]
    return all(member.get("kind", "rules") == "rules" for member in judge.get("members") or [judge])


def _models(config: Mapping[str, Any]) -> dict[str, str]:
    """The model of each player; of a folder, only the last part of its path."""
    roles = ("defender", "attacker") if config["game"].get("rewrite", True) else ("defender",)
    names = {role: Path(config[role]["model"]) for role in roles}
    return {role: name.name if name.is_absolute() else _NAMES.get(str(name), str(name)) for role, name in names.items()}


def _cost(run: RunDirectory, cost: Cost | None) -> dict[str, str]:
    """What training and evaluation took."""
    steps = run.timings()
    sampled = sum(row.get("tokens_per_second", 0.0) * row.get("sample_seconds", 0.0) for row in steps)
    took = _clock(sum(row.get("seconds", 0.0) for row in steps))
    told = {"training": f"{len(steps)} steps, {sampled:,.0f} tokens sampled, {took}"} if steps else {}
    if cost:
        judged = f", {cost.judge_tokens:,} by the judge" if cost.judge_tokens else ""
        took = f"{_clock(cost.seconds)}, on {cost.ended}"
        told["evaluation"] = f"{cost.replies:,} replies, {cost.tokens:,} tokens sampled{judged}, {took}"
    return told


def _clock(seconds: float) -> str:
    return f"{datetime.timedelta(seconds=round(seconds))} h"


def _others(run: RunDirectory) -> list[Evaluation]:
    """The evaluations with another judge, other seeds, attackers, settings or another model."""
    files = sorted((run.path / result.OTHERS).glob(f"*/{result.EVALUATION_FILE}"))
    found = (read(RunDirectory(file.parent), file.name, Evaluation) for file in files)
    return [each for each in found if each]


def _failures(failures: Failures, evaluation: Evaluation, show_transcripts: bool) -> list[dict[str, Any]]:
    """For each kind of failure: a few failures of the last defender, and how many there were in all."""
    table, after = evaluation.table, evaluation.pair[1]
    missed = [round(rate.value * rate.n) for rate in table["asr"][after].values()]
    refused = [round((1 - rate.value) * rate.n) for rate in table["compliance"][after].values()]
    kinds = (
        ("harmful", "Escaped", f"Held-out harmful seeds that {result.CALLED[after]} answered.", sum(missed)),
        ("benign", "Refused", f"Held-out benign seeds that {result.CALLED[after]} refused.", sum(refused)),
    )
    return [
        {
            "title": title,
            "note": note,
            "total": total,
            "shown": [
                {
                    **_words(failure.model_dump(), show_transcripts),
                    "attacker": result.ATTACKERS[failure.attacker],
                    "failed_before": failure.failed_before,
                }
                for failure in _spaced([each for each in failures.kept if each.seed.label == label])
            ],
        }
        for label, title, note, total in kinds
    ]


def _shown(
    run: RunDirectory, place: tuple[int, int], turns: Mapping[int, Mapping[str, Any]], show_transcripts: bool
) -> dict[str, Any]:
    """An episode by its step and its place in the step, with the facts that the page shows."""
    episode, round_ = run.episodes(place[0])[place[1]], turns[place[0]]["round"]
    facts = {key: episode[key] for key in ("step", "verdict", "rewards")}
    return {**_words(episode, show_transcripts), **facts, "round": round_}


def _words(episode: Mapping[str, Any], show_transcripts: bool) -> dict[str, Any]:
    """What a page shows of an exchange; without its text if the seed is harmful and transcripts were not asked for."""
    seed, turns = episode["seed"], episode["turns"]
    hidden = seed["label"] == "harmful" and not show_transcripts
    return {
        "category": seed["category"] or "no category",
        "lengths": [(len(turn["attack"]), len(turn["reply"])) for turn in turns],
        "redacted": hidden,
        "seed": "" if hidden else seed["text"],
        "turns": [] if hidden else [(turn["thinking"], turn["attack"], turn["reply"]) for turn in turns],
    }


def _spaced(found: Sequence[_T]) -> list[_T]:
    """At most `_SAMPLES`, evenly spaced, the first and the last among them."""
    count = min(_SAMPLES, len(found))
    return [found[i * (len(found) - 1) // max(1, count - 1)] for i in range(count)]
