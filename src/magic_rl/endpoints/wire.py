"""How bytes reach a server: head and body of a request in one packet, sent when the answer is read.

The HTTP library writes them one after the other, which wakes the server (and, where cores are few, suspends the
client) twice a call: up to a tenth of the throughput at 50 ms a call. And what it takes for the answer may be the
rest of an earlier one, if the server sent more than it announced; here that shows, since nothing has been asked yet.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import ssl
from collections.abc import Iterable
from fnmatch import fnmatch
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2
import httpx2

from magic_rl.errors import UserError


def proxy_of(url: str) -> httpx2.Proxy | None:
    """The proxy that the environment puts before a server; None if there is none.

    Raises:
        UserError: If it cannot be used. Its address may hold a password, and is not shown.
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
        usable = bool(proxy.url.host) and (proxy.url.port or 0) <= 65535
    except (httpx2.InvalidURL, ValueError):  # ValueError: another scheme
        usable = False
    if not usable:
        raise UserError(
            f"{kind}_proxy of the environment: is no address like http://proxy:8080; fix it, or name {host} in no_proxy"
        )
    if proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise UserError(
            f"{kind}_proxy of the environment: a SOCKS proxy needs one more package; `pip install socksio`, or name "
            f"{host} in no_proxy"
        )
    return proxy


def _within(host: str, network: str) -> bool:
    """Whether a host is an address in a network such as 10.0.0.0/8 or [fd00::]/8."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(
            network.replace("[", "").replace("]", ""), strict=False
        )
    except ValueError:
        return False


class Wire(httpx2.AsyncHTTPTransport):
    """The library's own transport on a pool of connections that hold writes back."""

    def __init__(self, connections: int, tls: ssl.SSLContext | None, proxy: httpx2.Proxy | None) -> None:
        """Make a transport to a server.

        Args:
            connections: How many may be open at once.
            tls: For https.
            proxy: What stands between, if anything.
        """
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        super().__init__(verify=tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), limits=limits, proxy=proxy)
        self._pool._network_backend = _Backend()  # which only a pool can be given, and the transport makes it

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        stream = response.extensions.get("network_stream")
        if isinstance(stream, _Stream) and stream.unsent:
            await response.aclose()  # before its end: closes the connection too
            raise httpx2.RemoteProtocolError("an answer came before the question was sent")
        return response


class _Backend(httpcore2.AnyIOBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _Stream(await super().connect_tcp(host, port, timeout, local_address, socket_options))


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection whose writes go out together, as soon as it is read from."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        self.unsent = bytearray()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - nothing is sent yet
        self.unsent += buffer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.unsent:
            whole = bytes(self.unsent)
            self.unsent.clear()
            with contextlib.suppress(httpcore2.WriteError):  # the server may have answered and hung up before the end
                await self._stream.write(whole, timeout)
        return await self._stream.read(max_bytes, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)
