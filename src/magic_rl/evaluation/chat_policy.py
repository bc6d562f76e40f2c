"""A model that only answers as defender: one behind a server, or a folder that was trained elsewhere.

The game passes token ids and a chat passes text. So here a conversation, or a reply, has a single id, its number in a
list, and the chat renders the conversation with its own template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from magic_rl.chat.base import Chat, ChatRequest, Completion
from magic_rl.text.think import Spoken, split_thoughts
from magic_rl.types import Finish, Message, Sample, SamplingParams, Tokens


class ChatPolicy:
    """A chat as a policy and its renderer. Implements `SamplingPolicy` and `PromptRenderer` of `text.renderer`.

    Attributes:
        failed: Reasons for missing replies, and how often. A missing reply is cut off and empty: it counts for
            neither side.
    """

    def __init__(self, chat: Chat) -> None:
        """Args: chat: The model that replies."""
        self.failed = Counter[str]()
        self._chat = chat
        self._asked: list[tuple[Message, ...]] = []
        self._said: list[Completion] = []

    def prompt(self, messages: Sequence[Message]) -> Tokens:
        """The number of a conversation."""
        self._asked.append(tuple(messages))
        return (len(self._asked) - 1,)

    def sample(
        self,
        prompts: Sequence[Tokens],
        n: int,
        params: SamplingParams,
        rng_seed: int,  # noqa: ARG002 - the chat draws by itself
    ) -> list[list[Sample]]:
        """`n` replies per conversation. A reply that the limit cuts off keeps the text it has."""
        requests = [
            ChatRequest(self._asked[number], params.max_tokens, params.temperature, beginning=True, sample=draw)
            for (number,) in prompts
            for draw in range(n)
        ]
        samples = []
        for place, answer in enumerate(self._chat.complete(requests)):
            self._said.append(answer)
            self.failed.update([answer.failed] if answer.failed else ())
            finish: Finish = "length" if answer.failed or answer.cause == "cut_off" else "stop"
            samples.append(Sample(prompts[place // n], (len(self._said) - 1,), (0.0,), finish))
        return [samples[place : place + n] for place in range(0, len(samples), n)]

    def spoken(self, tokens: Sequence[int]) -> Spoken:
        """A reply, separated from any thoughts that the server left in it."""
        return split_thoughts(self._said[tokens[0]].text)

    def decode(self, tokens: Sequence[int]) -> str:
        """A reply as received."""
        return self._said[tokens[0]].text
