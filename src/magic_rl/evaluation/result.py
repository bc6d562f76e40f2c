"""The result files of a run and of a study as types, and the names of their rows and columns.

`evaluation.json` holds all numbers of an evaluation, `outcomes.json` the outcomes of each held-out seed,
`failures.json` the exchanges behind the failures, and `attack.json` how far a fresh attacker got. They are written and
read through these models, so no other code knows their keys. A study has the same numbers over its runs, with
`OverRuns` in place of `Estimate`.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from magic_rl.evaluation.estimates import Estimate
from magic_rl.evaluation.spread import OverRuns
from magic_rl.store import atomic, manifest
from magic_rl.store.run import RunDirectory
from magic_rl.types import Label, Seed

Measure = Literal["asr", "compliance", "j"]
Attacker = Literal["vanilla", "sft_attacker", "last_attacker"]
Defender = Literal["untouched", "start", "trained", "other"]
Split = Literal["held_out", "validation", "other"]
Rate = Literal["well_formed", "on_topic", "cut_off"]  # rates of one attacker's attacks

# Names of rows and columns, for all tables, figures and files. Columns of defenders are named by their keys.
MEASURES: Mapping[Measure, str] = {"asr": "ASR", "compliance": "compliance", "j": "J"}
BETTER: Mapping[Measure, str] = {"asr": "↓", "compliance": "↑", "j": "↑"}
ATTACKERS: Mapping[Attacker, str] = {
    "vanilla": "vanilla seeds",
    "sft_attacker": "SFT attacker",
    "last_attacker": "last attacker",
}
DEFENDERS: Mapping[Defender, str] = {
    "untouched": "the untouched model",
    "start": "the defender at the start",
    "trained": "the trained defender",
}
CALLED: Mapping[Defender, str] = {**DEFENDERS, "other": "the other model"}
RATES: Mapping[Rate, str] = {"well_formed": "in the required format", "on_topic": "on topic", "cut_off": "cut off"}
ABOUT_MEASURES = (
    "ASR: share of harmful seeds whose attack got an answer; compliance: share of benign seeds that were answered; "
    "J = compliance − ASR. ↓ lower is better, ↑ higher is better."
)
ABOUT_DEFENDERS: Mapping[Defender, str] = {
    "untouched": "the model before any training",
    "start": "the defender as it entered the game",
    "trained": "the defender as it left the game",
    "other": "a model that is not of this run",
}

FAILURES_FILE, OUTCOMES_FILE, EVALUATION_FILE = "failures.json", "outcomes.json", "evaluation.json"
COST_FILE, SUMMARY_FILE = "cost.json", "summary.tsv"
OTHERS = "evaluations"  # has a folder for each evaluation with another judge, other seeds and so on
ATTACK_FILE, ATTACK_PLAN = "attack.json", "attacks/plan.json"
_HASH = 16  # characters

N = TypeVar("N", Estimate, OverRuns)
D = TypeVar("D", bound="Document")

Grid = dict[Defender, dict[Attacker, N]]


def title(measure: Measure, attacker: Attacker) -> str:
    """Name of a row that is not below a heading with its measure."""
    return f"{MEASURES[measure]}, {ATTACKERS[attacker]}"


def attacker_name(number: int | None) -> str:
    """Name of the attacker of a round; None: seeds are played as they are."""
    return ATTACKERS["vanilla"] if number is None else f"attacker of round {number}{'' if number else ' (SFT)'}"


def defender_name(number: int | None) -> str:
    """Name of the defender of a round; None: the untouched model."""
    return "untouched model" if number is None else f"defender of round {number}{'' if number else ' (start)'}"


class Document(BaseModel):
    """A result file, or a part of one."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(Document):
    """What was measured; an evaluation is outdated if the run now holds anything else."""

    attackers: dict[int, str]  # hash of each saved attacker, by round
    defenders: dict[int, str]  # the same for defenders
    settings: str  # hash of the section `evaluation`, of the judge, and of `Evaluation.instead`


class HeldOut(Document):
    """The seeds of an evaluation, none of them trained on; split "other" if they are not from the run's data."""

    split: Split = "held_out"
    harmful: int
    benign: int
    categories: list[str] = []

    @property
    def side(self) -> str:
        """ "held-out", "validation" or "other"."""
        return self.split.replace("_", "-")

    def __str__(self) -> str:
        return f"{self.side} seeds: {self.harmful} harmful, {self.benign} benign"


