"""The attack pool (METHOD §2): seeds, attacks and the reasoning that leads to them, for the attacker's SFT."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from magic_rl.attacks.alpaca import alpaca_rows, read_alpaca
from magic_rl.attacks.strategies import choose_strategies
from magic_rl.attacks.templates import write_attack
from magic_rl.errors import UserError
from magic_rl.files import checked, read_objects
from magic_rl.rng import generator
from magic_rl.types import Seed

_TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """One example: a seed and the attack made of it.

    Raises:
        ValueError: If the attack is empty, or a text holds one of the format's own tags.
    """

    seed: Seed
    strategy: str
    thinking: str
    attack: str

    def __post_init__(self) -> None:
        if not self.attack.strip():
            raise ValueError("the attack is empty")
        if _TAG.search(self.thinking + self.attack):
            raise ValueError("a text holds a <think> or <answer> tag")

    @property
    def completion(self) -> str:
        """The output that the attacker learns, in the format that R_fmt asks for (METHOD §4)."""
        return f"<think>{self.thinking}</think><answer>{self.attack}</answer>"


def build_pool(seeds: Sequence[Seed], strategies: Sequence[str], rng_seed: int) -> list[PoolEntry]:
    """All seeds rewritten with all strategies by the offline writer; deterministic in `rng_seed`.

    Args:
        seeds: Requests, harmful and benign.
        strategies: Names; empty means all that need no model, which leaves out the translations.
        rng_seed: Random seed of the choice of templates.

    Returns:
        One entry per seed and strategy.

    Raises:
        UserError: For an unknown strategy, or one that cannot rewrite one of the seeds.
    """
    chosen = choose_strategies(strategies)
    entries = []
    for index, seed in enumerate(seeds):
        rng = generator(rng_seed, 0, "attack pool", index)
        for strategy in chosen:
            try:
                rewrite = write_attack(seed, strategy, rng)
                entries.append(PoolEntry(seed, strategy.name, rewrite.thinking, rewrite.attack))
            except ValueError as error:
                raise UserError(f"seed {seed.id}: cannot be rewritten by {strategy.name}: {error}") from error
    return entries


def read_pool(path: Path) -> list[PoolEntry]:
    """Read a pool: one entry per line, or the alpaca columns of MAGIC's release.

    Raises:
        UserError: For a file that cannot be read, is empty, or has a broken line; names file and line.
    """
    if rows := alpaca_rows(path):
        return checked(rows, lambda _, row: PoolEntry(*read_alpaca(row)))
    return read_objects(path, PoolEntry, "a pool entry")
