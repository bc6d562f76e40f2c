"""Held-out seeds where they must not be: in texts that a model is trained on.

Texts are compared as words without case and punctuation. A seed is found where a text is the same, or holds four
fifths of its runs of three words. A held-out seed that a training seed repeats in this way is not looked for: it was
there before.
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
_WORD = re.compile("[\u3040-\u9fff]|[^\\W_\u3040-\u9fff]+")  # signs of scripts without spaces stand alone

Run = tuple[str, ...]


class SeedFinder:
    """Finds seeds in texts.

    Attributes:
        repeated: How many of the seeds are repeated by training seeds; they are not looked for.
    """

    def __init__(self, seeds: Sequence[Seed], training: Sequence[Seed] = ()) -> None:
        """Args: seeds: What to look for."""
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
        self._ignored: set[int] = set()
        self._ignored = {number for seed in training for number in self._numbers(seed.text)}
        self.repeated = len(self._ignored)

    def found_in(self, texts: Iterable[str]) -> bool:
        """Whether any of the texts holds one of the seeds."""
        return any(self._numbers(text) - self._ignored for text in texts)

    def _numbers(self, text: str) -> set[int]:
        words = _words(text)
        hits = Counter(number for run in _runs(words) for number in self._places.get(run, ()))
        near = {number for number, count in hits.items() if count >= _SHARE * self._sizes[number]}
        return near | {self._whole[words]} if words in self._whole else near


def _words(text: str) -> Run:
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _runs(words: Run) -> set[Run]:
    return {words[i : i + _RUN] for i in range(len(words) - _RUN + 1)}
