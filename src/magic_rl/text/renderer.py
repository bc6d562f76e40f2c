"""The protocols between text and ids: rendering conversations, sampling replies, and decoding them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self, runtime_checkable

from magic_rl.text.think import Spoken
from magic_rl.types import Message, Sample, SamplingParams, Tokens

Arrived = Callable[[int, list[Sample]], None]  # called with the index of a prompt, and its samples


class PromptRenderer(Protocol):
    """Renders conversations for one model. The content of a message can never become a control id."""

    def prompt(self, messages: Sequence[Message]) -> Tokens:
        """Ids of the conversation, ending where the assistant speaks."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of sampled ids without the end-of-turn id; it begins with a `<think>` that the prompt has opened."""

    def spoken(self, tokens: Sequence[int]) -> Spoken:
        """The text of sampled ids, with thoughts in the model's own marks separated from the reply."""


class Renderer(PromptRenderer, Protocol):
    """Also renders what a model is taught to say."""

    def completion(self, text: str, *, tagged: bool = False) -> Tokens:
        """Ids of an assistant message, its end-of-turn id included. For SFT targets only.

        Args:
            tagged: Whether `<think>` and `<answer>` tags are format, encoded in the ids that a model samples; if not,
                all of it is plain text.
        """

    def prefill(self, text: str) -> Tokens:
        """Ids of the beginning of an assistant message, to put after the prompt so that a policy continues it."""


class TextRenderer(Protocol):
    """Renders conversations as text, for a server that encodes them itself."""

    @property
    def opening(self) -> str:
        """What the prompt opens and the reply must close: `<think>` or nothing."""

    @property
    def identity(self) -> str:
        """What distinguishes its output from that of any other template."""

    def given(self, variables: Mapping[str, str]) -> Self:
        """The same renderer with these variables of the chat template."""

    def text(self, messages: Sequence[Message]) -> str:
        """The conversation, ending where the assistant speaks. Text is never control."""


class SamplingPolicy(Protocol):
    """The part of a policy that is needed to sample from it."""

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        """See `engines.base.Policy.sample`."""


@runtime_checkable
class StreamingPolicy(Protocol):
    """A policy that is sampled elsewhere and hands over samples while the last ones are still being written."""

    def stream(
        self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int, arrived: Arrived
    ) -> list[list[Sample]]:
        """The same samples as `sample` gives.

        Args:
            arrived: Called with each prompt's samples as soon as they arrive, maybe on another thread; twice if an
                answer was lost.
        """
