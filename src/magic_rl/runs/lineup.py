"""Who meets whom in an evaluation, on which seeds, and how many replies that takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from magic_rl.data.overlap import SeedFinder
from magic_rl.data.seeds import SeedSet
from magic_rl.data.split import evenly
from magic_rl.errors import DataError
from magic_rl.evaluation.result import Attacker, HeldOut
from magic_rl.evaluation.summary import compared_attackers
from magic_rl.runs.assembly import Setup
from magic_rl.runs.instead import Subject
from magic_rl.types import Label, Seed
from magic_rl.view import View

_LABELS: tuple[Label, ...] = ("harmful", "benign")


@dataclass(frozen=True, slots=True)
class Lineup:
    """Players and seeds."""

    attackers: list[int | None]  # round of each; None plays the seeds as they are
    defenders: list[int]  # round of each
    seeds: list[Seed]  # of the pairs that the table compares
    inner: list[Seed]  # the part of them that all other pairs play
    other: bool  # whether a model from outside the run is a defender too
    attacks_per_seed: int  # of each attacker
    turns: int  # T, turns of a conversation

    @property
    def compared(self) -> dict[Attacker, int]:
        """Indices of the attackers that the table compares."""
        return compared_attackers(self.attackers)

    @property
    def compared_indices(self) -> list[int]:
        """The same indices, each once, in order."""
        return sorted(set(self.compared.values()))

    def seeds_of(self, index: int) -> list[Seed]:
        """The seeds that the attacker at an index plays."""
        return self.seeds if index in self.compared_indices else self.inner

    def __str__(self) -> str:
        """What will be played, in one line."""

        def games(index: int, seeds: Sequence[Seed]) -> int:
            return len(seeds) * (1 if self.attackers[index] is None else self.attacks_per_seed)

        everywhere = range(len(self.attackers))
        compared = sum(games(index, self.seeds) for index in self.compared_indices)
        at_ends = sum(games(index, self.seeds_of(index)) for index in everywhere)
        between = sum(games(index, self.inner) for index in everywhere)
        ends = len({self.defenders[0], self.defenders[-1]})
        replies = compared * (1 + self.other) + at_ends * ends + between * (len(self.defenders) - ends)
        attacks = at_ends - sum(games(index, self.seeds) for index in everywhere if self.attackers[index] is None)
        return (
            f"{replies * self.turns:,} replies to write and {replies:,} to judge: {len(self.attackers)} attackers, "
            f"vanilla seeds among them, write {attacks:,} attacks on {len(self.seeds):,} seeds"
        )


def lineup_of(subject: Subject, setup: Setup, view: View) -> tuple[Lineup, HeldOut]:
    """The players of an evaluation and its seeds, harmful ones first.

    Raises:
        DataError: If the run was trained on all seeds that replace its own.
    """
    config, instead = setup.config, subject.instead
    written = False  # whether the seeds are attacks already
    seeds = held_out_seeds(setup)
    if subject.seeds:
        seeds, written = _other_seeds(subject.seeds, setup, view)
    rounds = [] if written else [number for number, _ in (instead.attackers or subject.run).players("attacker")]
    defenders = [number for number, _ in subject.run.players("defender")]
    if instead.defender:  # it is compared with the trained defender, under the attackers of the table
        rounds, defenders = sorted({*rounds[:1], *rounds[-1:]}), defenders[-1:]
    lineup = Lineup(
        attackers=[None, *rounds],
        defenders=defenders,
        seeds=seeds,
        inner=evenly(seeds, math.ceil(len(seeds) * config.evaluation.inner_share)),
        other=instead.defender is not None,
        attacks_per_seed=config.evaluation.attacks_per_seed,
        turns=config.game.turns,
    )
    held_out = HeldOut(
        split="other" if instead.seeds else config.evaluation.split,
        harmful=sum(seed.label == "harmful" for seed in seeds),
        benign=sum(seed.label == "benign" for seed in seeds),
        categories=sorted({seed.category for seed in seeds if seed.category}),
    )
    return lineup, held_out


def held_out_seeds(setup: Setup) -> list[Seed]:
    """The seeds to evaluate on, harmful ones first: those of `evaluation.split`, never trained on."""
    side = setup.split.held_out if setup.config.evaluation.split == "held_out" else setup.split.validation
    return _limited(side, setup)


def _limited(seeds: Sequence[Seed], setup: Setup) -> list[Seed]:
    most = setup.config.evaluation.max_seeds
    return [seed for label in _LABELS for seed in evenly([s for s in seeds if s.label == label], most)]


def _other_seeds(found: SeedSet, setup: Setup, view: View) -> tuple[list[Seed], bool]:
    """Seeds in place of the run's, without those that it was trained on, and whether they are attacks already."""
    sources = ", ".join(source.where for source in found.sources)
    taught = {_words(seed.text) for seed in setup.split.train}
    unknown = [seed for seed in found.seeds if _words(seed.text) not in taught]
    if known := len(found.seeds) - len(unknown):
        view.note(f"{sources}: left out {known} seeds that the run was trained on")
    if not unknown:
        raise DataError(f"{sources}: holds no seeds that the run was not trained on; name others", about="sources")
    seeds = _limited(unknown, setup)
    if near := SeedFinder(seeds, setup.split.train).repeated_count:
        view.note(f"{sources}: {near} of {len(seeds)} seeds are nearly those of the run's training")
    return seeds, any(source.kind == "attacks" for source in found.sources)


def _words(text: str) -> str:
    return " ".join(text.casefold().split())
