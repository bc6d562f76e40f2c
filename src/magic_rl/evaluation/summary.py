"""The numbers of an evaluation, from its cells: the compared defenders under the same attacks, and what changed.

Pure counting; `crossplay` plays. The change is the last defender minus the one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from magic_rl.data.split import evenly
from magic_rl.evaluation.crossplay import Cell
from magic_rl.evaluation.estimates import Estimate, difference, mean, paired_change, rate_of
from magic_rl.evaluation.result import (
    Attacker,
    Defender,
    Evaluation,
    Failure,
    Failures,
    Grid,
    Measure,
    Outcomes,
    Replies,
    Turn,
)
from magic_rl.types import Episode, Label

_KEPT = 50  # failures kept per label and attacker
_RATES: tuple[Measure, ...] = ("asr", "compliance")

Compared = Mapping[Defender, Mapping[Attacker, Cell]]
_T = TypeVar("_T")


def compared_attackers(attackers: Sequence[int | None]) -> dict[Attacker, int]:
    """Indices of the attackers that the table compares.

    Args:
        attackers: The round of each, in order of rounds; None plays seeds as they are.
    """
    rounds = [place for place, number in enumerate(attackers) if number is not None]
    places: dict[Attacker, int] = {"vanilla": list(attackers).index(None)}
    return {**places, "sft_attacker": rounds[0], "last_attacker": rounds[-1]} if rounds else places


def table(cells: Compared) -> dict[Measure, Grid[Estimate]]:
    """ASR, compliance and J of each defender under each attacker."""
    return {
        "asr": _of_each(cells, lambda cell: cell.asr),
        "compliance": _of_each(cells, lambda cell: cell.compliance),
        "j": _of_each(cells, lambda cell: cell.j),
    }


def changes(cells: Compared) -> dict[Measure, dict[Attacker, Estimate]]:
    """After − before, paired attack by attack. ASR and compliance are of different seeds, so J joins them unpaired."""

    def change(name: Attacker, outcomes: Callable[[Cell], Sequence[bool | None]], label: Label) -> Estimate:
        return paired_change(outcomes(before[name]), outcomes(after[name]), after[name].seeds[label])

    before, after = list(cells.values())[-2:]
    asr = {name: change(name, lambda cell: cell.escaped, "harmful") for name in before}
    compliance = {name: change(name, lambda cell: cell.answered, "benign") for name in before}
    return {"asr": asr, "compliance": compliance, "j": {n: difference(compliance[n], asr[n]) for n in before}}


def by_category(cells: Compared) -> dict[str, dict[Measure, Grid[Estimate]]]:
    """The table for each held-out category, sorted; "" are seeds without one."""
    judged = [pair for cell in _any(cells).values() for pair in (*cell.harmful, *cell.benign)]
    return {
        category: table(
            {who: {name: cell.of_category(category) for name, cell in row.items()} for who, row in cells.items()}
        )
        for category in sorted({episode.seed.category for episode, _ in judged})
    }


def replies(cells: Sequence[Cell], degenerate: Sequence[bool], **fluency: float | None) -> Replies:
    """Measurements of one defender's replies, over all attackers.

    Args:
        cells: The defender's cells.
        degenerate: For a sample of the replies, whether each is no longer language.
        fluency: `logprob`, `kl` and `distinct` of the same sample.
    """
    thought = [thought for cell in cells for thought in cell.thought]
    return Replies(
        tokens=mean([float(length) for cell in cells for length in cell.tokens]),
        quality=mean([value for cell in cells for value in cell.quality]),
        degenerate=rate_of(degenerate),
        cut_off=rate_of(cut for cell in cells for cut in cell.cut_off),
        empty=rate_of(empty for cell in cells for empty in cell.empty),
        thought=rate_of(thought) if any(thought) else None,
        **fluency,
    )


def outcomes(cells: Compared) -> Outcomes:
    """The outcomes of each held-out seed, from which a study separates the noise of seeds from that of runs."""
    plain = _any(cells)["vanilla"]
    return Outcomes(
        seeds={
            "harmful": list(_by_seed(plain.harmful, plain.escaped)),
            "benign": list(_by_seed(plain.benign, plain.answered)),
        },
        escaped=_of_each(cells, lambda cell: list(_by_seed(cell.harmful, cell.escaped).values())),
        answered=_of_each(cells, lambda cell: list(_by_seed(cell.benign, cell.answered).values())),
    )


def failures(cells: Compared) -> Failures:
    """Failures of the last defender: at most 50 per label and attacker, evenly spaced."""
    kept = []
    before, after = list(cells.values())[-2:]
    for attacker, cell in after.items():
        start = before[attacker]
        for judged, failed, failed_before in (
            (cell.harmful, cell.escaped, start.escaped),
            (cell.benign, _negated(cell.answered), _negated(start.answered)),
        ):
            found = [
                Failure(
                    attacker=attacker,
                    seed=episode.seed,
                    turns=[
                        Turn(thinking=turn.thinking, attack=turn.attack, reply=turn.reply) for turn in episode.turns
                    ],
                    failed_before=failed_too,
                )
                for (episode, _), fails, failed_too in zip(judged, failed, failed_before, strict=True)
                if fails
            ]
            kept += evenly(found, _KEPT)
    return Failures(kept=kept)


def tsv(evaluation: Evaluation) -> str:
    """The rates of the last defender as `summary.tsv`: one task and score per line, in AdvGame's format."""
    *_, after = evaluation.pair
    rates = ((m, name, rate) for m in _RATES for name, rate in evaluation.table[m][after].items() if rate.n)
    return "".join(["task\tscore\n", *(f"{name}:{m}\t{100 * rate.value:.2f}%\n" for m, name, rate in rates)])


def _of_each(cells: Compared, of: Callable[[Cell], _T]) -> dict[Defender, dict[Attacker, _T]]:
    return {who: {name: of(cell) for name, cell in row.items()} for who, row in cells.items()}


def _any(cells: Compared) -> Mapping[Attacker, Cell]:
    """The cells of any one defender, because all met the same attacks."""
    return next(iter(cells.values()))


def _negated(outcomes: Sequence[bool | None]) -> list[bool | None]:
    return [None if outcome is None else not outcome for outcome in outcomes]


def _by_seed(judged: Sequence[tuple[Episode, object]], outcomes: Sequence[bool | None]) -> dict[str, list[bool | None]]:
    """Outcomes by the id of the seed, in order of each seed's first attack."""
    found: dict[str, list[bool | None]] = {}
    for (episode, _), outcome in zip(judged, outcomes, strict=True):
        found.setdefault(episode.seed.id, []).append(outcome)
    return found