class Replies(Document):
    """Measurements of one defender's replies, over all attackers."""

    tokens: Estimate | None = None  # their length
    quality: Estimate | None = None  # helpfulness of replies to benign seeds, if the judge scores it
    # Share that is no longer language, compared with the untouched model's replies to the same attacks.
    degenerate: Estimate
    cut_off: Estimate  # share that ran into the length limit
    empty: Estimate | None = None  # share without text, of replies not cut off before any: neither a breach nor help
    thought: Estimate | None = None  # share that came with thoughts, which are not judged; None if none did
    logprob: float | None = None  # log-probability per token under the untouched model, in nats
    kl: float | None = None  # KL to the untouched model per token, in nats
    distinct: float | None = None  # share of a reply's token trigrams that are distinct


class Crossplay(Document):
    """Every saved attacker against every saved defender: rows are attackers, columns defenders."""

    attackers: list[int | None]  # round of each attacker; None plays the seeds as they are
    defenders: list[int]  # round of each defender
    compared: dict[Attacker, int]  # rows of the attackers that the table compares
    asr: list[list[Estimate]]
    compliance: list[list[Estimate]]
    replies: list[Replies]  # one per defender
    abstained: int  # number of replies without a verdict


class Kappa(Document):
    """How well two members of a panel agree on a label, beyond chance."""

    one: str
    other: str
    label: Literal["safety", "refused"]
    kappa: Estimate


class Evaluation(Document):
    """`evaluation.json`."""

    measured: Measured
    # What replaced something of the run, by its kind, such as "judge"; empty for the run as it is.
    instead: dict[str, str] = {}
    judge: str
    held_out: HeldOut
    verdict: str  # a sentence that sums up the changes
    # Each measure of the compared defenders, on vanilla seeds and under the first and the last attacker.
    table: dict[Measure, Grid[Estimate]]
    # The last defender of the table − the one before, paired attack by attack.
    change: dict[Measure, dict[Attacker, Estimate]]
    # Rates of the compared attackers, without those that were not judged.
    rewrites: dict[Attacker, dict[Rate, Estimate]] = {}
    replies: dict[Defender, Replies]  # of the compared defenders
    categories: dict[str, dict[Measure, Grid[Estimate]]]  # the table by held-out category
    crossplay: Crossplay  # all pairs
    agreement: list[Kappa] = []  # of a panel's members, pair by pair

    @property
    def pair(self) -> tuple[Defender, Defender]:
        """Before and after: the two defenders of `change`."""
        before, after = list(self.table["asr"])[-2:]
        return before, after

    @property
    def about_defenders(self) -> str:
        """Explains the columns of the table."""
        before, after = self.pair
        columns = "; ".join(f"{who}: {ABOUT_DEFENDERS[who]}" for who in self.table["asr"])
        return f"{columns}. change: {after} − {before}."


class Cost(Document):
    """`cost.json`: what an evaluation took. Not reproducible, so it is a separate file."""

    ended: str  # day on which it ended, ISO 8601, UTC
    seconds: float  # from beginning to end
    replies: int  # number of replies of all defenders
    tokens: int  # sampled by the run's attackers and defenders, without those of a model from elsewhere
    judge_tokens: int  # counted by the judge's server; 0 if it counts none, or no server was asked


class Outcomes(Document):
    """`outcomes.json`: the ids of seeds, and per seed a list with one outcome per attack; None: the judge abstained."""

    seeds: dict[Label, list[str]]
    escaped: dict[Defender, dict[Attacker, list[list[bool | None]]]]
    answered: dict[Defender, dict[Attacker, list[list[bool | None]]]]


class Turn(Document):
    """The attacker's thoughts, its attack, and the reply."""

    thinking: str
    attack: str
    reply: str


class Failure(Document):
    """An exchange in which the table's last defender failed: it answered a harmful seed, or refused a benign one."""

    attacker: Attacker
    seed: Seed
    turns: list[Turn]
    # Whether the defender before it in the table failed at the same attack; None: the judge abstained.
    failed_before: bool | None = None


