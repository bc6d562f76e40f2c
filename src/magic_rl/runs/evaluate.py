"""Evaluates a run: every saved attacker against every saved defender, and the untouched model, on held-out seeds.

The table compares the first and last players and the untouched model; all other pairs may get fewer seeds
(`evaluation.inner_share`). Samples are kept until the end, so a stopped evaluation can continue. Judge, seeds, defender
and attackers may replace the run's own (`runs.instead`). Every exchange is kept with its verdict, so that another judge
can label it later.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from magic_rl.data.split import evenly
from magic_rl.evaluation import result
from magic_rl.evaluation.agreement import panel_agreement
from magic_rl.evaluation.chat_policy import ChatPolicy
from magic_rl.evaluation.crossplay import SCORED, AttackSet, Cell, Conditions, answered_by, open_attacks
from magic_rl.evaluation.estimates import Estimate, rate_of
from magic_rl.evaluation.result import Cost, Crossplay, Defender, Evaluation, HeldOut, Rate, Replies, read, write
from magic_rl.evaluation.summary import Compared, by_category, changes, failures, outcomes, replies, table, tsv
from magic_rl.evaluation.verdict import verdict
from magic_rl.evidence.items import ITEMS_FILE, Item
from magic_rl.game.play import Player, defender_messages
from magic_rl.judges.model import ModelJudge
from magic_rl.judges.panel import Panel
from magic_rl.learning.fluency import Yardstick
from magic_rl.runs.assembly import Setup, prepare
from magic_rl.runs.cached_policy import CachedPolicy
from magic_rl.runs.inputs import compare, digest, digests
from magic_rl.runs.instead import OWN, Instead, Subject, check_untaught, subject_of
from magic_rl.runs.judge import make_chat
from magic_rl.runs.lineup import Lineup, lineup_of
from magic_rl.runs.preflight import try_judge
from magic_rl.runs.target import endpoint_of
from magic_rl.runs.transcripts import transcripts
from magic_rl.store import atomic
from magic_rl.store.run import RunDirectory
from magic_rl.text.renderer import SamplingPolicy
from magic_rl.types import Episode, Role, Sample, SamplingParams, Seed
from magic_rl.view import NOBODY, View

_UNFINISHED = "unfinished"  # folder with the samples of an unfinished evaluation


@dataclass(frozen=True, slots=True)
class _Playing:
    """Everything an evaluation needs. `cache` is the folder with the samples so far."""

    subject: Subject
    setup: Setup
    lineup: Lineup
    met: Conditions
    cache: Path
    view: View

    def player(self, role: Role, number: int) -> Player:
        """A saved player in its role."""
        lent = self.subject.instead.attackers if role == "attacker" else None
        policy = self.setup.engines[role].load((lent or self.subject.run).player(role, number), f"{role}-{number}")
        return evaluated(self.setup, role, CachedPolicy(policy, self.cache))


@dataclass(slots=True)
class _Played:
    """The results."""

    attack_sets: list[AttackSet]  # one per attacker
    columns: list[list[Cell]] = field(default_factory=list)  # of each defender of the run, one cell per attacker
    said: list[Replies] = field(default_factory=list)  # what the replies of each are like
    # By defender of the table, and index of the attacker.
    cells: dict[Defender, dict[int, Cell]] = field(default_factory=dict)
    replies: dict[Defender, Replies] = field(default_factory=dict)  # of the defenders of the table
    items: list[Item] = field(default_factory=list)  # every exchange


def evaluate(run: RunDirectory, view: View = NOBODY, instead: Instead = OWN) -> Evaluation:
    """Play all pairs and write the result files, `evaluation.json` last: into the run, or into a folder of their own.

    Args:
        run: A run with saved players.
        view: Told of every pair.
        instead: What replaces parts of the run.

    Returns:
        The content of `evaluation.json`.

    Raises:
        UserError: If part of the run, or of what replaces it, cannot be used.
        TooManyAbstentionsError: If the judge abstains too often for the numbers to be trusted.
    """
    subject, began = subject_of(run, instead), time.monotonic()
    if instead.defender and not (other := endpoint_of(instead.defender)).url:
        from magic_rl.engines.local.models import resolve_model

        resolve_model(other.model, trust_remote_code=subject.config.engine.trust_remote_code)  # before hours of play
    setup = prepare(subject.config)
    lent = instead.attackers
    compare(run, {k: v for k, v in digests(setup).items() if not (lent and k.startswith("attacker"))})
    lineup, held_out = lineup_of(subject, setup, view)
    if lent:
        check_untaught(lent.path, lineup.seeds, setup.split.train)
    try_judge(setup.judge, fresh=False)
    view.note(str(lineup))
    playing = _Playing(subject, setup, lineup, conditions(setup), _begun(subject, view), view)
    played = _play(playing)
    cells = {who: {name: of[i] for name, i in lineup.compared.items()} for who, of in played.cells.items()}
    evaluation = _numbers(playing, played, cells, held_out)
    _note_cut_off(evaluation, subject.config.learning.max_cut_off, view)
    write(subject.out, result.FAILURES_FILE, failures(cells))
    write(subject.out, result.OUTCOMES_FILE, outcomes(cells), indent=None)
    atomic.write_rows(subject.out.path / ITEMS_FILE, played.items)
    atomic.write_file(subject.out.path / result.SUMMARY_FILE, tsv(evaluation).encode())
    write(subject.out, result.COST_FILE, _cost(playing, played, time.monotonic() - began))
    write(subject.out, result.EVALUATION_FILE, evaluation)
    atomic.remove(playing.cache.parent)
    return evaluation


def _begun(subject: Subject, view: View) -> Path:
    """The folder with the samples so far; those of a different evaluation are removed."""
    folder = subject.out.path / _UNFINISHED / digest(subject.measured.model_dump(mode="json"))
    if folder.is_dir() and any(folder.iterdir()):
        view.note("goes on from where it was stopped")
    else:
        atomic.remove(folder.parent)
    atomic.make_folder(folder)
    return folder


def current(subject: Subject) -> Evaluation | None:
    """The requested evaluation, if it was made before and nothing has changed since."""
    found = read(subject.out, result.EVALUATION_FILE, Evaluation)
    return found if found and found.measured == subject.measured else None


def conditions(setup: Setup) -> Conditions:
    """The conditions under which players are evaluated."""
    config = setup.config
    judge = config.judge
    return Conditions(setup.judge, config.game.turns, config.rng_seed, judge.retries, judge.max_abstained)


def evaluated(setup: Setup, role: Role, policy: SamplingPolicy) -> Player:
    """A policy in a role, sampling as `evaluation` says."""
    config = setup.config
    if role == "attacker":
        sampling = SamplingParams(config.attacker.sampling.max_tokens, config.evaluation.attacker_temperature)
    else:
        sampling = SamplingParams(config.evaluation.max_reply_tokens, config.evaluation.temperature)
    return setup.player(role, policy, sampling=sampling)


def new_episodes(seeds: Sequence[Seed]) -> list[Episode]:
    """An episode without turns for each seed."""
    return [Episode(seed, (), index) for index, seed in enumerate(seeds)]


def _attack_sets(playing: _Playing) -> list[AttackSet]:
    """Every attacker's games, opened with its attacks on the seeds chosen for it."""
    lineup, attack_sets = playing.lineup, list[AttackSet]()
    playing.view.stage("attack", len(lineup.attackers) - 1)
    for index, number in enumerate(lineup.attackers):
        rewriter = None if number is None else playing.player("attacker", number)
        attack_set = (rewriter, new_episodes(lineup.seeds_of(index)))
        attack_sets.append(open_attacks(playing.met, attack_set, lineup.attacks_per_seed))
        if rewriter:
            rate = _well_formed(attack_sets[-1]).value
            playing.view.step({"attacker": result.attacker_name(number), "format_rate": rate}, {})
    return attack_sets


