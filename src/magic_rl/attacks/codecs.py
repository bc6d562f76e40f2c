"""The four encodings of METHOD §2 as real codecs: what is encoded can be decoded again.

Case is kept by all but Morse, which has no case: its normal form is upper case with single spaces.
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
_SHIFT = 3


@dataclass(frozen=True, slots=True)
class Codec:
    """A reversible encoding of text. `decode(encode(text))` is `normal(text)`."""

    name: str
    encode: Callable[[str], str]
    decode: Callable[[str], str]
    normal: Callable[[str], str] = str


def _ascii_encode(text: str) -> str:
    return " ".join(str(ord(char)) for char in text)


def _ascii_decode(text: str) -> str:
    return "".join(chr(int(code)) for code in text.split())


def _shifted(by: int) -> Callable[[str], str]:
    table = {
        ord(char): alphabet[(i + by) % 26]
        for alphabet in (string.ascii_lowercase, string.ascii_uppercase)
        for i, char in enumerate(alphabet)
    }
    return lambda text: text.translate(table)


def _atbash(text: str) -> str:
    pairs = (string.ascii_lowercase, string.ascii_uppercase)
    return text.translate({ord(char): alphabet[25 - i] for alphabet in pairs for i, char in enumerate(alphabet)})


def _morse_encode(text: str) -> str:
    """Raises ValueError for a character that Morse has no sign for: it is never dropped silently."""
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


CODECS: Mapping[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec("ascii", _ascii_encode, _ascii_decode),
        Codec("caesar", _shifted(_SHIFT), _shifted(-_SHIFT)),
        Codec("morse", _morse_encode, _morse_decode, lambda text: " ".join(text.upper().split())),
        Codec("atbash", _atbash, _atbash),
    )
}
