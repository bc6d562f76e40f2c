"""Any OpenAI-compatible server (vLLM, llama.cpp, Ollama, a hosted one), called with retries and within limits.

A batch runs as a fixed number of workers over one queue. Temporary failures (a dropped connection, 429, 5xx, a body
that is no completion) are retried by the `openai` client. Permanent ones (a wrong key or model name) stop the batch
with one clear error. A text that the server's filter refuses has no answer, and the others continue.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence, Set

import httpx2
from anyio.from_thread import start_blocking_portal
from openai import APIConnectionError, APIStatusError, AsyncOpenAI

from magic_rl.chat.base import ChatRequest, Completion, Done, Endpoint
from magic_rl.chat.body import Answer, error_of, features, make_body, message_of, refused_feature
from magic_rl.chat.line import Account, SpentError
from magic_rl.text.renderer import TextRenderer
from magic_rl.text.think import with_opening

_LOG = logging.getLogger(__name__)
_HOPELESS = {
    **dict.fromkeys((301, 302, 303, 307, 308), ("points elsewhere", "follow it")),
    401: ("refuses the key", "set the key"),
    402: ("wants to be paid first", "pay"),
    403: ("refuses access", "check the key"),
    **dict.fromkeys((404, 405), ("knows no such model or path", "check the name")),
}
_DENIALS = 4  # with so many requests answered by 403 and none by a completion, the key is wrong, not a text
_FLAGGED = re.compile(r"(?i)moderat|flagged|content[ _-]?(?:filter|policy|management)|guardrail|safety")
_BROKEN_OFF = ("content_filter", "abort", "error")  # finish reasons of incomplete answers


class Server:
    """An OpenAI-compatible server. Implements `chat.base.Chat`. Budgets hold for its life, retries included."""

    def __init__(self, endpoint: Endpoint, *, renderer: TextRenderer | None = None) -> None:
        """Make a client.

        Args:
            renderer: Renders each request, which is then sent as plain text; without one the server renders.
        """
        self._endpoint, self._renderer, self._account = endpoint, renderer, Account(endpoint)
        self._refused: frozenset[str] = frozenset()  # features that the server says it does not accept
        self._doubts: Counter[str] = Counter()  # how often it refused one without naming it; it may have been busy
        self._resting: Counter[str] = Counter()  # how many requests go without such a feature before it is tried again
        self._denied = self._most_denied = 0
        self._answered = False

    @property
    def name(self) -> str:
        """The model's name on the server."""
        return self._endpoint.model

    @property
    def identity(self) -> str:
        """Server and model, and the template if it is rendered here."""
        server = f"{self._endpoint.url} {self._endpoint.model}"
        return f"{server} {self._renderer.identity}" if self._renderer else server

    @property
    def calls(self) -> int:
        """HTTP requests sent or tried so far."""
        return self._account.calls

    @property
    def tokens(self) -> int:
        """Tokens that the server has counted so far."""
        return self._account.tokens

    def complete(self, requests: Sequence[ChatRequest], done: Done | None = None) -> list[Completion]:
        """Answer a batch; see `Chat.complete`. Also works in a notebook, where an event loop is already running.

        Args:
            done: See `Chat.complete`; called in another thread, one call after the other.

        Raises:
            ChatError: If the server refuses the key, the model or the path, or cannot be reached at all, or the
                environment names a proxy that cannot be used.
        """
        if not requests:
            return []
        with start_blocking_portal() as portal:
            return portal.call(self._complete, requests, done)

    async def _complete(self, requests: Sequence[ChatRequest], done: Done | None) -> list[Completion]:
        most = self._endpoint.total_timeout
        self._most_denied = min(_DENIALS, len(requests))
        out = [Completion(failed=f"the batch took longer than {most or 0:g} s", cause="spent")] * len(requests)
        queue = iter(enumerate(requests))

        async def work() -> None:
            # A connection of its own: the work that a pool does per call grows with its connections.
            async with self._account.client() as client:
                for index, request in queue:
                    out[index] = await self._answer(client, request)
                    if done is not None:
                        done(index, out[index])

        workers = [asyncio.create_task(work()) for _ in range(min(self._endpoint.concurrency, len(requests)))]
        try:
            async with asyncio.timeout(most) as limit:
                await asyncio.gather(*workers)
        except TimeoutError:
            if not limit.expired():
                raise  # of the caller's `done`
            _LOG.warning("%s: the batch took longer than %g s", self.name, most)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return out

    async def _answer(self, client: AsyncOpenAI, request: ChatRequest) -> Completion:
        """One request, with all attempts."""
        refused = begun = self._left_out()
        named: set[str] = set()
        while True:
            path, body = make_body(self.name, request, self._renderer, refused)
            try:  # as ASCII, which can also encode lone surrogates
                response = await client.post(path, cast_to=httpx2.Response, content=json.dumps(body).encode("ascii"))
            except SpentError as error:
                return Completion(failed=str(error), cause="spent")
            except APIConnectionError as error:
                return self._unanswered(" ".join(str(error.__cause__).split()) or type(error.__cause__).__name__)
            except APIStatusError as error:
                found = refused_feature(error.status_code, error.response.text, body, self._account.taken)
                if found is None:
                    return self._failure(error.response)
                refused |= {found[0]}  # if the request itself is at fault, it is refused without it too
                named |= {found[0]} if found[1] else set()
                continue
            break
        self._account.taken |= {*features(body)}
        self._note(refused - begun, named)
        self._answered = True
        return self._read(request, Answer.model_validate_json(response.content))

    def _left_out(self) -> frozenset[str]:
        """The features that the next request goes without."""
        resting = {name for name, left in self._resting.items() if left}
        self._resting.subtract(resting)
        return self._refused | resting

    def _note(self, left_out: Set[str], named: Set[str]) -> None:
        """Note the features without which a request was answered that had been refused with them."""
        for name in sorted(left_out - self._refused):
            if name in named:
                self._refused |= {name}
            elif name in self._account.taken or self._resting[name]:  # another request has settled it meanwhile
                continue
            else:
                self._doubts[name] += 1
                self._resting[name] = 4 ** self._doubts[name]
            more = "" if name in named else f" for {self._resting[name]} requests"
            _LOG.info("%s: the server does not seem to take %s; asking without it%s", self.name, name, more)

    def _read(self, request: ChatRequest, answer: Answer) -> Completion:
        choice, text, tokens = answer.choices[0], answer.choices[0].said, answer.tokens
        if choice.finish_reason == "length" and not (request.beginning and text):  # no text: it was still thinking
            reason = f"the answer was cut off at {request.max_tokens} tokens"
            return Completion(tokens=tokens, failed=reason, cause="cut_off")
        if choice.finish_reason in _BROKEN_OFF:
            why = ": ".join(filter(None, (choice.finish_reason, " ".join(message_of(choice.error).split())[:120])))
            return Completion(tokens=tokens, failed=f"the answer was broken off ({why})")
        if text is None:
            return Completion(tokens=tokens, failed="the completion holds no text")
        # Marks are broken up in all text that is sent, so one that nothing opened is the model's own.
        said = f"{self._renderer.opening}{text}" if self._renderer else with_opening(text)
        return Completion(said, tokens, cause="cut_off" if choice.finish_reason == "length" else "other")

    def _unanswered(self, reason: str) -> Completion:
        if not self._account.reached:
            raise self._account.error(f"cannot be reached ({reason})", remedy="server: start it")
        return Completion(failed=f"{reason}, in {self._endpoint.attempts} attempts")

    def _failure(self, response: httpx2.Response) -> Completion:
        status, said = response.status_code, error_of(response.status_code, response.content)[1]
        key = self._endpoint.key
        said = " ".join((said.replace(key, "***") if key else said).split())[:120]
        self._denied += status == 403 and not _FLAGGED.search(response.text)
        # After a first answer, or if a text was flagged, the failure concerns only this request.
        if status in _HOPELESS and not self._answered and (status != 403 or self._denied >= self._most_denied):
            meaning, remedy = _HOPELESS[status]
            reason = f"answers {status} to {self.name!r}: it {meaning} ({said})"
            raise self._account.error(reason, status=status, remedy=f"server: {remedy}")
        reason = f"HTTP {status}: {said}" if said else f"HTTP {status}"
        return self._unanswered(reason) if status in (408, 409, 429) or status >= 500 else Completion(failed=reason)