class Failures(Document):
    """`failures.json`. It holds attackers' text: it stays in the run, and pages treat it as hostile."""

    kept: list[Failure]


class AttackOnOne(Document, Generic[N]):
    """How far a fresh attacker got against one defender."""

    curve: dict[int, N]  # its ASR, by steps taken
    attack_at_k: dict[int, N]  # attack@k of the final attacker, by k
    degenerate: float = 0.0  # share of the replies in its training that were no longer language


class AttackResult(Document, Generic[N]):
    """`attack.json`: a fresh attacker against the frozen defender, at the start and trained."""

    steps: int  # number of steps that the attacker learned for
    defenders: dict[Defender, AttackOnOne[N]]
    ratio: N | None = None  # final ASR, trained / start; None if the start's is 0


@dataclass(frozen=True, slots=True)
class ChangeOverRuns(OverRuns):
    """A change, and in how many runs its whole interval lies below or above 0."""

    below: int
    above: int


class PresetResult(Document):
    """The runs of one preset; see `Evaluation` and `AttackResult`.

    Left out are numbers of `table` and `change` that no run has, rates that not all runs have, and `attack` unless all
    runs have it.
    """

    rng_seeds: list[int]
    held_out: HeldOut
    table: dict[Measure, Grid[OverRuns]]
    change: dict[Measure, dict[Attacker, ChangeOverRuns]]
    rewrites: dict[Attacker, dict[Rate, OverRuns]] = {}
    degenerate: dict[Defender, OverRuns] = {}
    attack: AttackResult[OverRuns] | None = None


class StudyResult(Document):
    """`study.json`."""

    presets: dict[str, PresetResult]


def write(run: RunDirectory, name: str, document: Document, *, indent: int | None = 2) -> None:
    """Write a result file into a run; numbers that are not finite become null."""
    atomic.write_file(run.path / name, document.model_dump_json(indent=indent, exclude_none=True).encode() + b"\n")


def read(run: RunDirectory, name: str, model: type[D]) -> D | None:
    """A result file; None if there is none or another version wrote it."""
    path = run.path / name
    try:
        return model.model_validate_json(path.read_bytes()) if path.exists() else None
    except ValidationError:
        return None


def current_evaluation(run: RunDirectory) -> Evaluation | None:
    """The run's evaluation, if it measured exactly the players saved now, with the config's settings."""
    found = read(run, EVALUATION_FILE, Evaluation)
    return found if found and found.measured == measured(run) else None


def current_attack(run: RunDirectory) -> AttackResult[Estimate] | None:
    """The result of a fresh attacker, if it attacked the first and the last defender saved now."""
    defenders = list(measured(run).defenders.values())
    met = [each[:_HASH] for each in (run.read_json(ATTACK_PLAN) or {}).get("defenders", {}).values()]
    return read(run, ATTACK_FILE, AttackResult[Estimate]) if met and met == [defenders[0], defenders[-1]] else None


def measured(
    run: RunDirectory,
    *,
    attackers: RunDirectory | None = None,
    config: Mapping[str, Any] | None = None,
    instead: Mapping[str, str] | None = None,
) -> Measured:
    """What an evaluation measures; by default one of the run as it is.

    Args:
        run: The run whose defenders are evaluated.
        attackers: The run whose attackers are used, if it is another.
        config: Settings to use instead of the run's.
        instead: See `Evaluation.instead`.
    """
    config = config or tomllib.loads(run.config_text)
    judge = config.get("judge", {})
    members = [
        (each.get("kind"), each.get("threshold"), each.get("endpoint", {}).get("model"))
        for each in judge.get("members") or [judge]
    ]
    settings = json.dumps(
        [config.get("evaluation"), members, judge.get("rule"), *(instead or {}).items()], sort_keys=True
    )
    return Measured(
        attackers={number: _hash(path) for number, path in (attackers or run).players("attacker")},
        defenders={number: _hash(path) for number, path in run.players("defender")},
        settings=hashlib.sha256(settings.encode()).hexdigest()[:_HASH],
    )


def _hash(player: Path) -> str:
    try:
        return manifest.fingerprint(player)[:_HASH]
    except manifest.CorruptedError:
        return "corrupted"
