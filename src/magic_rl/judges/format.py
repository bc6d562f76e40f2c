"""What is asked of a model that judges, and what its answers say.

A format is one family of judges: how it is asked and how strictly it is read. `judges.model` does the rest for all.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from dataclasses import dataclass
from typing import Protocol

from magic_rl.endpoints.base import ChatRequest
from magic_rl.endpoints.harmless import harmless
from magic_rl.text.think import THOUGHT
from magic_rl.types import Exchange, Label, Safety, Seed


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
        """See `versioned`."""
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


def versioned(name: str, form: Format, *reading: object) -> str:
    """Name of a format with a digest of what it asks and how it reads: remembered labels are kept by it.

    Args:
        form: What it asks of a sample exchange, the source of its `read` and that of its whole module are part of the
            digest. So any change there has labels asked for anew, which costs calls; a list of the functions that
            matter would some day lack one, which costs labels that are wrong.
        reading: What `read` relies on: patterns, tables.
    """
    asked = [form.request(question) for question in form.questions(_SAMPLE, prompts=True)]
    # The representation of a pattern is cut off.
    rules = [(each.pattern, each.flags) if isinstance(each, re.Pattern) else each for each in (*reading, THOUGHT)]
    whole = repr((asked, rules, inspect.getsource(type(form).read), _modules(form)))
    return f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _modules(form: Format) -> list[str]:
    """Source of what has a hand in a label: the format's modules, and what all text for a server goes through."""
    defining = (each.__module__ for each in type(form).__mro__)
    ours = dict.fromkeys(name for name in defining if name not in sys.stdlib_module_names)
    return [inspect.getsource(sys.modules[name]) for name in (*ours, harmless.__module__)]


_SAMPLE = Exchange(Seed("id", "request", "harmful"), "prompt", "reply")
