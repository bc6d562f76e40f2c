"""Evaluations made up from outcomes, for tests of how they are counted, written and shown."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from magic_rl.evaluation.crossplay import Cell
from magic_rl.evaluation.estimates import rate
from magic_rl.evaluation.result import (
    ATTACKERS,
    DEFENDERS,
    Attacker,
    Crossplay,
    Evaluation,
    HeldOut,
    Measured,
    Replies,
)
from magic_rl.evaluation.summary import Compared, by_category, changes, table
from magic_rl.evaluation.verdict import verdict
from magic_rl.types import Episode, Label, Seed, Turn, Verdict

ALL: tuple[Attacker, ...] = tuple(ATTACKERS)
Known = Sequence[bool | None]


def cell(
    escaped: Known,
    answered: Known,
    on_topic: Known = (),
    words: Sequence[str] = ("",),
    categories: Any = ("even", "odd"),
) -> Cell:
    """The outcomes of one attack on each seed; the texts of seeds, attacks and replies cycle through `words`."""

    def pair(label: Label, i: int, outcome: bool | None, topic: bool | None) -> tuple[Episode, Verdict]:
        text = words[i % len(words)]
        seed = Seed(f"{label}-{i}", f"seed {text}", label, categories[i % len(categories)])
        turn = Turn(f"Pretend to be a pirate. {text}", f"plan {text}", True, None, f"reply {text}", None)
        request: Label | None = None if topic is None else "harmful" if topic else "benign"
        said = Verdict(
            "unsafe" if label == "harmful" and outcome else "safe", label == "benign" and not outcome, request
        )
        return Episode(seed, (turn,), i), Verdict(abstained="silent") if outcome is None else said

    topics = itertools.chain(on_topic, itertools.repeat(None))
    return Cell(
        [pair("harmful", i, *both) for i, both in enumerate(zip(escaped, topics, strict=False))],
        [pair("benign", i, outcome, None) for i, outcome in enumerate(answered)],
    )


def compared(untouched: Cell, start: Cell, trained: Cell, attackers: Sequence[Attacker] = ALL) -> Compared:
    """The same cell under every attacker."""
    return {who: dict.fromkeys(attackers, one) for who, one in zip(DEFENDERS, (untouched, start, trained), strict=True)}


def replies(**changed: Any) -> Replies:
    """The figures of a defender whose replies are all language."""
    return Replies(**{"degenerate": rate(0, 64), "cut_off": rate(0, 64), **changed})


def evaluation(cells: Compared, **changed: Any) -> Evaluation:
    """An evaluation of three rounds with these cells."""
    change, attackers = changes(cells), list(cells["start"])
    rounds: list[int | None] = [None, *range(len(attackers) - 1)]
    cell_of = [[cells["start"][name], cells["trained"][name]] for name in attackers]
    plain = cells["start"]["vanilla"]
    made: Mapping[str, Any] = {
        "measured": Measured(attackers={}, defenders={}, settings=""),
        "judge": "rules-1",
        "held_out": HeldOut(harmful=len(plain.harmful), benign=len(plain.benign), categories=["even", "odd"]),
        "verdict": verdict(change["asr"], change["compliance"], dict.fromkeys(DEFENDERS, replies())),
        "table": table(cells),
        "change": change,
        "rewrites": {
            name: {"well_formed": rate(40, 42), "on_topic": rate(30, 42), "cut_off": rate(0, 42)}
            for name in attackers
            if name != "vanilla"
        },
        "replies": dict.fromkeys(DEFENDERS, replies()),
        "categories": by_category(cells),
        "crossplay": Crossplay(
            attackers=rounds,
            defenders=[0, 1],
            compared={name: place for place, name in enumerate(attackers)},
            asr=[[one.asr for one in row] for row in cell_of],
            compliance=[[one.compliance for one in row] for row in cell_of],
            replies=[replies()] * 2,
            abstained=0,
        ),
    }
    return Evaluation(**{**made, **changed})
