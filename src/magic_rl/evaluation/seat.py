"""A model that only answers, in the defender's seat: one behind a server, or a folder that was trained elsewhere.

The game passes ids and a chat passes text. So here the id of a conversation, or of a reply, is its number in a list,
and the chat renders what it is asked in its own template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from magic_rl.chat.base import Chat, ChatRequest, Completion
from magic_rl.text.think import Spoken, split_thoughts
from magic_rl.types import Finish, Message, Sample, SamplingParams, Tokens


class Seat:
    """A chat as a policy and its renderer. Implements `text.renderer.Speaks` and `text.renderer.Renders`.

    Attributes:
        failed: Why there was no reply, and how often. Such a reply is cut off before it began: it counts for nobody.
    """

    def __init__(self, chat: Chat) -> None:
        """Args: chat: Who replies."""
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
        """Have conversations answered `n` times each. A reply that the limit ends is taken as far as it goes."""
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
        """A reply, thoughts that the server left in it apart."""
        return split_thoughts(self._said[tokens[0]].text)

    def decode(self, tokens: Sequence[int]) -> str:
        """A reply as it came."""
        return self._said[tokens[0]].text
