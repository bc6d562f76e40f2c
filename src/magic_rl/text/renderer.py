"""The protocols between words and ids: how a conversation becomes a prompt, who answers, and how that becomes text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self, runtime_checkable

from magic_rl.text.think import Spoken
from magic_rl.types import Message, Sample, SamplingParams, Tokens

Arrived = Callable[[int, list[Sample]], None]  # takes the place of a prompt, and its samples


class Renders(Protocol):
    """Renders conversations for one model. Content of a message can never become a control id."""

    def prompt(self, messages: Sequence[Message]) -> Tokens:
        """Ids of the conversation, ending where the assistant speaks."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of sampled ids without the end-of-turn id, from the `<think>` on that the prompt may have opened."""

    def spoken(self, tokens: Sequence[int]) -> Spoken:
        """The text of sampled ids, what the model thought in marks of its own told apart."""


class Renderer(Renders, Protocol):
    """Renders what a model is taught to say, too."""

    def completion(self, text: str, *, tagged: bool = False) -> Tokens:
        """Ids of an assistant message, its end-of-turn id included. For SFT targets only.

        Args:
            tagged: Whether `<think>` and `<answer>` around its parts are format, in the ids that a model samples; else
                all of it is plain text.
        """

    def begun(self, text: str) -> Tokens:
        """Ids that an assistant message begins with, behind the prompt, for a policy to go on from."""


class TextRenderer(Protocol):
    """Renders conversations as text, for a server that encodes it itself."""

    @property
    def opening(self) -> str:
        """What the prompt opens and leaves to the answer to close: `<think>` or nothing."""

    @property
    def identity(self) -> str:
        """What tells its words from those of any other template."""

    def given(self, variables: Mapping[str, str]) -> Self:
        """The same renderer with these variables of the chat template."""

    def text(self, messages: Sequence[Message]) -> str:
        """The conversation, ending where the assistant speaks. Text is never control."""


class Speaks(Protocol):
    """What is needed of a policy to make it say something."""

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        """See `engines.base.Policy.sample`."""


@runtime_checkable
class Streams(Protocol):
    """What a policy can do that is sampled elsewhere: others work while its last samples are still being written."""

    def stream(
        self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int, arrived: Arrived
    ) -> list[list[Sample]]:
        """The same samples as `sample` gives.

        Args:
            arrived: Told of each prompt's samples as soon as they are there, maybe on another thread; twice if an
                answer was lost.
        """
