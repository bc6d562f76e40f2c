"""Evaluating a run: every saved attacker against every saved defender, and the untouched model, on held-out seeds.

The table compares the first and the last of the players, and the untouched model beside them; pairs of others may be
given fewer seeds (`evaluation.inner_share`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from magic_rl.config import Config, load_config
from magic_rl.data.split import evenly
from magic_rl.engines.base import Policy
from magic_rl.errors import StoreError
from magic_rl.evaluation.agreement import panel_agreement
from magic_rl.evaluation.crossplay import SCORED, Board, Cell, Conditions, answered_by, open_attacks
from magic_rl.evaluation.estimates import Estimate, rate_of
from magic_rl.evaluation.result import (
    ATTACKERS,
    DEFENDERS,
    EVALUATION_FILE,
    FAILURES_FILE,
    OUTCOMES_FILE,
    Attacker,
    Crossplay,
    Evaluation,
    HeldOut,
    Rate,
    Replies,
    attacker_name,
    defender_name,
    measured,
    write,
)
from magic_rl.evaluation.summary import (
    Compared,
    by_category,
    changes,
    compared_attackers,
    failures,
    outcomes,
    replies,
    table,
)
from magic_rl.evaluation.verdict import verdict
from magic_rl.game.play import Player
from magic_rl.judges.panel import Panel
from magic_rl.learning.fluency import Yardstick
from magic_rl.runs.assembly import Setup, prepare
from magic_rl.runs.inputs import compare, compare_settings, digests
from magic_rl.runs.preflight import try_judge
from magic_rl.store.run import RunDirectory
from magic_rl.types import Episode, Label, Role, Sample, SamplingParams, Seed
from magic_rl.view import NOBODY, View


def evaluate(run: RunDirectory, view: View = NOBODY) -> Evaluation:
    """Play all pairs and write the result files into the run, `evaluation.json` last.

    Args:
        run: With players saved.
        view: Told of every pair.

    Returns:
        What stands in `evaluation.json`.

    Raises:
        StoreError: If the run has saved no players yet.
        TooManyAbstentionsError: If the judge is silent too often for the numbers to be believed.
    """
    defenders = [number for number, _ in run.players("defender")]
    attackers: list[int | None] = [None, *(number for number, _ in run.players("attacker"))]
    compared = compared_attackers(attackers)
    setup = _unchanged(run)
    config, seeds = setup.config, held_out_seeds(setup)
    inner = evenly(seeds, math.ceil(len(seeds) * config.evaluation.inner_share))
    places = sorted(set(compared.values()))
    boards = _boards(run, setup, attackers, [seeds if i in places else inner for i in range(len(attackers))], view)

    met = conditions(setup)
    view.stage("evaluate", len(places) + len(attackers) * len(defenders))
    base = evaluated(setup, "defender", setup.engines["defender"].base())
    untouched = dict(zip(places, answered_by(met, [boards[place] for place in places], base), strict=True))
    _watch(view, None, [attackers[place] for place in places], list(untouched.values()))
    yardstick = Yardstick(setup.engines["defender"].base(), _samples(list(untouched.values())))
    fewer = [(who, [episode for episode in opened if episode.seed in inner]) for who, opened in boards]
    columns, said = [], []
    for number in defenders:
        player = _player(run, setup, "defender", number)
        columns.append(answered_by(met, boards if number in (defenders[0], defenders[-1]) else fewer, player))
        said.append(_replies(yardstick, columns[-1], player))
        _watch(view, number, attackers, columns[-1])
    by_place = (untouched, dict(enumerate(columns[0])), dict(enumerate(columns[-1])))
    seen = ({name: cells[place] for name, place in compared.items()} for cells in by_place)
    cells: Compared = dict(zip(DEFENDERS, seen, strict=True))
    change = changes(cells)
    of_untouched = _replies(yardstick, list(untouched.values()), base)
    of_compared = dict(zip(DEFENDERS, (of_untouched, said[0], said[-1]), strict=True))
    evaluation = Evaluation(
        measured=measured(run),
        judge=setup.judge.name,
        held_out=_held_out(config, seeds),
        verdict=verdict(change["asr"], change["compliance"], {who: r.degenerate for who, r in of_compared.items()}),
        table=table(cells),
        change=change,
        rewrites={name: _rewrites(boards[i], cells["start"][name]) for name, i in compared.items() if boards[i][0]},
        replies=of_compared,
        categories=by_category(cells),
        crossplay=_crossplay(attackers, defenders, compared, columns, said),
        agreement=panel_agreement(setup.judge.votes) if isinstance(setup.judge, Panel) else [],
    )
    _note_cut_off(evaluation, config.learning.max_cut_off, view)
    write(run, FAILURES_FILE, failures(cells))
    write(run, OUTCOMES_FILE, outcomes(cells), indent=None)
    write(run, EVALUATION_FILE, evaluation)
    return evaluation


def _unchanged(run: RunDirectory) -> Setup:
    """What the run was trained with, looked at again, and a judge that answers."""
    config = load_config(run.path / "config.toml")
    if not run.players("defender"):
        raise StoreError(f"{run.path}: no players saved yet", "resume", run=run.path)
    compare_settings(run, config)
    setup = prepare(config)
    compare(run, digests(setup))
    try_judge(setup.judge, fresh=False)
    return setup


def held_out_seeds(setup: Setup) -> list[Seed]:
    """The seeds that are evaluated on, harmful ones first: those of `evaluation.split`, never trained on."""
    limit = setup.config.evaluation.max_seeds or 0
    labels: tuple[Label, ...] = ("harmful", "benign")
    side = setup.split.held_out if setup.config.evaluation.split == "held_out" else setup.split.validation
    return [seed for label in labels for seed in evenly([s for s in side if s.label == label], limit)]


def conditions(setup: Setup) -> Conditions:
    """Under which players are evaluated."""
    config = setup.config
    judge = config.judge
    return Conditions(setup.judge, setup.prompts, config.game.turns, config.seed, judge.retries, judge.max_abstained)


def evaluated(setup: Setup, role: Role, policy: Policy) -> Player:
    """A policy in a role's seat, speaking as `evaluation` says."""
    config = setup.config
    if role == "attacker":
        sampling = SamplingParams(config.attacker.sampling.max_tokens, config.evaluation.attacker_temperature)
    else:
        sampling = SamplingParams(config.evaluation.max_reply_tokens, config.evaluation.temperature)
    return setup.player(role, policy, sampling=sampling)


