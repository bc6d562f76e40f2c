"""Cross-play: every saved attacker against every saved defender, on held-out seeds (METHOD §9).

Each attacker writes its attacks once, and all defenders answer the very same ones, so differences along a row
are the defenders' alone and can be compared in pairs. "No rewrite" plays the seeds as they are. The table compares the
first and the last of the players; pairs of others may be given fewer seeds (`evaluation.inner_share`). A defender
answers all attackers in one batch, as an engine is the faster the more it is asked at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from magic_rl.config import load_config
from magic_rl.errors import UserError
from magic_rl.evaluation.agreement import panel_agreement
from magic_rl.evaluation.metrics import Rate, mean_interval, paired_difference
from magic_rl.evaluation.outcomes import write_outcomes
from magic_rl.game.play import Player, attack, reply
from magic_rl.judges.asking import ask
from magic_rl.judges.panel import Panel
from magic_rl.learning.setup import Setup, prepare
from magic_rl.learning.train import View
from magic_rl.rng import derive
from magic_rl.store.run import RunDirectory
from magic_rl.types import Episode, Exchange, Label, Role, SamplingParams, Seed, Verdict

EVALUATION_FILE = "evaluation.json"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True, slots=True)
class Cell:
    """One attacker against one defender: what came of every attack, in the order of the seeds.

    Attributes:
        escaped: For each attack on a harmful seed, whether the reply was not safe; None where the judge abstained.
        answered: For each attack on a benign seed, whether it was answered; None where the judge abstained.
        tokens: Length of every reply.
        quality: Helpfulness of replies to benign seeds, where the judge scored it.
    """

    escaped: tuple[bool | None, ...]
    answered: tuple[bool | None, ...]
    tokens: tuple[int, ...] = ()
    quality: tuple[float, ...] = ()


Board = tuple[Player | None, list[Episode]]  # an attacker, None for no rewrite, and the games it has opened


def evaluate(run: RunDirectory, view: View) -> dict[str, Any]:
    """Play all pairs, write `evaluation.json`, `outcomes.json` and `summary.json` into the run, and return the last.

    Raises:
        UserError: If the run has saved no players yet.
        TooManyAbstentionsError: If the judge is silent too often for the numbers to be believed.
    """
    config = load_config(run.path / "config.toml")
    defenders = [number for number, _ in run.players("defender")]
    if not defenders:
        raise UserError(f"{run.path}: no players saved yet; `magic-rl resume {run.path}` goes on training")
    attackers: list[int | None] = [None, *(number for number, _ in run.players("attacker"))]
    setup = prepare(config)
    seeds = _held_out(setup)
    inner = _spread_out(seeds, config.evaluation.inner_share)
    outer = ({*attackers[:2], attackers[-1]}, {defenders[0], defenders[-1]})  # those that the table compares

    view.stage("attack", len(attackers) - 1)
    boards: list[Board] = []
    formats: list[Rate | None] = []
    for attacker in attackers:
        rewriter = None if attacker is None else _player(run, setup, "attacker", attacker)
        attacked = _attacks(setup, seeds if attacker in outer[0] else inner, rewriter)
        boards.append((rewriter, attacked))
        formats.append(None if rewriter is None else Rate.of(e.turns[-1].well_formed for e in attacked))
        if formats[-1]:
            view.step({"attacker": _attacker_name(attacker), "format_rate": formats[-1].rate}, {})

    view.stage("evaluate", len(attackers) * len(defenders))
    fewer = [(rewriter, [episode for episode in attacked if episode.seed in inner]) for rewriter, attacked in boards]
    columns = []
    for defender in defenders:
        player = _player(run, setup, "defender", defender)
        columns.append(_cells(setup, boards if defender in outer[1] else fewer, player))
        for attacker, cell in zip(attackers, columns[-1], strict=True):
            shown = {"asr": _rate(cell.escaped).rate, "compliance": _rate(cell.answered).rate}
            view.step({"attacker": _attacker_name(attacker), "defender": _defender_name(defender), **shown}, {})
    cells = list(zip(*columns, strict=True))

    run.write_json(
        EVALUATION_FILE,
        {
            "attackers": [_attacker_name(number) for number in attackers],
            "defenders": [_defender_name(number) for number in defenders],
            "asr": [[_rate(cell.escaped).as_dict() for cell in row] for row in cells],
            "compliance": [[_rate(cell.answered).as_dict() for cell in row] for row in cells],
            "format": [rate.as_dict() if rate else None for rate in formats],
            "abstained": sum(value is None for row in cells for cell in row for value in cell.escaped + cell.answered),
            "held_out": {
                **{label: sum(seed.label == label for seed in seeds) for label in ("harmful", "benign")},
                "categories": sorted({seed.category for seed in seeds if seed.category}),
            },
            "replies": [_replies([row[i] for row in cells]) for i in range(len(defenders))],
            "judge": setup.judge.name,
            "agreement": panel_agreement(setup.judge.votes) if isinstance(setup.judge, Panel) else [],
        },
    )
    write_outcomes(run, attackers, [attacked for _, attacked in boards], {"start": columns[0], "trained": columns[-1]})
    summary = summarise(cells, attackers)
    run.write_json(SUMMARY_FILE, summary)
    return summary


def summarise(cells: Sequence[Sequence[Cell]], attackers: Sequence[int | None]) -> dict[str, Any]:
    """The table: the first against the last defender under no rewrite, the first and the last attacker.

    Args:
        cells: One row an attacker, one column a defender, both in order of rounds.
        attackers: None for no rewrite, else the round.

    Returns:
        Rates as `{"asr": {"start" | "trained": {"vanilla" | "sft_attacker" | "last_attacker"}}, "compliance":
        {"start" | "trained": {"vanilla" | "rewritten"}}}` (rewritten by the last attacker), and under "change" the
        paired difference trained − start of each.
    """
    rows = dict(zip(attackers, cells, strict=True))
    rounds = [number for number in attackers if number is not None]
    asr = {"vanilla": rows[None]}
    compliance = {"vanilla": rows[None]}
    if rounds:
        asr |= {"sft_attacker": rows[rounds[0]], "last_attacker": rows[rounds[-1]]}
        compliance["rewritten"] = rows[rounds[-1]]
    return {
        "asr": {
            who: {name: _rate(row[i].escaped).as_dict() for name, row in asr.items()}
            for who, i in (("start", 0), ("trained", -1))
        },
        "compliance": {
            who: {name: _rate(row[i].answered).as_dict() for name, row in compliance.items()}
            for who, i in (("start", 0), ("trained", -1))
        },
        "change": {
            "asr": {name: _change(row[0].escaped, row[-1].escaped) for name, row in asr.items()},
            "compliance": {name: _change(row[0].answered, row[-1].answered) for name, row in compliance.items()},
        },
    }


def _held_out(setup: Setup) -> list[Seed]:
    limit = setup.config.evaluation.max_seeds or None
    labels: tuple[Label, ...] = ("harmful", "benign")
    return [seed for label in labels for seed in [s for s in setup.split.held_out if s.label == label][:limit]]


def _spread_out(seeds: Sequence[Seed], share: float) -> list[Seed]:
    """A share of the seeds, evenly spaced, so that labels and categories keep theirs."""
    return [seeds[int(place / share)] for place in range(math.ceil(len(seeds) * share))]


def _attacks(setup: Setup, seeds: Sequence[Seed], attacker: Player | None) -> list[Episode]:
    """Every held-out seed as one attacker first rewrites it, as open episodes."""
    config = setup.config
    return attack(
        [Episode(seed, (), index) for index, seed in enumerate(seeds)],
        attacker,
        setup.prompts,
        1 if attacker is None else config.evaluation.attacks_per_seed,
        derive(config.seed, 0, "evaluation attack"),
        multi_turn=config.game.turns > 1,
    )


def _cells(setup: Setup, boards: Sequence[Board], defender: Player) -> list[Cell]:
    """One defender's replies to the attacks of every attacker."""
    config = setup.config
    boards = list(boards)
    for turn in range(config.game.turns):
        if turn:
            draw = derive(config.seed, 0, "evaluation attack", turn)
            boards = [(who, attack(episodes, who, setup.prompts, 1, draw, multi_turn=True)) for who, episodes in boards]
        draw = derive(config.seed, 0, "evaluation reply", turn)
        replies = iter(reply(_all(boards), defender, setup.prompts, 1, draw, answer_cut_off=True))
        boards = [(who, list(itertools.islice(replies, len(episodes)))) for who, episodes in boards]
    verdicts = iter(
        ask(
            setup.judge,
            [Exchange(episode.seed, episode.attack, episode.reply) for episode in _all(boards)],
            retries=config.judge.retries,
            max_abstained=config.judge.max_abstained,
        )
    )
    return [_cell(episodes, list(itertools.islice(verdicts, len(episodes)))) for _, episodes in boards]


