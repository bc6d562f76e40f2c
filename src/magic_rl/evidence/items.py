"""What was asked of a model and what came of it, one item per line of JSON, so that anybody can judge it again.

An item holds all that its verdict was made from. A judge that reads the file later adds its own `Judged` to the ones
that are there, and nothing has to be sampled again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from magic_rl.files import read_objects
from magic_rl.types import Exchange, Label, Seed, Verdict

ITEMS_FILE = "items.jsonl"


@dataclass(frozen=True, slots=True)
class Judged:
    """What one judge said of an item's reply."""

    judge: str  # name and version of the judge, as `Judge.name` states it: kind and model
    verdict: Verdict  # its labels, or why it gave none (`abstained`)


@dataclass(frozen=True, slots=True)
class Item:
    """One attack on a model, and its reply."""

    set: str  # name of the set or of the attack that it belongs to, such as `harmbench`
    id: str  # unique within its set; the same for every model, so that two models can be paired
    model: str  # who replied, as the command that asked names it
    seed: str  # the vanilla request behind the attack; the attack itself where the set does not say
    seed_id: str  # which items share a seed: they are not independent, and intervals are clustered by it
    label: Label  # whether the seed is harmful or benign
    attack: str  # all that the model was shown, as one user message
    request: str  # SHA-256 of the messages sent, so that a change in what was asked shows
    reply: str  # what the model said, its thoughts left out; "" where `failed` says why there is none
    category: str = ""  # of the set's own; "" where it has none
    method: str = ""  # how the attack was made, where several methods meet one seed; "" for one method
    cut_off: bool = False  # whether the length limit ended the reply
    # Why there is no reply, such as a failed call or a thought that never ended; None where there is one. It counts for
    # neither side.
    failed: str | None = None
    judged: Literal["attack", "seed"] = "attack"  # what a judge is told was asked: the attack, or the seed in its place
    verdicts: tuple[Judged, ...] = ()  # one per judge, in the order in which they were asked

    @classmethod
    def about(cls, seed: Seed) -> Item:
        """An item of which no more is known yet than its seed, which is its attack as it is."""
        return cls(
            set="", id="", model="", seed=seed.text, seed_id=seed.id, label=seed.label, attack=seed.text, request="",
            reply="", category=seed.category,
        )  # fmt: skip

    @property
    def verdict(self) -> Verdict | None:
        """The first judge's; None if there is no reply or nobody has judged it."""
        return self.verdicts[0].verdict if self.failed is None and self.verdicts else None

    @property
    def exchange(self) -> Exchange:
        """What a judge is shown."""
        asked = self.seed if self.judged == "seed" else self.attack
        return Exchange(Seed(self.seed_id, self.seed, self.label, self.category), asked, self.reply)


def by_seed(values: Iterable[tuple[Item, float | None]]) -> list[tuple[float, int]]:
    """Sum and number of what is known of each seed's items, for intervals clustered by seed."""
    counts: dict[str, tuple[float, int]] = {}
    for item, value in values:
        if value is not None:
            total, n = counts.get(item.seed_id, (0.0, 0))
            counts[item.seed_id] = (total + value, n + 1)
    return list(counts.values())


def hash_of(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_items(path: Path) -> list[Item]:
    """Read items, one per line. Raises: DataError: Names every line that is no item."""
    return read_objects(path, Item, "an item (set, id, model, seed, label, attack, reply, ...)")