def unopened(seeds: Sequence[Seed]) -> list[Episode]:
    """An episode without turns for each seed."""
    return [Episode(seed, (), index) for index, seed in enumerate(seeds)]


def _player(run: RunDirectory, setup: Setup, role: Role, number: int) -> Player:
    return evaluated(setup, role, setup.engines[role].load(run.player(role, number), f"{role}-{number}"))


def _boards(
    run: RunDirectory, setup: Setup, attackers: Sequence[int | None], seeds: Sequence[Sequence[Seed]], view: View
) -> list[Board]:
    """Every attacker's games, opened on the seeds chosen for it."""
    view.stage("attack", len(attackers) - 1)
    boards: list[Board] = []
    for number, chosen in zip(attackers, seeds, strict=True):
        rewriter = None if number is None else _player(run, setup, "attacker", number)
        n = setup.config.evaluation.attacks_per_seed
        boards.append(open_attacks(conditions(setup), (rewriter, unopened(chosen)), n))
        if rewriter:
            view.step({"attacker": attacker_name(number), "format_rate": _well_formed(boards[-1]).value}, {})
    return boards


def _well_formed(board: Board) -> Estimate:
    return rate_of(episode.turns[0].well_formed for episode in board[1])


def _rewrites(board: Board, start: Cell) -> dict[Rate, Estimate]:
    """What an attacker's first outputs are like, and whether the attacks kept what the seeds ask."""
    cut_off = rate_of(episode.cut_off == "attacker" for episode in board[1])
    rates: dict[Rate, Estimate] = {
        "well_formed": _well_formed(board),
        "on_topic": rate_of(start.on_topic),
        "cut_off": cut_off,
    }
    return {name: found for name, found in rates.items() if found.n}


def _samples(cells: Sequence[Cell]) -> list[Sample]:
    return evenly([sample for cell in cells for sample in cell.samples], SCORED)


def _replies(yardstick: Yardstick, cells: Sequence[Cell], player: Player) -> Replies:
    found = yardstick.measure(_samples(cells), player.policy)
    return replies(cells, found.degenerate, logprob=found.logprob, kl=found.kl, distinct=found.distinct)


def _held_out(config: Config, seeds: Sequence[Seed]) -> HeldOut:
    return HeldOut(
        split=config.evaluation.split,
        harmful=sum(seed.label == "harmful" for seed in seeds),
        benign=sum(seed.label == "benign" for seed in seeds),
        categories=sorted({seed.category for seed in seeds if seed.category}),
    )


def _crossplay(
    attackers: list[int | None],
    defenders: list[int],
    compared: dict[Attacker, int],
    columns: Sequence[Sequence[Cell]],
    said: list[Replies],
) -> Crossplay:
    """All pairs: a row for each attacker, a column for each defender."""
    rows = list(zip(*columns, strict=True))
    return Crossplay(
        attackers=attackers,
        defenders=defenders,
        compared=compared,
        asr=[[cell.asr for cell in row] for row in rows],
        compliance=[[cell.compliance for cell in row] for row in rows],
        replies=said,
        abstained=sum(value is None for row in rows for cell in row for value in cell.escaped + cell.answered),
    )


def _watch(view: View, defender: int | None, attackers: Sequence[int | None], cells: Sequence[Cell]) -> None:
    for attacker, cell in zip(attackers, cells, strict=True):
        rates = {"asr": cell.asr.value, "compliance": cell.compliance.value}
        view.step({"attacker": attacker_name(attacker), "defender": defender_name(defender), **rates}, {})


def _note_cut_off(evaluation: Evaluation, most: float, view: View) -> None:
    """Say of outputs that most often end at a limit which setting it is: what is judged then is their beginning."""
    limits: dict[str, dict[str, Estimate | None]] = {
        "attacker.sampling.max_tokens": {
            f"the {ATTACKERS[a]}": r.get("cut_off") for a, r in evaluation.rewrites.items()
        },
        "evaluation.max_reply_tokens": {DEFENDERS[who]: each.cut_off for who, each in evaluation.replies.items()},
    }
    for key, found in limits.items():
        for who, share in found.items():
            if share and share.n and share.value > most:
                view.note(f"{key}: {share.value:.0%} of what {who} says is cut off there; raise it")
