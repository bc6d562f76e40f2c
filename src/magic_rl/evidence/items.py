"""Items: what a model was asked, its reply and the verdicts, one per line of JSON, so that anybody can judge it again.

An item holds everything that a judge needs. A judge that reads the file later adds a `Judged`, and nothing has to be
sampled again.
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
    """One judge's verdict on an item's reply."""

    judge: str  # name and version of the judge, as in `Judge.name`: kind and model
    verdict: Verdict  # its labels, or why it gave none (`abstained`)


@dataclass(frozen=True, slots=True)
class Item:
    """One attack on a model, and its reply."""

    set: str  # the set or the attack that it belongs to, such as `harmbench`
    id: str  # unique within its set; the same for each model, so that two models can be paired
    model: str  # the model that replied, as named by the command that asked
    seed: str  # the vanilla request behind the attack; the attack itself if the set does not say
    seed_id: str  # items that share a seed share it; they are not independent, so intervals are clustered by it
    label: Label  # whether the seed is harmful or benign
    attack: str  # the last user message that the model was shown
    request: str  # SHA-256 of what was sent, so that a change in it shows
    reply: str  # the model's reply without its thoughts; "" if `failed` says why there is none
    category: str = ""  # the set's own category; "" if it has none
    method: str = ""  # how the attack was made, if there are several methods; "" for one method
    cut_off: bool = False  # whether the length limit ended the reply
    # Why there is no reply, such as a failed call or a thought that never ended; None if there is one. A missing reply
    # counts for neither side.
    failed: str | None = None
    judged: Literal["attack", "seed"] = "attack"  # what a judge is shown as the request: the attack, or the seed
    verdicts: tuple[Judged, ...] = ()  # one per judge, in the order in which they were asked

    @classmethod
    def about(cls, seed: Seed) -> Item:
        """An item of which only the seed is known yet; the seed itself is its attack."""
        return cls(
            set="", id="", model="", seed=seed.text, seed_id=seed.id, label=seed.label, attack=seed.text, request="",
            reply="", category=seed.category,
        )  # fmt: skip

    @property
    def verdict(self) -> Verdict | None:
        """The first judge's verdict; None if there is no reply or no judge was asked."""
        return self.verdicts[0].verdict if self.failed is None and self.verdicts else None

    @property
    def exchange(self) -> Exchange:
        """What a judge is shown."""
        asked = self.seed if self.judged == "seed" else self.attack
        return Exchange(Seed(self.seed_id, self.seed, self.label, self.category), asked, self.reply)


def by_seed(values: Iterable[tuple[Item, float | None]]) -> list[tuple[float, int]]:
    """Sum and number of the known values of each seed, for intervals clustered by seed."""
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
    """Read items, one per line. Raises: DataError: Names each line that is no item."""
    return read_objects(path, Item, "an item (set, id, model, seed, label, attack, reply, ...)")
