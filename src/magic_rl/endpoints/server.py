"""Any OpenAI-compatible server (vLLM, llama.cpp, Ollama, a hosted one), asked with patience and within limits.

A batch runs as a fixed number of workers over one queue. What may pass (a dropped line, 429, 5xx, a body that is no
completion) is tried again with growing, jittered pauses; a server that names a pause (`Retry-After`) is left alone by
all workers for that long. What will not pass (a wrong key or model name) stops the batch with one clear error; a text
that the server's filter refuses has no answer, and the others go on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2
import tenacity
from pydantic import BaseModel, ValidationError

from magic_rl.config import EndpointConfig
from magic_rl.endpoints.base import ChatRequest, Completion
from magic_rl.endpoints.body import PATHS, features, make_body, refused_feature
from magic_rl.endpoints.wire import Wire, proxy_of
from magic_rl.errors import UserError
from magic_rl.text.renderer import TextRenderer

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)
_MOVED = "points elsewhere; put the address that it names into endpoint.url"
_NO_PATH = "knows no such model or path; check endpoint.model, and that endpoint.url ends in /v1"
_HOPELESS = {
    **dict.fromkeys((301, 302, 303, 307, 308), _MOVED),
    401: "refuses the key; set endpoint.api_key_env to the environment variable that holds it",
    402: "wants to be paid first; see to the account of the key in endpoint.api_key_env",
    403: "refuses access; check the key in endpoint.api_key_env and what it may use",
    404: _NO_PATH,
    405: _NO_PATH,
}
_DENIALS = 4  # requests answered by 403 and none by a completion, from which it is about the key and not the text
_FLAGGED = re.compile(r"(?i)moderat|flagged|content[ _-]?(?:filter|policy|management)|guardrail|safety")
_REFUSED = (400, 422, 500, 501)  # of a feature, or of this very request
_PASSING = (408, 409, 425, 429)  # and all from 500
_BROKEN_OFF = ("content_filter", "abort", "error")  # finish reasons of servers that give what they have so far
_FIRST_PAUSE = 0.5  # seconds: the most before a second attempt; doubles with each
_LONGEST_PAUSE = 30.0  # seconds between two attempts, unless the server asks for more
_LONGEST_WISH = 600.0  # seconds of Retry-After that are waited for; of a longer wish, calls fail unsent


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    error: dict[str, Any] | str = ""


class _Usage(BaseModel):
    total_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def tokens(self) -> int:
        """Prompt and answer together; 0 if they are not counted."""
        return max(0, self.total_tokens or (self.prompt_tokens or 0) + (self.completion_tokens or 0))


class _Body(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


class _PassingError(Exception):
    """A failure that another attempt may not meet.

    Attributes:
        pause: Seconds the server asked for.
    """

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class _GivenUpError(Exception):
    """There will be no further attempt: the budget is spent, or the server wants to be left alone for too long."""


class Server:
    """An OpenAI-compatible server. Implements `endpoints.base.Chat`.

    Budgets hold for the life of this object, retries included.

    Attributes:
        calls: HTTP requests sent or tried so far.
        tokens: Tokens the server has counted so far.
    """

    def __init__(
        self,
        config: EndpointConfig,
        *,
        renderer: TextRenderer | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Make a client.

        Args:
            renderer: Renders every request, which is then sent as plain text; without one the server renders.
            transport: In place of the network.

        Raises:
            UserError: If no address or model is named, the address or the environment's proxy is none that can be
                called, or the key's environment variable holds no key.
        """
        if not config.url:
            raise UserError("endpoint.url: name the server, such as http://localhost:8000/v1")
        self._config, self._renderer, self._transport = config, renderer, transport
        try:
            self._urls = {path: httpx2.URL(config.url.rstrip("/") + path) for path in PATHS}
        except httpx2.InvalidURL as error:
            raise UserError(f"endpoint.url: is no address ({error}); write it like http://localhost:8000/v1") from error
        self._proxy = None if transport else proxy_of(config.url)
        self._key = _key(config.api_key_env) if config.api_key_env else ""
        self._tls = httpx2.create_ssl_context() if config.url.startswith("https:") else None  # takes a while to load
        self.calls = self.tokens = 0
        self._refused: frozenset[str] = frozenset()  # features that the server does not take
        self._taken: frozenset[str] = frozenset()  # and those that it has taken
        self._denied = self._most_denied = 0
        self._reached = self._answered = False
        self._quiet_until = 0.0

    @property
    def name(self) -> str:
        """The model's name at the server."""
        return self._config.model

    @property
    def identity(self) -> str:
        """Server and model, and the template that is rendered here."""
        server = f"{self._config.url} {self._config.model}"
        return f"{server} {self._renderer.identity}" if self._renderer else server

    def complete(
        self, requests: Sequence[ChatRequest], done: Callable[[int, Completion], None] | None = None
    ) -> list[Completion]:
        """Answer a batch; see `Chat.complete`.

        Raises:
            UserError: If the server refuses the key, the model or the path, or cannot be reached at all.
        """
        return _run(self._complete(requests, done))

    async def _complete(
        self, requests: Sequence[ChatRequest], done: Callable[[int, Completion], None] | None
    ) -> list[Completion]:
        config = self._config
        self._most_denied = min(_DENIALS, len(requests))
        out: list[Completion | None] = [None] * len(requests)
        queue: Iterator[tuple[int, ChatRequest]] = iter(enumerate(requests))
        limits = httpx2.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        transport = self._transport or Wire(config.concurrency, self._tls, self._proxy)

        # The library's own limits of time are for parts of a call; `_post` limits the whole.
        async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=None, transport=transport) as client:

            async def work() -> None:
                for index, request in queue:
                    out[index] = completion = await self._answer(client, request)
                    if done is not None:
                        done(index, completion)

            workers = [asyncio.create_task(work()) for _ in range(min(config.concurrency, len(requests)))]
            try:
                async with asyncio.timeout(config.total_timeout) as limit:
                    await asyncio.gather(*workers)
            except TimeoutError:
                if not limit.expired():
                    raise  # of the caller's `done`
                _LOG.warning("%s: the batch took longer than %s s", self.name, config.total_timeout)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        late = Completion(failed=f"the batch took longer than {config.total_timeout} s", cause="spent")
        return [late if completion is None else completion for completion in out]

    async def _answer(self, client: httpx2.AsyncClient, request: ChatRequest) -> Completion:
        """One request, with all its attempts."""
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_PassingError),
            stop=tenacity.stop_after_attempt(self._config.attempts),
            wait=_pause,
            reraise=True,
        )
        try:
            return await attempts(self._attempt, client, request)
        except _PassingError as error:
            if not self._reached:
                raise UserError(
                    f"endpoint.url: {self._config.url} cannot be reached ({error}); "
                    "is the server running, and is endpoint.timeout enough for it?"
                ) from error
            return Completion(failed=f"{error}, in {self._config.attempts} attempts")
        except _GivenUpError as error:
            return Completion(failed=str(error), cause="spent")

    async def _attempt(self, client: httpx2.AsyncClient, request: ChatRequest) -> Completion:
        refused = self._refused
        path, body = make_body(self.name, request, self._renderer, refused)
        response = await self._post(client, path, body)
        while response.status_code in _REFUSED and (name := refused_feature(response.text, body, self._taken)):
            refused |= {name}  # or is it the request? Then it is refused without it too
            path, body = make_body(self.name, request, self._renderer, refused)
            response = await self._post(client, path, body)
        if response.status_code == 200:
            self._taken |= {*features(body)}
            if new := refused - self._refused:
                names = ", ".join(sorted(new))
                _LOG.info("%s: the server does not take %s; asking without from now on", self.name, names)
                self._refused |= new
        return self._read(request, response)

    async def _post(self, client: httpx2.AsyncClient, path: str, body: Mapping[str, Any]) -> httpx2.Response:
        """One call."""
        content = json.dumps(body)  # ASCII: takes lone surrogates too
        await self._wait_for_the_server()
        self._spend()
        try:
            async with asyncio.timeout(self._config.timeout):
                response = await client.post(self._urls[path], content=content)
        except TimeoutError:
            raise _PassingError(f"no answer within {self._config.timeout:g} s") from None
        except (httpx2.HTTPError, UnicodeError) as error:  # the latter: an impossible host
            raise _PassingError(" ".join(f"{type(error).__name__} {error}".split())) from error
        self._reached = True
        if b'"error"' in response.content:
            response.status_code = _error(response)[0] or response.status_code
        return response

    def _read(self, request: ChatRequest, response: httpx2.Response) -> Completion:
        if response.status_code != 200:
            return self._read_failure(response)
        try:
            body = _Body.model_validate_json(response.content)
            choice = body.choices[0]
            text = choice.message.content if choice.message else choice.text
        except (ValidationError, IndexError) as error:
            raise _PassingError("the body is no chat completion") from error
        self._answered = True
        tokens = body.usage.tokens if body.usage else 0
        self.tokens += tokens
        if self._config.max_total_tokens and not self.tokens:
            raise UserError(
                f"endpoint.max_total_tokens: {self._config.url} does not say how many tokens an answer takes, so they "
                "cannot be limited; leave it out, and limit endpoint.max_calls in its place"
            )
        if choice.finish_reason == "length" and not (request.beginning and text):  # no text: it was still thinking
            reason = f"the answer was cut off at {request.max_tokens} tokens"
            return Completion(tokens=tokens, failed=reason, cause="cut_off")
        if choice.finish_reason in _BROKEN_OFF:
            why = ": ".join(filter(None, (choice.finish_reason, " ".join(_message(choice.error).split())[:120])))
            return Completion(tokens=tokens, failed=f"the answer was broken off ({why})")
        if text is None:
            return Completion(tokens=tokens, failed="the completion holds no text")
        return Completion(f"{self._renderer.opening}{text}" if self._renderer else text, tokens)

    def _read_failure(self, response: httpx2.Response) -> Completion:
        status, (_, error) = response.status_code, _error(response)
        said = error or response.text
        said = " ".join((said.replace(self._key, "***") if self._key else said).split())[:120]
        self._denied += status == 403 and not _FLAGGED.search(response.text)
        # Later on, or of a text that is flagged, it is about this request.
        if status in _HOPELESS and not self._answered and (status != 403 or self._denied >= self._most_denied):
            raise UserError(f"{self._config.url}: answers {status} to {self.name!r}: it {_HOPELESS[status]} ({said})")
        if status not in _PASSING and status < 500:
            return Completion(failed=f"HTTP {status}: {said}")
        pause = _wish(response.headers.get("Retry-After", ""))
        self._quiet_until = max(self._quiet_until, time.monotonic() + pause)
        if pause > _LONGEST_WISH:
            raise _GivenUpError(_too_long(pause))
        raise _PassingError(f"HTTP {status}: {said}" if error else f"HTTP {status}", pause)

    def _spend(self) -> None:
        config = self._config
        if config.max_calls and self.calls >= config.max_calls:
            raise _GivenUpError(f"endpoint.max_calls: all {config.max_calls} calls are spent")
        if config.max_total_tokens and self.tokens >= config.max_total_tokens:
            raise _GivenUpError(f"endpoint.max_total_tokens: all {config.max_total_tokens} tokens are spent")
        self.calls += 1

    async def _wait_for_the_server(self) -> None:
        while (left := self._quiet_until - time.monotonic()) > 0:
            if left > _LONGEST_WISH:
                raise _GivenUpError(_too_long(left))
            await asyncio.sleep(left)


