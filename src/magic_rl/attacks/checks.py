"""The format in which a writer model must answer, and which answers may enter the attack pool."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from magic_rl.attacks.strategies import Strategy
from magic_rl.chat.memory import UnusableError
from magic_rl.text.language import language
from magic_rl.text.think import json_answer
from magic_rl.types import Seed

# Ends each question to the writer. A model that refuses says so in a field, in any language.
ANSWER = (
    'Answer with one JSON object and nothing else: {"refused": false, "text": "what you wrote"}, or '
    '{"refused": true, "text": ""} if you will not write it.'
)
_TAG = re.compile(r"<\s*/?\s*(?:think|answer)\s*>", re.IGNORECASE)
_SCRIPTS = {"malayalam": "MALAYALAM", "tamil": "TAMIL", "marathi": "DEVANAGARI", "simplified_chinese": "CJK"}


class _Said(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True, json_schema_extra={"additionalProperties": False})

    refused: bool
    text: str


SCHEMA = _Said.model_json_schema()


@dataclass(frozen=True, slots=True)
class Checks:
    """The checks that the writer's answers must pass; the caller supplies those that read the text."""

    # Whether a text is itself a refusal, for a writer that refuses in the field for its text.
    refuses: Callable[[str], bool]
    same_topic: Callable[[str, str], bool]  # whether a rewrite (second) shares content with its seed's text (first)

    def text(self, answer: str) -> str:
        """The text that the writer wrote.

        Raises:
            UnusableError: If it may not enter the pool; with a reason worded so that equal reasons can be counted.
        """
        try:
            said = _Said.model_validate(json_answer(answer))
        except ValueError as error:
            raise UnusableError("not the JSON asked for") from error
        if said.refused or self.refuses(said.text):
            raise UnusableError("the writer refused")
        if not said.text:
            raise UnusableError("empty")
        if _TAG.search(said.text):
            raise UnusableError("holds a <think> or <answer> tag")
        return said.text

    def rewrite(self, seed: Seed, strategy: Strategy, answer: str) -> str:
        """Like `text`, with the checks of a rewrite: not the seed itself, in the right language or on topic."""
        text = self.text(answer)
        if fold(text) == fold(seed.text):
            raise UnusableError("the same as the seed")
        if strategy.family == "translation":
            if not _in_language(text, strategy.name):
                raise UnusableError("not in the language asked for")
        elif not self.same_topic(seed.text, text):
            raise UnusableError("off topic")
        return text


def fold(text: str) -> str:
    """The text in a form that ignores case, spacing and final punctuation."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .?!")


def _in_language(text: str, name: str) -> bool:
    """Whether at least half of the letters are of the language's script; for French, by its words."""
    if name == "french":
        return language(text)[0] == "fr"
    letters = [char for char in text if char.isalpha()]
    own = sum(unicodedata.name(char, "").startswith(_SCRIPTS[name]) for char in letters)
    return bool(letters) and 2 * own >= len(letters)