def _play(playing: _Playing) -> _Played:
    """Let all defenders reply: the untouched model, those of the run, and the one from outside it, if any."""
    lineup, setup, attack_sets = playing.lineup, playing.setup, _attack_sets(playing)
    played, compared = _Played(attack_sets), [attack_sets[index] for index in lineup.compared_indices]
    steps = len(lineup.compared_indices) * (1 + lineup.other) + len(lineup.attackers) * len(lineup.defenders)
    playing.view.stage("evaluate", steps)

    untouched = CachedPolicy(setup.engines["defender"].base(), playing.cache)
    base = evaluated(setup, "defender", untouched)
    cells = answered_by(playing.met, compared, base)
    _keep(playing, played, result.defender_name(None), base, dict(zip(lineup.compared_indices, cells, strict=True)))
    yardstick = Yardstick(untouched, _samples(cells))
    played.cells["untouched"] = dict(zip(lineup.compared_indices, cells, strict=True))
    played.replies["untouched"] = _replies(yardstick, cells, base)

    ends = (lineup.defenders[0], lineup.defenders[-1])
    fewer = [(who, [episode for episode in opened if episode.seed in lineup.inner]) for who, opened in attack_sets]
    for number in lineup.defenders:
        player = playing.player("defender", number)
        cells = answered_by(playing.met, attack_sets if number in ends else fewer, player)
        played.columns.append(cells)
        played.said.append(_replies(yardstick, cells, player))
        _keep(playing, played, result.defender_name(number), player, dict(enumerate(cells)))
    trained: tuple[Defender, ...] = ("trained",) if lineup.other else ("start", "trained")
    for who, column in zip(trained, (0, -1), strict=False):
        played.cells[who] = dict(enumerate(played.columns[column]))
        played.replies[who] = played.said[column]
    if target := playing.subject.instead.defender:
        _play_other(playing, played, yardstick, target)
    return played


