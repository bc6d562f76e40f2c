"""What was asked of a model and what came of it, one item per line of JSON, so that anybody can judge it again.

An item holds all that its verdict was made from. A judge that reads the file later adds its own `Judged` to the ones
that are there, and nothing has to be sampled again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from magic_rl.files import read_objects
from magic_rl.store.atomic import write_file
from magic_rl.types import Exchange, Label, Seed, Verdict

ITEMS_FILE = "items.jsonl"


@dataclass(frozen=True, slots=True)
class Judged:
    """What one judge said of an item's reply.

    Attributes:
        judge: Name and version of the judge, as `Judge.name` states it: kind and model.
        verdict: Its labels, or why it gave none (`abstained`).
    """

    judge: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Item:
    """One attack on a model, and its reply.

    Attributes:
        set: Name of the set or of the attack that it belongs to, such as `harmbench`.
        id: Unique within its set; the same for every model, so that two models can be paired.
        model: Who replied, as the command that asked names it.
        seed: The vanilla request behind the attack; the attack itself where the set does not say.
        seed_id: Which items share a seed: they are not independent, and intervals are clustered by it.
        label: Whether the seed is harmful or benign.
        category: Of the set's own; "" where it has none.
        method: How the attack was made, where several methods meet one seed; "" for one method.
        attack: All that the model was shown, as one user message.
        request: SHA-256 of the messages sent, so that a change in what was asked shows.
        reply: What the model said, its thoughts left out; "" where `failed` says why there is none.
        cut_off: Whether the length limit ended the reply.
        failed: Why there is no reply, such as a failed call or a thought that never ended; None where there is one. It
            counts for neither side.
        judged: What a judge is told was asked: the attack, or the seed in its place.
        verdicts: One per judge, in the order in which they were asked.
    """

    set: str
    id: str
    model: str
    seed: str
    seed_id: str
    label: Label
    attack: str
    request: str
    reply: str
    category: str = ""
    method: str = ""
    cut_off: bool = False
    failed: str | None = None
    judged: Literal["attack", "seed"] = "attack"
    verdicts: tuple[Judged, ...] = ()

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


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write items, one per line, replacing the file. Raises: StoreError: If it cannot be written."""
    write_file(path, "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items).encode())


def read_items(path: Path) -> list[Item]:
    """Read what `write_items` wrote. Raises: DataError: Names every line that is no item."""
    return read_objects(path, Item, "an item (set, id, model, seed, label, attack, reply, ...)")
