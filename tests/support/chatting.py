"""Asking the stub server: the common beginning of tests of the client and of code that uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from magic_rl.chat.base import ChatRequest, Completion, Done, Endpoint
from magic_rl.chat.server import Server
from magic_rl.types import Message, Sample, SamplingParams, Tokens
from tests.support.stub_server import Stub, digest

SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}


def server_of(stub: Stub, **settings: Any) -> Server:
    """A client of the stub."""
    return Server(Endpoint(**{"url": stub.url, "model": "m", "concurrency": 4, **settings}))


def requests(count: int, **settings: Any) -> list[ChatRequest]:
    """That many different requests."""
    return [ChatRequest((Message("user", f"question {i}"),), **settings) for i in range(count)]


def answers(count: int) -> list[Completion]:
    """An honest stub's answers to `requests`."""
    return [Completion(digest(f"question {i}"), 10) for i in range(count)]


class Scripted:
    """A model that answers with a function of the request, the last one first, and keeps the requests.

    Args:
        stop_after: Number of answers after which it is interrupted.
    """

    name = "scripted"

    def __init__(
        self, answer: Callable[[ChatRequest], str | Completion], identity: str = "here", stop_after: int = 10**9
    ) -> None:
        self.answer, self.asked, self.identity, self.stop_after = answer, list[ChatRequest](), identity, stop_after

    def complete(self, requests: Sequence[ChatRequest], done: Done | None = None) -> list[Completion]:
        out = [Completion()] * len(requests)
        for index in reversed(range(len(requests))):
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(requests[index])
            said = self.answer(requests[index])
            out[index] = said if isinstance(said, Completion) else Completion(said, tokens=7)
            if done is not None:
                done(index, out[index])
        return out


class Recording:
    """A policy that samples nothing and keeps the prompts."""

    def __init__(self) -> None:
        self.prompts: list[Tokens] = []

    def sample(self, prompts: list[Tokens], n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        self.prompts += prompts
        return [[Sample(prompt, (), (), "stop")] * n for prompt in prompts]
