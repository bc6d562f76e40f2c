"""How the rules judge reads: text to words, stems and clause-sized parts, and whether a text is readable at all.

Everything here is a pure function of strings and knows nothing about seeds, labels or verdicts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher

from magic_rl.judges.rules.lexicon import FUNCTION_WORDS, GENERIC_WORDS

_SAME = str.maketrans({"‘": "'", "’": "'", "ʼ": "'", "´": "'", "`": "'", "“": '"', "”": '"', "«": '"', "»": '"'})
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_QUOTED = re.compile(r'"[^"]*"|(?<![\w])\'(?:[^\']|(?<=\w)\'(?=\w))+\'(?!\w)')
_ITEM = re.compile(r"(?:^|(?<=\s))(?:\(?\d{1,2}[.)]|[-*•])\s+(?=\w)", re.MULTILINE)
_BREAK = re.compile(
    r"(?<=[.!?])\s+|\n+|[;:]\s+|\s+[–—-]\s+|(?=•)|,\s*so\b"
    r"|(?:,\s*|\s+)(?:(?<!help )but|but(?= (?:i|you|we|here)\b)|however|although|though|yet)\b,?"
    r"|(?:^|(?<=[.!?]\s))(?:but|however|still),?\s"
)
_SHORT = {"m": " am", "d": " would", "ll": " will", "ve": " have", "re": " are"}


def normal(text: str) -> str:
    """Lower case, straight quotes, no markdown emphasis or invisible characters; line breaks are kept."""
    text = unicodedata.normalize("NFKC", text).translate(_SAME).casefold()
    text = "".join(char for char in text if char in "\n\t" or unicodedata.category(char)[0] != "C")
    text = re.sub(r"\*\*|__|^#+\s*", "", text, flags=re.MULTILINE)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def words(text: str) -> list[str]:
    """Words of a normalised text, without digits and punctuation."""
    return _WORD.findall(text)


def unquoted(text: str) -> str:
    """The text without its quotations; a text that is nothing but quotation is kept whole."""
    outside = _QUOTED.sub(" ", text)
    return outside if words(outside) else text


def parts(text: str) -> list[str]:
    """Clause-sized parts of a normalised text, split at sentence ends and at words such as "but".

    A list item starts with "•" and has no number. Contractions of verbs are written out: can't becomes cannot.
    """
    text = re.sub(r"\bcan(?:'t|t| not)\b", "cannot", text)
    text = re.sub(r"\bwo(?:n't|nt)\b", "will not", text)
    text = re.sub(r"(?<=[a-z])n't\b|(?<=\bdo)nt\b", " not", text)
    text = re.sub(r"(?<=[a-z])'(m|d|ll|ve|re)\b", lambda found: _SHORT[found[1]], text)
    pieces = _BREAK.split(_ITEM.sub("\n• ", text))
    return [piece for piece in (raw.strip(" \t\n,\"'") for raw in pieces) if words(piece)]


def lines(text: str) -> list[str]:
    """Lines of a normalised text that hold words; a list item starts with "•" and has no number."""
    return [line for raw in _ITEM.sub("\n• ", text).split("\n") if words(line := raw.strip())]


def stem(word: str) -> str:
    """A rough stem: enough to join hack, hacker, hacked and hacking. Not a dictionary form."""
    word = word.removesuffix("'s")
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    for suffix in ("ation", "ions", "ion", "ings", "ing", "ers", "er", "ed", "ly", "ment", "ate", "es", "s"):
        least = 3 if suffix in ("ing", "ings", "ed", "s", "es") else 4
        if word.endswith(suffix) and len(word) - len(suffix) >= least and not word.endswith("ss"):
            word = word[: -len(suffix)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word[-1] in "ey" else word


_EMPTY_STEMS = frozenset(stem(word) for word in GENERIC_WORDS)


def stems(text: str) -> frozenset[str]:
    """Stems of the content words of a normalised text."""
    content = {stem(word) for word in words(text) if word not in FUNCTION_WORDS and len(word) > 1}
    return frozenset(content - _EMPTY_STEMS)


def covered(wanted: Iterable[str], text: str) -> frozenset[str]:
    """Which of the stems occur in a normalised text, misspellings of longer words included."""
    found = stems(text)
    close = SequenceMatcher(autojunk=False)
    out = set()
    for one in wanted:
        close.set_seq2(one)
        for other in found:
            close.set_seq1(other)
            if other == one or (
                min(len(one), len(other)) >= 4 and close.quick_ratio() >= 0.8 and close.ratio() >= 0.75
            ):
                out.add(one)
                break
    return frozenset(out)


def readings(text: str, decoders: Sequence[Callable[[str], str]]) -> list[str]:
    """The text, and each decoder's output for it and for the part after its first colon, normalised.

    A decoder raises ValueError or OverflowError for a text that is not in its code.
    """
    out = [text]
    for source in (text, text.partition(": ")[2]):
        for decode in decoders:
            try:
                out.append(decode(source.strip()))
            except (ValueError, OverflowError):
                continue
    return [read for read in map(normal, out) if read] or [""]


def encoded(text: str) -> bool:
    """Whether more than half of a normalised text is long runs of varied characters, as encodings make them."""
    runs = re.findall(r"[a-z0-9+/=_-]{24,}", text)
    varied = [run for run in runs if len(set(run)) >= 10 and re.search(r"[0-9+/=]", run)]
    return 2 * sum(map(len, varied)) > len(text)


def gibberish(text: str) -> bool:
    """Whether a text says nothing: no words, a few words repeated, words of no language, or hardly any grammar."""
    found = words(text)
    if not found:
        return True
    if len(found) >= 4 and len(set(found)) <= 0.3 * len(found):
        return True
    if (len(found) >= 3 or max(map(len, found)) > 12) and sum(map(_implausible, found)) > len(found) / 2:
        return True
    grammar = sum(word in FUNCTION_WORDS for word in found)
    listed = len(re.findall(r"[,;\n]", text)) >= len(found) / 4
    return len(found) >= 12 and not listed and grammar < 0.1 * len(found)


def echoes(text: str, source: str) -> bool:
    """Whether a normalised text only repeats a source: at least 80 % of it are runs of three or more words from there.

    A repeated question with "yes" or "no" in front is an answer.
    """
    said, given = words(text), words(source)
    if min(len(said), len(given)) < 4:
        return bool(said) and said == given
    if said[0] in ("yes", "no"):
        return False
    triples = {tuple(given[i : i + 3]) for i in range(len(given) - 2)}
    repeated = {at for i in range(len(said) - 2) if tuple(said[i : i + 3]) in triples for at in range(i, i + 3)}
    return len(repeated) >= 0.8 * len(said)


def _implausible(word: str) -> bool:
    if word in FUNCTION_WORDS:
        return False
    return (
        len(word) > 25
        or re.search(r"(.)\1\1", word) is not None
        or re.search(r"[bcdfghjklmnpqrstvwxz]{6}", word) is not None
        or (len(word) > 1 and re.search(r"[aeiouyà-ÿ]", word) is None)
    )