def _error(response: httpx2.Response) -> tuple[int, str]:
    """The status that a body of status 200 should have had, and what a body says is wrong; 0 and "" if nothing is."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return 0, response.text
    if not isinstance(body, dict):
        return 0, response.text
    error = body.get("error") or (body if body.get("object") == "error" else None)
    code = error.get("code") if isinstance(error, dict) else None
    hidden = response.status_code == 200 and error and not body.get("choices")
    meant = code if isinstance(code, int) and 400 <= code < 600 else 500
    return meant if hidden else 0, _message(error or body)


def _message(error: object) -> str:
    """What an error says, in the fields that servers have for it."""
    if isinstance(error, dict):
        error = next((error[key] for key in ("message", "detail", "error") if error.get(key)), "")
    return error if isinstance(error, str) else json.dumps(error)


def _key(variable: str) -> str:
    """The key that an environment variable holds, once it is known to be fit for a header."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"endpoint.api_key_env: the environment variable {variable} is not set")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"endpoint.api_key_env: what {variable} holds is no key: it has characters that no key has")
    return key


def _too_long(pause: float) -> str:
    return f"the server wants to be left alone for {pause:.0f} s"


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: exponential with full jitter, and no less than the server asked for."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.pause if isinstance(error, _PassingError) else 0.0
    return asked + tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE)(state)


def _wish(header: str) -> float:
    """Seconds that a Retry-After header asks for, in either of its forms; 0 if it is none."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(loop.run_until_complete, task)
        try:
            return ended.result()
        finally:
            if not ended.done():  # Ctrl-C: do not wait for the whole batch
                loop.call_soon_threadsafe(task.cancel)
                wait((ended,))
            loop.close()
