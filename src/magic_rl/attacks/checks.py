"""Whether what a writer model said can stand in the attack pool, and if not, why: pure functions of its answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from magic_rl.attacks.strategies import Strategy
from magic_rl.types import Seed

_TAG = re.compile(r"<\s*/?\s*(?:think|answer)\s*>", re.IGNORECASE)
_INTRODUCTION = re.compile(
    r"\s*(?:(?:sure|certainly|of course|okay)\b[^\n:]{0,20})?\bhere(?:'s|’s| is| are)\b[^\n:]{0,60}"
    r"\b(?:rewrit|rephras|reword|translat|version|thoughts)[^\n:]{0,60}:\s",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "“": "”", "«": "»"}
_SCRIPTS = {"malayalam": "MALAYALAM", "tamil": "TAMIL", "marathi": "DEVANAGARI", "simplified_chinese": "CJK"}


@dataclass(frozen=True, slots=True)
class Checks:
    """What the writer's answers are held against, by those who can read.

    Attributes:
        refuses: Whether a text refuses; None if that cannot be told.
        same_topic: Whether a rewrite, given second, shares content with the text of its seed.
    """

    refuses: Callable[[str], bool | None]
    same_topic: Callable[[str, str], bool]

    def reject_rewrite(self, seed: Seed, strategy: Strategy, attack: str) -> str | None:
        """Why a rewrite cannot stand in the pool; None if it can."""
        if reason := self.reject_text(attack):
            return reason
        if fold(attack) == fold(seed.text):
            return "the same as the seed"
        if strategy.family == "translation":
            return None if _in_script(attack, strategy.name) else "not in the language asked for"
        return None if self.same_topic(seed.text, attack) else "off topic"

    def reject_text(self, text: str) -> str | None:
        """Why any text of the writer cannot stand in the pool; None if it can."""
        if not text:
            return "empty"
        if _TAG.search(text):
            return "holds a <think> or <answer> tag"
        return "the writer refused" if self.refuses(text) else None


def bare(text: str) -> str:
    """An answer without what models put around it unasked: words that introduce it, and quotation marks."""
    introduction = _INTRODUCTION.match(text)
    text = text[introduction.end() if introduction else 0 :].strip()
    close = _QUOTES.get(text[:1])
    inner = text[1:-1].strip()
    return inner if close and text.endswith(close) and not {text[0], close} & set(inner) else text


def fold(text: str) -> str:
    """What two texts have in common that differ in case, spaces or end marks alone."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .?!")


def _in_script(text: str, language: str) -> bool:
    """Whether at least half of the letters are of the language's script; any script will do for one in Latin."""
    script = _SCRIPTS.get(language)
    letters = [char for char in text if char.isalpha()]
    if script is None:
        return bool(letters)
    return bool(letters) and 2 * sum(unicodedata.name(char, "").startswith(script) for char in letters) >= len(letters)
