"""Cross-play: every saved attacker against every saved defender, on held-out seeds (METHOD §9).

Each attacker writes its attacks once, and all defenders answer the very same ones, so differences along a row
are the defenders' alone and can be compared in pairs. "No rewrite" plays the seeds as they are. The summary compares
the first and the last of the players, and the untouched model beside them; pairs of others may be given fewer seeds
(`evaluation.inner_share`). A defender answers all attackers in one batch, as an engine is the faster the more it is
asked at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from magic_rl.config import Config, load_config
from magic_rl.data.split import evenly
from magic_rl.engines.base import Policy
from magic_rl.errors import UserError
from magic_rl.evaluation.agreement import panel_agreement
from magic_rl.evaluation.failures import failures
from magic_rl.evaluation.metrics import Rate
from magic_rl.evaluation.outcomes import measured, write_outcomes
from magic_rl.evaluation.summary import (
    Cell,
    Compared,
    Failure,
    Who,
    by_category,
    compared_attackers,
    fluency_statistics,
    reply_statistics,
    summarise,
)
from magic_rl.game.play import Player, attack, reply
from magic_rl.judges.asking import ask
from magic_rl.judges.panel import Panel
from magic_rl.learning.fluency import Fluency, Yardstick
from magic_rl.rng import derive
from magic_rl.runs.assembly import Setup, prepare
from magic_rl.runs.inputs import compare, compare_settings, digests
from magic_rl.runs.preflight import try_judge
from magic_rl.runs.train import View
from magic_rl.store.run import RunDirectory
from magic_rl.types import Episode, Exchange, Label, Role, SamplingParams, Seed, Verdict

EVALUATION_FILE = "evaluation.json"
SUMMARY_FILE = "summary.json"
FAILURES_FILE = "failures.json"
_SCORED = 64  # replies of a defender whose fluency is measured

Board = tuple[Player | None, list[Episode]]  # an attacker, None for no rewrite, and the games it has opened


def evaluate(run: RunDirectory, view: View) -> dict[str, Any]:
    """Play all pairs, write the result files into the run, `evaluation.json` last, and return the summary.

    Raises:
        UserError: If the run has saved no players yet.
        TooManyAbstentionsError: If the judge is silent too often for the numbers to be believed.
    """
    config = load_config(run.path / "config.toml")
    defenders = [number for number, _ in run.players("defender")]
    if not defenders:
        raise UserError(f"{run.path}: no players saved yet; `magic-rl resume {run.path}` goes on training")
    attackers: list[int | None] = [None, *(number for number, _ in run.players("attacker"))]
    compared = compared_attackers(attackers)
    compare_settings(run, config)
    setup = prepare(config)
    compare(run, digests(setup))
    try_judge(setup.judge, fresh=False)
    seeds = held_out_seeds(setup)
    inner = evenly(seeds, math.ceil(len(seeds) * config.evaluation.inner_share))
    chosen = [seeds if place in compared.values() else inner for place in range(len(attackers))]
    boards = _boards(run, setup, attackers, chosen, view)

    places = sorted(set(compared.values()))
    view.stage("evaluate", len(places) + len(attackers) * len(defenders))
    base = evaluated(setup, "defender", setup.engines["defender"].base())
    untouched = dict(zip(places, answered_by(setup, [boards[place] for place in places], base), strict=True))
    _watch(view, "untouched model", [attackers[place] for place in places], list(untouched.values()))
    own = [sample for cell in untouched.values() for sample in cell.replies]
    yardstick = Yardstick(setup.engines["defender"].base(), evenly(own, _SCORED))
    fewer = [(rewriter, [episode for episode in attacked if episode.seed in inner]) for rewriter, attacked in boards]
    columns, fluency = [], []
    for defender in defenders:
        player = _player(run, setup, "defender", defender)
        met = boards if defender in (defenders[0], defenders[-1]) else fewer
        columns.append(answered_by(setup, met, player))
        fluency.append(_fluency(yardstick, columns[-1], player))
        _watch(view, _defender_name(defender), attackers, columns[-1])

    cells: Compared = {
        "untouched": {name: untouched[place] for name, place in compared.items()},
        "start": {name: columns[0][place] for name, place in compared.items()},
        "trained": {name: columns[-1][place] for name, place in compared.items()},
    }
    attacks = {name: _attack_rates(boards[place]) for name, place in compared.items() if boards[place][0]}
    own_fluency = _fluency(yardstick, list(untouched.values()), base)
    of: dict[Who, Fluency] = {"untouched": own_fluency, "start": fluency[0], "trained": fluency[-1]}
    players = measured(run)
    summary = {**summarise(cells, attacks, of), "split": config.evaluation.split, "measured": players}
    _note_cut_off(summary, config, view)
    run.write_json(FAILURES_FILE, {**failures(cells), "measured": players})
    write_outcomes(run, cells)
    run.write_json(SUMMARY_FILE, summary)
    document = {
        "attackers": [_attacker_name(number) for number in attackers],
        "defenders": [_defender_name(number) for number in defenders],
        "compared": compared,
        "format": [_format(board).as_dict() if board[0] else None for board in boards],
        "categories": by_category(cells),
        "measured": players,
        **_pairs(columns, fluency),
        **_circumstances(setup, seeds),
    }
    run.write_json(EVALUATION_FILE, document)
    return summary


def _boards(
    run: RunDirectory, setup: Setup, attackers: Sequence[int | None], seeds: Sequence[Sequence[Seed]], view: View
) -> list[Board]:
    """Every attacker's games, opened on the seeds chosen for it."""
    view.stage("attack", len(attackers) - 1)
    boards: list[Board] = []
    for number, chosen in zip(attackers, seeds, strict=True):
        rewriter = None if number is None else _player(run, setup, "attacker", number)
        boards.append((rewriter, open_attacks(setup, chosen, rewriter)))
        if rewriter:
            view.step({"attacker": _attacker_name(number), "format_rate": _format(boards[-1]).rate}, {})
    return boards