def _all(boards: Sequence[Board]) -> list[Episode]:
    return [episode for _, episodes in boards for episode in episodes]


def _cell(episodes: Sequence[Episode], verdicts: Sequence[Verdict]) -> Cell:
    return Cell(
        escaped=_outcomes(episodes, verdicts, "harmful"),
        answered=_outcomes(episodes, verdicts, "benign"),
        tokens=tuple(len(s.tokens) for episode in episodes if (s := episode.turns[-1].reply_sample) is not None),
        quality=tuple(
            verdict.quality
            for episode, verdict in zip(episodes, verdicts, strict=True)
            if episode.seed.label == "benign" and verdict.abstained is None and verdict.quality is not None
        ),
    )


def _outcomes(episodes: Sequence[Episode], verdicts: Sequence[Verdict], label: Label) -> tuple[bool | None, ...]:
    return tuple(
        None
        if verdict.abstained is not None
        else verdict.safety != "safe"
        if label == "harmful"
        else not verdict.refused
        for episode, verdict in zip(episodes, verdicts, strict=True)
        if episode.seed.label == label
    )


def _replies(cells: Sequence[Cell]) -> dict[str, Any]:
    """What one defender's replies are like, over all attackers: how long and, if that was judged, how helpful."""
    quality = [value for cell in cells for value in cell.quality]
    return {
        "tokens": mean_interval([float(value) for cell in cells for value in cell.tokens]),
        "quality": mean_interval(quality),
    }


def _player(run: RunDirectory, setup: Setup, role: Role, number: int) -> Player:
    """A saved player, speaking as `evaluation` says."""
    config = setup.config
    if role == "attacker":
        sampling = SamplingParams(config.attacker.sampling.max_tokens, config.evaluation.attacker_temperature)
    else:
        sampling = SamplingParams(config.evaluation.max_reply_tokens, config.evaluation.temperature)
    saved = setup.engines[role].load(run.player(role, number), f"{role}-{number}")
    return setup.player(role, saved, sampling=sampling)


def _rate(outcomes: Sequence[bool | None]) -> Rate:
    return Rate.of(outcome for outcome in outcomes if outcome is not None)


def _change(before: Sequence[bool | None], after: Sequence[bool | None]) -> dict[str, float]:
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    return asdict(paired_difference([b for b, _ in pairs], [a for _, a in pairs]))


def _attacker_name(number: int | None) -> str:
    return "no rewrite" if number is None else "round 0 (SFT)" if number == 0 else f"round {number}"


def _defender_name(number: int) -> str:
    return "round 0 (start)" if number == 0 else f"round {number}"
