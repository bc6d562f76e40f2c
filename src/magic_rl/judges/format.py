"""How a model is asked to judge, and how its answers are read.

A format covers one family of judges: a prompt and a parser. `judges.model` does the rest for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from magic_rl.chat.base import ChatRequest
from magic_rl.chat.memory import UnusableError
from magic_rl.text.think import json_answer
from magic_rl.types import Exchange, Label, Safety


class FormatError(UnusableError):
    """An answer outside the format that the model was trained or told to use."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"off format: {reason}")


class JsonAnswer(BaseModel):
    """The JSON object that a model must answer with: exactly these fields."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @classmethod
    def read(cls, text: str) -> Self:
        """An answer's fields; a thought before it and a code fence around it are allowed. Raises: FormatError."""
        try:
            return cls.model_validate(json_answer(text))
        except ValidationError as error:
            first = error.errors()[0]
            where = str(first["loc"][0]) if first["loc"] and first["type"] != "extra_forbidden" else "the answer"
            raise FormatError(f"{where}: {first['msg'][:80]}") from error
        except ValueError as error:
            raise FormatError("no JSON object") from error


@dataclass(frozen=True, slots=True)
class Question:
    """The texts that a question is about: a prompt alone, or a prompt and a reply to it."""

    prompt: str
    reply: str | None  # None asks about the prompt
    policy: str = ""  # name of the policy asked about, for guards that check one policy per question
    request: str = ""  # the seed's text, for judges that compare the reply with the original request; "" for others


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one answer; None where it gives none."""

    safety: Safety | None = None
    refused: bool | None = None
    request_label: Label | None = None
    met: float | None = None  # how far the reply meets the request, 0-1
    quality: float | None = None  # how helpful the reply is, 0-1
    categories: tuple[str, ...] = ()  # hazards, in the guard's own words


class Format(Protocol):
    """How one family of judges is asked, and its answers read."""

    @property
    def name(self) -> str:
        """The family, for reports."""

    def questions(self, exchange: Exchange, *, label_request: bool) -> tuple[Question, ...]:
        """Questions about an exchange; `label_request` asks for the request's label too."""

    def request(self, question: Question) -> ChatRequest:
        """The question in the format's own words. All requests of a format share their sampling settings."""

    def read(self, question: Question, text: str) -> Labels:
        """Labels of an answer.

        Raises:
            FormatError: If it is not exactly in the format.
        """
