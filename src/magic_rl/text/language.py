"""Which language a text is in, by `py3langid`: a classifier of some 140 languages whose model comes with the package.

Its best guess for a few words is often wrong, so `foreign` requires confidence: on 10,447 replies of the demo's model,
including word salad but no foreign text, it was never wrong.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_SURE = 0.9
_UNREADABLE = ("zxx", "und")  # no linguistic content; undetermined


def language(text: str) -> tuple[str, float]:
    """The most likely language of a text as an ISO 639 code, and its probability, 0-1."""
    code, probability = _identifier().classify(text)
    return str(code), float(probability)


def foreign(text: str) -> bool:
    """Whether a text is surely not English: mostly not in Latin script, or classified so with confidence."""
    letters = [char for char in text if char.isalpha()]
    latin = sum("LATIN" in unicodedata.name(char, "") for char in letters)
    if letters and 2 * latin < len(letters):
        return True
    code, probability = language(text)
    return code not in ("en", *_UNREADABLE) and probability >= _SURE


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # its model takes a second to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
