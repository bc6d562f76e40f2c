"""One attempt of a call: within the budget, never while the server wants to be left alone, never longer than allowed.

The client of the `openai` package tries again what may pass, with growing pauses, and raises the rest. It knows nothing
of other calls, and takes any body of status 200 for an answer; what it needs to be told is put in its place here, in
the transport below it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
import time
from email.utils import parsedate_to_datetime
from fnmatch import fnmatch
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
from openai import AsyncOpenAI
from pydantic import ValidationError

from magic_rl.chat.base import Endpoint
from magic_rl.chat.body import Answer, error_of, refused_feature
from magic_rl.errors import ChatError

_LONGEST_WISH = 120.0  # seconds of Retry-After that the client waits for; of a longer wish, calls fail unsent
# The client adds what the environment holds for another server: OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS.
_HEADERS = frozenset(
    {b"host", b"content-type", b"content-length", b"accept", b"accept-encoding", b"connection", b"user-agent"}
)


class SpentError(Exception):
    """There will be no further attempt: the budget is spent, or the server wants to be left alone for too long."""


class Line(httpx2.AsyncBaseTransport):
    """The way to a server. Budgets hold for its life.

    Attributes:
        calls: HTTP requests sent or tried so far.
        tokens: Tokens the server has counted so far.
        reached: Whether it has ever answered.
        taken: Features of a body that it has taken.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Make a way that is not yet open. Raises: ChatError: If the environment's proxy cannot be used."""
        self._endpoint, self._proxy = endpoint, proxy_of(endpoint.url)
        secure = endpoint.url.startswith("https:")  # the system's certificates take a while to load
        self._tls = httpx2.create_ssl_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.calls = self.tokens = 0
        self.reached = False
        self.taken: frozenset[str] = frozenset()
        self._quiet_until = 0.0

    def open(self) -> AsyncOpenAI:
        """A client for one batch: connections belong to the event loop that they are made in."""
        endpoint = self._endpoint
        limits = httpx2.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency)
        self._pool = httpx2.AsyncHTTPTransport(verify=self._tls, limits=limits, proxy=self._proxy)
        return AsyncOpenAI(
            base_url=endpoint.url,
            api_key=endpoint.key or "none",
            timeout=None,  # the library's limits are for parts of a call
            max_retries=endpoint.attempts - 1,
            http_client=httpx2.AsyncClient(transport=self, timeout=None),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = [(name, value) for name, value in request.headers.raw if name.lower() in _HEADERS]
        if self._endpoint.key:
            headers.append((b"Authorization", b"Bearer " + self._endpoint.key.encode()))
        request.headers = httpx2.Headers(headers)
        while (left := self._quiet_until - time.monotonic()) > 0:
            await self._be_quiet(left)
        self._spend()
        try:
            async with asyncio.timeout(self._endpoint.timeout):
                response = await self._send(request)
        except TimeoutError:
            raise httpx2.ReadTimeout(f"no answer within {self._endpoint.timeout:g} s") from None
        except UnicodeError as error:
            raise httpx2.ConnectError("an impossible host") from error
        self.reached = True
        if b'"error"' in response.content:
            response.status_code, _ = error_of(response.status_code, response.content)
        if response.is_success:
            self._count(response)
        elif response.status_code == 429 or response.status_code >= 500:
            await self._listen(request, response)
        return response

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        """The whole response, of which nothing was there before the request was sent."""
        waited = asyncio.Event()

        async def trace(event: str, _: object) -> None:
            if event.endswith("receive_response_headers.started"):
                asyncio.get_running_loop().call_soon(waited.set)  # reading from the network lets others run

        request.extensions["trace"] = trace
        response = await self._pool.handle_async_request(request)
        if not waited.is_set():  # the server sent more than it announced, and this is the rest of another answer
            await response.aclose()  # before its end: closes the connection too
            raise httpx2.RemoteProtocolError("an answer came before the question was sent")
        await response.aread()
        return response

    def _spend(self) -> None:
        endpoint = self._endpoint
        if endpoint.max_calls is not None and self.calls >= endpoint.max_calls:
            raise SpentError(f"all {endpoint.max_calls} calls are spent")
        if endpoint.max_total_tokens is not None and self.tokens >= endpoint.max_total_tokens:
            raise SpentError(f"all {endpoint.max_total_tokens} tokens are spent")
        self.calls += 1

    def _count(self, response: httpx2.Response) -> None:
        try:
            self.tokens += Answer.model_validate_json(response.content).tokens
        except ValidationError:
            raise httpx2.RemoteProtocolError("the body is no chat completion") from None
        if self._endpoint.max_total_tokens is not None and not self.tokens:
            raise ChatError(
                "does not say how many tokens an answer takes, so they cannot be limited",
                url=self._endpoint.url,
                status=200,
            )

    async def _listen(self, request: httpx2.Request, response: httpx2.Response) -> None:
        """Keep the pause that a server asks for, for all calls."""
        if refused_feature(response.status_code, response.text, json.loads(request.content), self.taken):
            response.headers["x-should-retry"] = "false"  # it is asked without that first
        pause = _wish(response.headers.get("retry-after", ""))
        self._quiet_until = max(self._quiet_until, time.monotonic() + pause)
        if pause > _LONGEST_WISH:
            await self._be_quiet(pause)

    async def _be_quiet(self, seconds: float) -> None:
        if seconds > _LONGEST_WISH:
            raise SpentError(f"the server wants to be left alone for {seconds:.0f} s")
        await asyncio.sleep(seconds)


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


def proxy_of(url: str) -> httpx2.Proxy | None:
    """The proxy that the environment puts before a server; None if there is none.

    The library would look at every proxy of the environment, and fail for one that is not for this server.

    Raises:
        ChatError: If it cannot be used. Its address may hold a password, and is not shown.
    """
    parts, proxies = urlsplit(url), getproxies()
    host = parts.hostname or ""
    kind = parts.scheme if proxies.get(parts.scheme) else "all"
    address = proxies.get(kind, "")
    left_out = proxies.get("no", "").lower().replace(",", " ").split()  # with what `proxy_bypass` misses
    if not address or proxy_bypass(parts.netloc) or any(fnmatch(host, n) or _within(host, n) for n in left_out):
        return None
    try:
        proxy = httpx2.Proxy(address if "://" in address else f"http://{address}")
        if not proxy.url.host or (proxy.url.port or 0) > 65535:
            raise ValueError
        httpx2.AsyncHTTPTransport(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), proxy=proxy)  # raises for some
    except (ValueError, ImportError, httpx2.InvalidURL):
        raise ChatError(
            f"{kind}_proxy of the environment cannot be used: it must be like http://proxy:8080 (one with socks5:// "
            f"needs the package socksio), or no_proxy must name {host}",
            url=url,
        ) from None
    return proxy


def _within(host: str, network: str) -> bool:
    """Whether a host is an address in a network such as 10.0.0.0/8 or [fd00::]/8."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(
            network.replace("[", "").replace("]", ""), strict=False
        )
    except ValueError:
        return False
