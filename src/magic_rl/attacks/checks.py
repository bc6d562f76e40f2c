"""Whether what a writer model said can stand in the attack pool, and if not, why: pure functions of its answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from magic_rl.attacks.strategies import Strategy
from magic_rl.text.think import without_thought
from magic_rl.types import Seed

_TAG = re.compile(r"<\s*/?\s*(?:think|answer)\s*>", re.IGNORECASE)
_INTRODUCTION = re.compile(
    r"\s*(?:(?:sure|certainly|of course|okay)\b[^\n:]{0,20})?\bhere(?:'s|’s| is| are)\b[^\n:]{0,60}"
    r"\b(?:rewrit|rephras|reword|translat|version|thoughts)[^\n:]{0,60}:\s",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "“": "”", "«": "»"}
_SCRIPTS = {
    "malayalam": "MALAYALAM",
    "tamil": "TAMIL",
    "marathi": "DEVANAGARI",
    "simplified_chinese": "CJK",
    "french": "LATIN",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that carry the grammar of French, elided ones with their apostrophe: even short requests hold one.
_FRENCH = _words(
    """le la les l' un une des du d' de au aux et ou où mais donc que qu' qui quoi quel quelle quels quelles comment
    pourquoi quand combien est sont être avoir faire fait fais faites peut peux puis pouvez pourriez faut dois doit ce
    c' cet cette ces cela ceci ça mon ma mes ton ta tes son sa ses notre nos votre vos leur leurs je j' tu t' il elle
    nous vous ils elles se s' m' moi toi lui ne n' pas plus très bien tout tous toute toutes sans avec pour par sur
    sous dans en chez vers contre entre si dis dites explique expliquez donne donnez veuillez"""
)
# Those of English and of the languages most like French, as far as they are no French words too.
_NOT_FRENCH = _words(
    """the of to and is are was were be been how what why when where who which that this these those you your my our
    their his her its it he she they we i with for from into by at about can could should would will does did not have
    has had in there here please tell explain write give make get someone somebody any some without while if over up
    el los las una por para con cómo qué puedo del está mi su sus como más pero hay sin hacer algo alguien
    di che per sono della posso nel gli mio come fare è senza
    der das ich und wie ein eine mit nicht zu ist kann einen dem den von für auf ohne
    não uma como para em do da posso é você ao sem fazer alguém"""
)
_WORD = re.compile(r"[^\W\d_]+'?")
_FRENCH_SIGN = re.compile(r"[àâçèéêëîïôùûœ]")


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
            return None if _in_language(attack, strategy.name) else "not in the language asked for"
        return None if self.same_topic(seed.text, attack) else "off topic"

    def reject_text(self, text: str) -> str | None:
        """Why any text of the writer cannot stand in the pool; None if it can."""
        if not text:
            return "empty"
        if _TAG.search(text):
            return "holds a <think> or <answer> tag"
        return "the writer refused" if self.refuses(text) else None


def bare(text: str) -> str:
    """An answer without what models put around it unasked: a thought, words that introduce it, quotation marks."""
    text = without_thought(text)
    introduction = _INTRODUCTION.match(text)
    text = text[introduction.end() if introduction else 0 :].strip()
    close = _QUOTES.get(text[:1])
    inner = text[1:-1].strip()
    return inner if close and text.endswith(close) and not {text[0], close} & set(inner) else text


def fold(text: str) -> str:
    """What two texts have in common that differ in case, spaces or end marks alone."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .?!")


def _in_language(text: str, language: str) -> bool:
    """Whether at least half of the letters are of the language's script; for French, whether the words are its too."""
    letters = [char for char in text if char.isalpha()]
    own = sum(unicodedata.name(char, "").startswith(_SCRIPTS[language]) for char in letters)
    return bool(letters) and 2 * own >= len(letters) and (language != "french" or _looks_french(text))


def _looks_french(text: str) -> bool:
    """Whether a text holds more signs of French than of English and the like: one at least."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold().replace("’", "'"))
    for_it = sum(word in _FRENCH or _FRENCH_SIGN.search(word) is not None for word in words if word not in _NOT_FRENCH)
    return for_it > sum(word in _NOT_FRENCH for word in words)
