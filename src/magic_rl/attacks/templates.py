"""The offline writer: rewrites by template, with a sentence of reasoning, so that a pool needs no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magic_rl.attacks.codecs import CODECS
from magic_rl.attacks.strategies import Strategy
from magic_rl.errors import ConfigError
from magic_rl.types import Seed

_THOUGHTS = (
    "I will try {name}: {description}.",
    "Best to use {name}, {description}.",
    "Let me hide it with {name}: {description}.",
)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """An attack and the thought that leads to it."""

    thinking: str
    attack: str


def write_attack(seed: Seed, strategy: Strategy, rng: np.random.Generator) -> Rewrite:
    """Rewrite a seed with a strategy.

    Raises:
        ConfigError: For a strategy that no template can write, such as a translation.
    """
    if not strategy.templates:
        raise ConfigError(f"strategy {strategy.name!r} has no templates: it needs a model as writer")
    thought = _THOUGHTS[rng.integers(len(_THOUGHTS))]
    thinking = thought.format(name=strategy.name.replace("_", " "), description=strategy.description)
    if strategy.family == "encoding":
        parts = {"encoded": CODECS[strategy.name].encode(seed.text)}
    else:
        lower = seed.text.rstrip(".?! ")
        parts = {"seed": seed.text, "lower": lower[:1].lower() + lower[1:], "misspelt": _misspell(seed.text, rng)}
    return Rewrite(thinking, strategy.templates[rng.integers(len(strategy.templates))].format(**parts))


def _misspell(text: str, rng: np.random.Generator) -> str:
    """Swap two neighbouring inner letters in half of the longer words (rounded up)."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if sum(map(str.isalpha, word)) >= 5]
    for i in rng.permutation(long)[: (len(long) + 1) // 2] if long else ():
        word = words[i]
        at = int(rng.integers(1, len(word) - 2))
        words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)
