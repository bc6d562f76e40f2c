"""The fields of a chat request. One that would change the reply but is not supported is refused, not ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from magic_rl.types import Message

_Text = Annotated[str, Field(min_length=1)]
_Nothing = Annotated[float, Field(ge=0, le=0)]


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str | list[_Part]

    @property
    def message(self) -> Message:
        parts = self.content
        return Message(self.role, parts if isinstance(parts, str) else "\n".join(part.text for part in parts))


class ChatCompletionRequest(BaseModel):
    """A request for a chat completion.

    Fields that do not change the reply's text, such as `user` and `metadata`, are accepted and ignored.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str | None = None
    messages: list[_Message] = Field(min_length=1)
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[_Text] | None = None
    stream: bool | None = None

    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    presence_penalty: _Nothing | None = None
    frequency_penalty: _Nothing | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    tools: list[Any] | None = Field(None, max_length=0)
    functions: list[Any] | None = Field(None, max_length=0)

    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    stream_options: Any = None

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The messages, each as one text."""
        return tuple(said.message for said in self.messages)

    @property
    def limit(self) -> int | None:
        """Most tokens of the reply, under either name; None if not given."""
        return self.max_completion_tokens or self.max_tokens

    def body(self, max_tokens: int) -> dict[str, Any]:
        """The request as transformers' server expects it."""
        messages = [{"role": message.role, "content": message.content} for message in self.conversation]
        given = self.model_dump(include={"temperature", "top_p", "stream"}, exclude_none=True)
        return {"messages": messages, "max_tokens": max_tokens, **given, **({"stop": self.stop} if self.stop else {})}
