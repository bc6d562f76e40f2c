"""One attempt at a call: within the budget and the time limit, and not while the server asks for a pause.

The client of the `openai` package retries temporary failures, with growing pauses, and raises the others. It knows
nothing of other calls and takes any body with status 200 for an answer. This module adds what it lacks, at the point
where it hands a request to the HTTP library.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
from openai import AsyncOpenAI
from pydantic import ValidationError

from magic_rl.chat.base import Endpoint
from magic_rl.chat.body import Answer, error_of, refused_feature
from magic_rl.errors import ChatError

_LONGEST_WISH = 120.0  # longest Retry-After in seconds to wait for; beyond that, calls fail unsent
# Others are dropped: the client adds some from the environment, such as OPENAI_ORG_ID and OPENAI_CUSTOM_HEADERS.
_HEADERS = frozenset(
    {b"host", b"content-type", b"content-length", b"accept", b"accept-encoding", b"connection", b"user-agent"}
)


class SpentError(Exception):
    """There will be no further attempt: the budget is spent, or the server asks for too long a pause."""


class Account:
    """What is known about a server, and what has been spent on it; budgets hold for the life of this object.

    Attributes:
        calls: HTTP requests sent or tried so far.
        tokens: Tokens that the server has counted so far.
        reached: Whether it has ever answered.
        taken: Features of a body that it has accepted.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Open an account with nothing spent."""
        self.endpoint = endpoint
        self.calls = self.tokens = 0
        self.reached = False
        self.taken: frozenset[str] = frozenset()
        secure = endpoint.url.startswith("https:")  # the system's certificates take a while to load
        self._tls = httpx2.create_ssl_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._quiet_until = 0.0
        self._next = 0.0  # when the next call may be made

    def client(self) -> AsyncOpenAI:
        """A client with one connection, for one batch: connections belong to the event loop that made them.

        Raises:
            ChatError: If the address, or that of a proxy in the environment, is not valid. A proxy's is not shown, as
                it may hold a password.
        """
        endpoint = self.endpoint
        limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1)
        try:
            line = _Line(self, verify=self._tls, limits=limits, timeout=None)
        except (ValueError, ImportError, httpx2.InvalidURL):
            reason = (
                "a proxy of the environment is no address like http://proxy:8080, or is a SOCKS proxy, which needs "
            )
            raise self.error(f"{reason}the package socksio; no_proxy may name servers that need none") from None
        try:
            return AsyncOpenAI(
                base_url=endpoint.url,
                api_key=endpoint.key or "none",
                timeout=None,  # the library's limits apply only to parts of a call
                max_retries=endpoint.attempts - 1,
                http_client=line,
            )
        except httpx2.InvalidURL as error:
            raise self.error(f"is no address ({error})") from error

    def error(self, reason: str, *, status: int | None = None, remedy: str = "") -> ChatError:
        """An error that ends the run."""
        return ChatError(reason, url=self.endpoint.url, status=status, place=self.endpoint.place, remedy=remedy)

    async def spend(self) -> None:
        """Wait for the call's turn and for the end of a pause that the server asked for, and count the call.

        Raises:
            SpentError: If the call may not be made.
        """
        if self.endpoint.per_minute:
            turn = max(self._next, time.monotonic())
            self._next = turn + 60 / self.endpoint.per_minute
            await asyncio.sleep(turn - time.monotonic())
        while (left := self._quiet_until - time.monotonic()) > 0:
            _check(left)
            await asyncio.sleep(left)
        calls, tokens = self.endpoint.max_calls, self.endpoint.max_total_tokens
        if calls is not None and self.calls >= calls:
            raise SpentError(f"all {calls} calls are spent")
        if tokens is not None and self.tokens >= tokens:
            raise SpentError(f"all {tokens} tokens are spent")
        self.calls += 1

    def count(self, response: httpx2.Response) -> None:
        """Count the tokens of a completion."""
        try:
            self.tokens += Answer.model_validate_json(response.content).tokens
        except ValidationError:
            raise httpx2.RemoteProtocolError("the body is no chat completion") from None
        if self.endpoint.max_total_tokens is not None and not self.tokens:
            reason = "does not say how many tokens an answer takes, so they cannot be limited"
            raise self.error(reason, status=200, remedy="server: limit calls")

    def listen(self, request: httpx2.Request, response: httpx2.Response) -> None:
        """Note the pause that a server asks for, which all calls keep."""
        if refused_feature(response.status_code, response.text, json.loads(request.content), self.taken):
            response.headers["x-should-retry"] = "false"  # it is asked without that feature first
        pause = _wish(response.headers.get("retry-after", ""))
        self._quiet_until = max(self._quiet_until, time.monotonic() + pause)
        _check(pause)


class _Line(httpx2.AsyncClient):
    """The HTTP library's client, charged to an account."""

    def __init__(self, account: Account, **settings: Any) -> None:
        super().__init__(**settings)
        self._account = account

    async def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        account, endpoint = self._account, self._account.endpoint
        headers = [(name, value) for name, value in request.headers.raw if name.lower() in _HEADERS]
        if endpoint.key:
            headers.append((b"Authorization", b"Bearer " + endpoint.key.encode()))
        request.headers = httpx2.Headers(headers)
        request.extensions["trace"] = _Waited()
        await account.spend()
        try:
            async with asyncio.timeout(endpoint.timeout):
                response = await super().send(request, **how)
        except TimeoutError:
            raise httpx2.ReadTimeout(f"no answer within {endpoint.timeout:g} s") from None
        except (UnicodeError, ExceptionGroup) as error:  # the latter for a port beyond 65535
            raise httpx2.ConnectError("an impossible address, or that of a proxy") from error
        account.reached = True
        if b'"error"' in response.content:
            response.status_code, _ = error_of(response.status_code, response.content)
        if response.is_success:
            account.count(response)
        elif response.status_code == 429 or response.status_code >= 500:
            account.listen(request, response)
        return response


class _Waited:
    """Rejects an answer that is there before it was waited for: it is the rest of an earlier answer.

    There is such a rest if the server sent more than it announced.
    """

    def __init__(self) -> None:
        self._waited = asyncio.Event()

    async def __call__(self, event: str, _: object) -> None:
        if event.endswith("receive_response_headers.started"):
            asyncio.get_running_loop().call_soon(self._waited.set)  # reading from the network lets it run
        elif event.endswith("receive_response_headers.complete") and not self._waited.is_set():
            raise httpx2.RemoteProtocolError("an answer came before the question was sent")  # closes the connection


def _check(pause: float) -> None:
    if pause > _LONGEST_WISH:
        raise SpentError(f"the server asks for a pause of {pause:.0f} s")


def _wish(header: str) -> float:
    """Seconds that a Retry-After header asks for, in either of its forms; 0 if it is not valid."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
