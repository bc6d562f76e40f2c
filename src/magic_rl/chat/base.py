"""Asking a model that only answers: the basis of guards, LLM judges and the writer of attacks.

The caller hands over a batch of requests and gets one completion for each, in order. If a request could not be
answered, its completion says why; none is left out or made up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from magic_rl.types import Message


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question."""

    messages: tuple[Message, ...]  # The conversation. A guard judges its last message, of either speaker.
    max_tokens: int = 128  # most tokens of the answer
    temperature: float = 0.0  # 0 is greedy
    schema: Mapping[str, Any] | None = None  # JSON schema of the answer, for servers that can enforce one
    # Jinja chat template of a model that has none of its own; rendered here, sent as plain text.
    template: str | None = None
    template_kwargs: Mapping[str, str] = field(default_factory=dict)  # extra variables of the model's own chat template
    beginning: bool = False  # whether only the beginning of the answer matters, so that it may be cut off
    # Text that the answer is made to begin with; the completion holds only what follows it.
    prefill: str = ""
    sample: int = 0  # Which of several answers to one question this asks for; for the memory and draws here. Not sent.


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer, or why there is none."""

    text: str = ""  # what the model said; "" if the request failed
    tokens: int = 0  # of prompt and answer together; 0 if the server does not count them
    failed: str | None = None  # Why there is no usable answer, in one line; None if there is one.
    # Kind of failure: the answer was cut off, a budget or the time is spent, the caller could not use the answer, or
    # anything else. "cut_off" beside a text: the text was cut off (`ChatRequest.beginning`).
    cause: Literal["cut_off", "spent", "unusable", "other"] = "other"
    remembered: bool = False  # whether it comes from the memory, without a call


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is served, and limits on its use.

    Attributes:
        url: Address of an OpenAI-compatible server, ending in /v1.
        model: The model's name there.
        key: Sent as bearer token; "" sends none.
        concurrency: Most calls under way at once.
        timeout: Seconds for one call.
        total_timeout: Seconds for one batch; None: no limit.
        attempts: Attempts at a call before it counts as failed.
        max_calls: Most calls, retries included; None: no limit.
        max_total_tokens: Most tokens of prompts and answers; None: no limit.
        per_minute: Most calls per minute, evenly spaced, retries included; None: no limit.
        place: Name for it in errors, such as the setting that it is from.
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
        """Name of the model in reports."""

    @property
    def identity(self) -> str:
        """What distinguishes its answers from those of any other model: the server and model, or the weights."""

    def complete(self, requests: Sequence[ChatRequest], done: Done | None = None) -> list[Completion]:
        """One completion per request, in order.

        Args:
            done: Called with the index and the completion as soon as each is there, so that none is lost if a later
                one is interrupted. An exception that it raises ends the batch.
        """