def _play_other(playing: _Playing, played: _Played, yardstick: Yardstick, target: str) -> None:
    """Let a model from outside the run reply. It is given the attack alone, in its own template."""
    setup, indices = playing.setup, playing.lineup.compared_indices
    chat = ChatPolicy(make_chat(endpoint_of(target), setup.config.engine, target))
    limits = setup.config.evaluation
    alone = replace(setup.prompts, defender_user="{attack}")
    player = Player(chat, chat, SamplingParams(limits.max_reply_tokens, limits.temperature), prompts=alone)
    cells = answered_by(playing.met, [played.attack_sets[index] for index in indices], player)
    for why, times in chat.failed.most_common(1):
        failed = f"{chat.failed.total()} of its replies failed ({times} times: {why})"
        playing.view.note(f"{target}: {failed}; they count for neither side")
    # Its ids are not ours, so its replies are scored in the run's tokens; its own log-probabilities are not known.
    base, renderer = setup.player("defender", setup.engines["defender"].base()), setup.renderer("defender")
    spoken = [e for cell in cells for e, _ in (*cell.harmful, *cell.benign) if e.reply.strip()]
    said = [
        Sample(
            renderer.prompt(defender_messages(base, episode.turns[-1:])),
            ids := renderer.completion(episode.reply),
            (0.0,) * len(ids),
            "stop",
        )
        for episode in evenly(spoken, SCORED)
    ]
    found = yardstick.measure(said)
    like = replies(cells, found.degenerate, logprob=found.logprob, distinct=found.distinct)
    played.cells["other"] = dict(zip(indices, cells, strict=True))
    played.replies["other"] = like.model_copy(update={"tokens": None})
    _keep(playing, played, target, player, played.cells["other"])


def _keep(playing: _Playing, played: _Played, defender: str, player: Player, cells: Mapping[int, Cell]) -> None:
    """Keep every exchange of a defender, and report its rates to the view."""
    named = [(result.attacker_name(playing.lineup.attackers[index]), cell) for index, cell in cells.items()]
    played.items += transcripts(named, player, defender, playing.met.judge.name)
    for attacker, cell in named:
        rates = {"asr": cell.asr.value, "compliance": cell.compliance.value}
        playing.view.step({"attacker": attacker, "defender": defender, **rates}, {})


