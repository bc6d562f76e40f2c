"""The four encodings of METHOD §2 as real codecs: what is encoded can be decoded again.

All keep case except Morse, which has none: it decodes to upper case with single spaces.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_SIGNS = string.ascii_uppercase + string.digits + ".,?'!/()&:;=+-_\"$@"
_CODES = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
    "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----. .-.-.- --..-- ..--.. .----. -.-.-- -..-. -.--. "
    "-.--.- .-... ---... -.-.-. -...- .-.-. -....- ..--.- .-..-. ...-..- .--.-."
)
_MORSE = dict(zip(_SIGNS, _CODES.split(), strict=True))
_FROM_MORSE = {code: sign for sign, code in _MORSE.items()}


@dataclass(frozen=True, slots=True)
class Codec:
    """A reversible encoding of text."""

    encode: Callable[[str], str]
    decode: Callable[[str], str]


def _letters(image: Callable[[str], str]) -> Callable[[str], str]:
    """A function that replaces each letter by the one at its place in the image of the alphabet."""
    lower, upper = string.ascii_lowercase, string.ascii_uppercase
    table = str.maketrans(lower + upper, image(lower) + image(upper))
    return lambda text: text.translate(table)


def _morse_encode(text: str) -> str:
    """Raises ValueError for a character without a Morse sign, so none is dropped silently."""
    words = text.upper().split()
    unknown = sorted({char for word in words for char in word if char not in _MORSE})
    if unknown:
        raise ValueError(f"Morse has no sign for {unknown[0]!r}")
    return " / ".join(" ".join(_MORSE[char] for char in word) for word in words)


def _morse_decode(text: str) -> str:
    """Raises ValueError for a group that is no Morse sign."""
    words = [re.split(r"\s+", word.strip()) for word in text.split(" / ")] if text.strip() else []
    try:
        return " ".join("".join(_FROM_MORSE[code] for code in word) for word in words)
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is no Morse sign") from error


_atbash = _letters(lambda abc: abc[::-1])

CODECS: Mapping[str, Codec] = {
    "ascii": Codec(
        lambda text: " ".join(str(ord(char)) for char in text),
        lambda text: "".join(chr(int(code)) for code in text.split()),
    ),
    "caesar": Codec(_letters(lambda abc: abc[3:] + abc[:3]), _letters(lambda abc: abc[-3:] + abc[:-3])),
    "morse": Codec(_morse_encode, _morse_decode),
    "atbash": Codec(_atbash, _atbash),
}
