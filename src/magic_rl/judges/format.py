"""What is asked of a model that judges, and what its answers say.

A format is one family of judges: how it is asked and how strictly it is read. `judges.model` does the rest for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from magic_rl.endpoints.base import ChatRequest
from magic_rl.types import Exchange, Label, Safety


class FormatError(ValueError):
    """An answer that is not in the format the model was trained or told to answer in."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about: a prompt alone, or a reply to it.

    Attributes:
        reply: None asks about the prompt.
        policy: Name of the one policy it is about, for guards that hold a text against one at a time.
        request: The seed's text, for judges that hold the reply against what was wanted; "" for others, so that
            what they say is remembered whatever the seed was.
    """

    prompt: str
    reply: str | None
    policy: str = ""
    request: str = ""


@dataclass(frozen=True, slots=True)
class Labels:
    """What one answer says. None is what it does not speak of.

    Attributes:
        met: How far the reply gives what was asked for, 0-1.
        quality: How helpful the reply is, 0-1.
        categories: Hazards, in the guard's own words.
    """

    safety: Safety | None = None
    refused: bool | None = None
    prompt: Label | None = None
    met: float | None = None
    quality: float | None = None
    categories: tuple[str, ...] = ()


class Format(Protocol):
    """How one family of judges is asked and understood."""

    @property
    def version(self) -> str:
        """Name of the format; changes whenever its words or its reading do, as remembered labels are kept by it."""
        ...

    def questions(self, exchange: Exchange, *, prompts: bool) -> tuple[Question, ...]:
        """What to ask about an exchange; the prompt's label too, if `prompts`."""
        ...

    def request(self, question: Question) -> ChatRequest:
        """The question in the format's own words. All requests of a format share their sampling settings."""
        ...

    def read(self, question: Question, text: str) -> Labels:
        """Labels of an answer.

        Raises:
            FormatError: If it is not exactly in the format.
        """
        ...