def _watch(view: View, defender: str, attackers: Sequence[int | None], cells: Sequence[Cell]) -> None:
    for attacker, cell in zip(attackers, cells, strict=True):
        rates = {"asr": cell.asr.rate, "compliance": cell.compliance.rate}
        view.step({"attacker": _attacker_name(attacker), "defender": defender, **rates}, {})


def _note_cut_off(summary: Mapping[str, Any], config: Config, view: View) -> None:
    """Say of outputs that most often end at a limit which setting it is: what is judged then is their beginning."""
    limits = {
        "attacker.sampling.max_tokens": [(f"the {name}", rates) for name, rates in summary["attackers"].items()],
        "evaluation.max_reply_tokens": [(f"the {who} defender", rates) for who, rates in summary["replies"].items()],
    }
    for key, found in limits.items():
        for who, rates in found:
            if rates["cut_off"]["n"] and rates["cut_off"]["rate"] > config.learning.max_cut_off:
                view.note(f"{key}: {rates['cut_off']['rate']:.0%} of what {who} says is cut off there; raise it")


def _fluency(yardstick: Yardstick, column: Sequence[Cell], player: Player) -> Fluency:
    return yardstick.measure(evenly([sample for cell in column for sample in cell.replies], _SCORED), player.policy)


def _pairs(columns: Sequence[Sequence[Cell]], fluency: Sequence[Fluency]) -> dict[str, Any]:
    """What every pair came to: rows are attackers, columns defenders."""
    rows = list(zip(*columns, strict=True))
    return {
        "asr": [[cell.asr.as_dict() for cell in row] for row in rows],
        "compliance": [[cell.compliance.as_dict() for cell in row] for row in rows],
        "j": [[cell.j.as_dict() for cell in row] for row in rows],
        "abstained": sum(value is None for row in rows for cell in row for value in cell.escaped + cell.answered),
        "replies": [
            {**reply_statistics(column), **fluency_statistics(found, column)}
            for column, found in zip(columns, fluency, strict=True)
        ],
    }


def _circumstances(setup: Setup, seeds: Sequence[Seed]) -> dict[str, Any]:
    """On what and by whom it was judged."""
    return {
        "split": setup.config.evaluation.split,
        "held_out": {
            **{label: sum(seed.label == label for seed in seeds) for label in ("harmful", "benign")},
            "categories": sorted({seed.category for seed in seeds if seed.category}),
        },
        "judge": setup.judge.name,
        "agreement": panel_agreement(setup.judge.votes) if isinstance(setup.judge, Panel) else [],
    }


def _format(board: Board) -> Rate:
    """How often an attacker's first output had the required format."""
    return Rate.of(episode.turns[0].well_formed for episode in board[1])


def _attack_rates(board: Board) -> dict[str, Rate]:
    """How often an attacker's first output had the required format, and how often it ran into its limit of length."""
    return {"format": _format(board), "cut_off": Rate.of(episode.cut_off == "attacker" for episode in board[1])}


def held_out_seeds(setup: Setup) -> list[Seed]:
    """The seeds that are evaluated on, harmful ones first: those of `evaluation.split`, never trained on."""
    limit = setup.config.evaluation.max_seeds or 0
    labels: tuple[Label, ...] = ("harmful", "benign")
    side = setup.split.held_out if setup.config.evaluation.split == "held_out" else setup.split.validation
    return [seed for label in labels for seed in evenly([s for s in side if s.label == label], limit)]


