"""Asking a model that only answers: what guards, LLM judges and the writer of attacks are made of.

Whoever asks hands over a batch of requests and gets one completion each, in order. A request that could not be
answered comes back as a completion that says why; it is never left out and never made up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from magic_rl.types import Message


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question."""

    messages: tuple[Message, ...]  # The conversation. A guard judges its last message, whoever said it.
    max_tokens: int = 128  # longest answer
    temperature: float = 0.0  # 0 is greedy
    schema: Mapping[str, Any] | None = None  # JSON schema of the answer, for servers that can enforce one
    # Jinja chat template of a model that has none of its own; rendered here, sent as plain text.
    template: str | None = None
    template_kwargs: Mapping[str, str] = field(default_factory=dict)  # extra variables of the model's own chat template
    beginning: bool = False  # whether the answer's beginning is all that matters: one that is cut off is whole
    # What the answer is made to begin with; it goes on from there, and the completion holds only what follows.
    begun: str = ""
    sample: int = 0  # Which of several answers to the same question this is. Not sent; memories tell them apart by it.


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer, or why there is none."""

    text: str = ""  # what the model said; "" if it failed to
    tokens: int = 0  # prompt and answer together, as the server counts them; 0 if it does not
    failed: str | None = None  # Why there is no answer that can be used; None if there is one. One line.
    # What kind of failure: the answer was cut off, a budget or time is spent, whoever asked could not use it, or
    # anything else. With a text, that the answer was cut off (`ChatRequest.beginning`).
    cause: Literal["cut_off", "spent", "unusable", "other"] = "other"
    remembered: bool = False  # whether it was given before, so that nobody was asked


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is served, and how much may be asked of it.

    Attributes:
        url: Of an OpenAI-compatible server, ending in /v1.
        model: Its name there.
        key: Sent as bearer token; "" sends none.
        concurrency: Calls under way at once.
        timeout: Seconds for one call.
        total_timeout: Seconds for one batch; None: no limit.
        attempts: Tries of a call before it counts as failed.
        max_calls: Calls that may be made, retries included; None: no limit.
        max_total_tokens: Tokens that may be used; None: no limit.
        per_minute: Calls a minute, evenly spaced, retries included; None: as many as come.
        place: What errors call it, such as the setting that it is from.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    concurrency: int = 16
    timeout: float = 60.0
    total_timeout: float | None = None
    attempts: int = 5
    max_calls: int | None = None
    max_total_tokens: int | None = None
    per_minute: int | None = None
    place: str = ""


Done = Callable[[int, Completion], None]


class Chat(Protocol):
    """Answers requests in batches."""

    @property
    def name(self) -> str:
        """The model, as reports state it."""

    @property
    def identity(self) -> str:
        """What tells its answers from those of any other model: the server too, or the very weights."""

    def complete(self, requests: Sequence[ChatRequest], done: Done | None = None) -> list[Completion]:
        """One completion per request, in order.

        Args:
            done: Called with the index and the completion as soon as each is there, so that nothing is lost if a
                later one is interrupted. What it raises ends the batch.
        """
