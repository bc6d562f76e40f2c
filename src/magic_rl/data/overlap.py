"""Finds held-out seeds in texts that a model is trained on, where they must not be.

Texts are compared as words, without case and punctuation. A seed is found in a text with the same words or with at
least four fifths of its runs of three words. The text must hold a larger share of it than any training seed does:
requests that the seeds themselves repeat do not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from magic_rl.types import Seed

_RUN = 3  # words
_FEWEST = 4  # runs below which a seed is so short that only the same text counts
_SHARE = 0.8
_WORD = re.compile("[\u3040-\u9fff]|[^\\W_\u3040-\u9fff]+")  # in scripts without spaces each character is a word

Run = tuple[str, ...]


class SeedFinder:
    """Finds seeds in texts.

    Attributes:
        repeated_count: How many of the seeds are nearly repeated by training seeds.
    """

    def __init__(self, seeds: Sequence[Seed], training: Sequence[Seed] = ()) -> None:
        """Args: seeds: What to look for. training: Seeds of the same data that are trained on."""
        self._whole: dict[Run, int] = {}
        self._places: defaultdict[Run, list[int]] = defaultdict(list)
        self._sizes: list[int] = []
        for number, seed in enumerate(seeds):
            words = _words(seed.text)
            runs = _runs(words)
            self._whole.setdefault(words, number)
            self._sizes.append(len(runs))
            for run in runs if len(runs) >= _FEWEST else ():
                self._places[run].append(number)
        self._known: dict[int, float] = {}
        for seed in training:
            for number, share in self._shares(seed.text).items():
                self._known[number] = max(share, self._known.get(number, 0.0))
        self.repeated_count = sum(share >= _SHARE for share in self._known.values())

    def found_in(self, texts: Iterable[str]) -> bool:
        """Whether any of the texts holds one of the seeds, and more of it than any training seed does."""
        return any(
            share >= _SHARE and share > self._known.get(number, 0.0)
            for text in texts
            for number, share in self._shares(text).items()
        )

    def _shares(self, text: str) -> dict[int, float]:
        """Share of each seed that a text holds, 0–1, by the seed's number; seeds with share 0 are left out."""
        words = _words(text)
        hits = Counter(number for run in _runs(words) for number in self._places.get(run, ()))
        shares = {number: count / self._sizes[number] for number, count in hits.items()}
        return {**shares, self._whole[words]: 1.0} if words in self._whole else shares


def _words(text: str) -> Run:
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _runs(words: Run) -> set[Run]:
    return {words[i : i + _RUN] for i in range(len(words) - _RUN + 1)}