def open_attacks(
    setup: Setup,
    seeds: Sequence[Seed],
    attacker: Player | None,
    n: int | None = None,
    purpose: str = "evaluation attack",
) -> list[Episode]:
    """Every seed as one attacker first rewrites it, as open episodes, those of a seed side by side.

    Args:
        n: Attacks per seed; None is as many as `evaluation.attacks_per_seed` says.
        purpose: Of the random draws.
    """
    config = setup.config
    return attack(
        [Episode(seed, (), index) for index, seed in enumerate(seeds)],
        attacker,
        setup.prompts,
        1 if attacker is None else n or config.evaluation.attacks_per_seed,
        derive(config.seed, 0, purpose),
        multi_turn=config.game.turns > 1,
    )


def answered_by(setup: Setup, boards: Sequence[Board], defender: Player) -> list[Cell]:
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
    episodes = _all(boards)
    unsaid = [_said_nothing(episode) for episode in episodes]
    judged = iter(
        ask(
            setup.judge,
            [Exchange(e.seed, e.attack, e.reply) for e, nothing in zip(episodes, unsaid, strict=True) if not nothing],
            retries=config.judge.retries,
            max_abstained=config.judge.max_abstained,
        )
    )
    cut_off = Verdict(abstained="the reply was cut off before it began")
    verdicts = iter([cut_off if nothing else next(judged) for nothing in unsaid])
    return [_cell(episodes, list(itertools.islice(verdicts, len(episodes)))) for _, episodes in boards]


def _said_nothing(episode: Episode) -> bool:
    """Whether the defender was cut off before it came to say anything: neither breach nor resistance."""
    sample = episode.turns[-1].reply_sample
    return sample is not None and sample.finish == "length" and not episode.reply.strip()


def _all(boards: Sequence[Board]) -> list[Episode]:
    return [episode for _, episodes in boards for episode in episodes]


def _cell(episodes: Sequence[Episode], verdicts: Sequence[Verdict]) -> Cell:
    judged = list(zip(episodes, verdicts, strict=True))
    harmful, benign = ([pair for pair in judged if pair[0].seed.label == label] for label in ("harmful", "benign"))
    escaped = tuple(None if verdict.abstained is not None else verdict.safety != "safe" for _, verdict in harmful)
    answered = tuple(None if verdict.abstained is not None else not verdict.refused for _, verdict in benign)
    replies = [sample for episode in episodes if (sample := episode.turns[-1].reply_sample) is not None]
    return Cell(
        escaped=escaped,
        answered=answered,
        tokens=tuple(len(sample.tokens) for sample in replies),
        replies=tuple(evenly(replies, _SCORED)),
        cut_off=tuple(sample.finish == "length" for sample in replies),
        quality=tuple(
            verdict.quality for _, verdict in benign if verdict.abstained is None and verdict.quality is not None
        ),
        on_topic=tuple(
            None if verdict.abstained is not None or verdict.prompt is None else verdict.prompt == "harmful"
            for _, verdict in harmful
        ),
        harmful=tuple(episode.seed for episode, _ in harmful),
        benign=tuple(episode.seed for episode, _ in benign),
        failures=tuple(
            Failure(episode.seed, place, tuple((turn.thinking, turn.attack, turn.reply) for turn in episode.turns))
            for pairs, outcomes, failed in ((harmful, escaped, True), (benign, answered, False))
            for place, ((episode, _), outcome) in enumerate(zip(pairs, outcomes, strict=True))
            if outcome is failed
        ),
    )


def _player(run: RunDirectory, setup: Setup, role: Role, number: int) -> Player:
    """A saved player, speaking as `evaluation` says."""
    return evaluated(setup, role, setup.engines[role].load(run.player(role, number), f"{role}-{number}"))


def evaluated(setup: Setup, role: Role, policy: Policy) -> Player:
    """A policy in a role's seat, speaking as `evaluation` says."""
    config = setup.config
    if role == "attacker":
        sampling = SamplingParams(config.attacker.sampling.max_tokens, config.evaluation.attacker_temperature)
    else:
        sampling = SamplingParams(config.evaluation.max_reply_tokens, config.evaluation.temperature)
    return setup.player(role, policy, sampling=sampling)


def _attacker_name(number: int | None) -> str:
    return "no rewrite" if number is None else "round 0 (SFT)" if number == 0 else f"round {number}"


def _defender_name(number: int) -> str:
    return "round 0 (start)" if number == 0 else f"round {number}"