def _numbers(playing: _Playing, played: _Played, cells: Compared, held_out: HeldOut) -> Evaluation:
    """The content of `evaluation.json`. Args: cells: Those of the table, by the attackers' names in it."""
    subject, lineup, judge, attack_sets = playing.subject, playing.lineup, playing.setup.judge, played.attack_sets
    rows = list(zip(*played.columns, strict=True))  # one for each attacker, a column for each defender
    change, before = changes(cells), list(cells.values())[-2]
    return Evaluation(
        measured=subject.measured,
        instead=subject.instead.as_dict(),
        judge=judge.name,
        held_out=held_out,
        verdict=verdict(change["asr"], change["compliance"], played.replies),
        table=table(cells),
        change=change,
        rewrites={
            name: _rewrites(attack_sets[i], before[name]) for name, i in lineup.compared.items() if attack_sets[i][0]
        },
        replies=played.replies,
        categories=by_category(cells),
        crossplay=Crossplay(
            attackers=lineup.attackers,
            defenders=lineup.defenders,
            compared=lineup.compared,
            asr=[[cell.asr for cell in row] for row in rows],
            compliance=[[cell.compliance for cell in row] for row in rows],
            replies=played.said,
            abstained=sum(value is None for row in rows for cell in row for value in cell.escaped + cell.answered),
        ),
        agreement=panel_agreement(judge.votes) if isinstance(judge, Panel) else [],
    )


def _well_formed(attack_set: AttackSet) -> Estimate:
    return rate_of([episode.turns[0].well_formed for episode in attack_set[1]], _seeds(attack_set))


def _seeds(attack_set: AttackSet) -> list[str]:
    return [episode.seed.id for episode in attack_set[1]]


def _rewrites(attack_set: AttackSet, cell: Cell) -> dict[Rate, Estimate]:
    """Rates of an attacker's first outputs, and how often its attacks still ask what the seeds ask."""
    rates: dict[Rate, Estimate] = {
        "well_formed": _well_formed(attack_set),
        "on_topic": rate_of(cell.on_topic, cell.seeds["harmful"]),
        "cut_off": rate_of([episode.cut_off == "attacker" for episode in attack_set[1]], _seeds(attack_set)),
    }
    return {name: found for name, found in rates.items() if found.n}


def _samples(cells: Sequence[Cell]) -> list[Sample]:
    return evenly([sample for cell in cells for sample in cell.samples], SCORED)


def _replies(yardstick: Yardstick, cells: Sequence[Cell], player: Player) -> Replies:
    found = yardstick.measure(_samples(cells), player.policy)
    return replies(cells, found.degenerate, logprob=found.logprob, kl=found.kl, distinct=found.distinct)


def _cost(playing: _Playing, played: _Played, seconds: float) -> Cost:
    samples = [episode.turns[0].attack_sample for _, opened in played.attack_sets for episode in opened]
    here = [played.cells["untouched"].values(), *played.columns]
    judge = playing.setup.judge
    judges = judge.members if isinstance(judge, Panel) else (judge,)
    written = sum(length for cells in here for cell in cells for length in cell.tokens)
    return Cost(
        ended=datetime.datetime.now(datetime.UTC).date().isoformat(),
        seconds=round(seconds, 1),
        replies=len(played.items),
        tokens=written + sum(len(sample.tokens) for sample in samples if sample),
        judge_tokens=sum(each.tokens for each in judges if isinstance(each, ModelJudge)),
    )


def _note_cut_off(evaluation: Evaluation, most: float, view: View) -> None:
    """Note each setting that cuts off more than a share `most` of outputs: only their beginning is judged then."""
    limits: dict[str, dict[str, Estimate | None]] = {
        "attacker.sampling.max_tokens": {
            f"the {result.ATTACKERS[a]}": r.get("cut_off") for a, r in evaluation.rewrites.items()
        },
        "evaluation.max_reply_tokens": {result.CALLED[who]: each.cut_off for who, each in evaluation.replies.items()},
    }
    for key, found in limits.items():
        for who, share in found.items():
            if share and share.n and share.value > most:
                view.note(f"{key}: {share.value:.0%} of what {who} says is cut off there; raise it")
