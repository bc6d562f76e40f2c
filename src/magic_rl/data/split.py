"""Which seeds are trained on, which are held out, and which are drawn for a step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from magic_rl.errors import UserError
from magic_rl.types import Seed


@dataclass(frozen=True, slots=True)
class Split:
    """Seeds for training and seeds that only evaluation sees."""

    train: tuple[Seed, ...]
    held_out: tuple[Seed, ...]


def split_by_category(seeds: Sequence[Seed], held_out: Sequence[str] = ()) -> Split:
    """Hold out whole categories, so that what is measured carries over to hazards never trained on.

    Args:
        held_out: Names of categories; empty holds out the last fifth of them, in order of a hash of the name.
            Seeds without any category are split by a hash of their id instead, one in five held out.

    Raises:
        UserError: For an unknown category, or a side that lacks a class.
    """
    categories = sorted({seed.category for seed in seeds if seed.category}, key=_hash)
    unknown = [name for name in held_out if name not in categories]
    if unknown:
        known = ", ".join(sorted(categories)) or "none"
        raise UserError(f"data.held_out_categories: no seed is of category {unknown[0]!r}; known: {known}")
    if categories:
        chosen = set(held_out) or set(categories[-math.ceil(len(categories) / 5) :])
        out = {seed.id for seed in seeds if seed.category in chosen}
    else:
        out = {seed.id for seed in seeds if int(_hash(seed.id), 16) % 5 == 0}
    split = Split(
        train=tuple(seed for seed in seeds if seed.id not in out),
        held_out=tuple(seed for seed in seeds if seed.id in out),
    )
    for name, side in {"training": split.train, "held-out": split.held_out}.items():
        for label in ("harmful", "benign"):
            if not any(seed.label == label for seed in side):
                raise UserError(
                    f"data.held_out_categories: the {name} side has no {label} seeds; choose other categories"
                )
    return split


def draw_seeds(seeds: Sequence[Seed], count: int, rng: np.random.Generator) -> tuple[Seed, ...]:
    """Draw one step's seeds, half of them benign (METHOD §1); an odd one is harmful.

    Without replacement as long as a class has enough seeds, then beginning anew.
    """
    drawn: list[Seed] = []
    for label, share in (("harmful", count - count // 2), ("benign", count // 2)):
        of_class = [seed for seed in seeds if seed.label == label]
        for begin in range(0, share, len(of_class)):
            order = rng.permutation(len(of_class))[: share - begin]
            drawn += [of_class[i] for i in order]
    return tuple(drawn)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
