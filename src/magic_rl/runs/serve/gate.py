"""A wrapper around a server's application that checks the key, limits the size of requests and notices lost clients.

It is plain ASGI. A request whose client has gone is cancelled, so that nothing is computed in vain.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import anyio

MAX_BYTES = 2**20  # of a request: more than a context holds, less than keeps a tokenizer busy for seconds
_DRAINED = 2**26  # bytes of a longer one that are read and dropped, so that its client gets the answer
_PATIENCE = 5.0  # seconds that a client without the key may take to send its request

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
App = Callable[[_Message, _Receive, _Send], Awaitable[None]]


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: App, key: str | None) -> None:
        """Args: key: The bearer token that clients must send; None admits all."""
        self._app, self._key = app, key

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Refuse requests without the key or over the limit; pass all others on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        # Read before refusing: closing a connection with unread bytes resets it, and its client would see no answer.
        allowed, body = self._key is None or _brings(scope["headers"], self._key), None
        with anyio.move_on_after(None if allowed else _PATIENCE):
            body = await _whole(receive, _DRAINED if allowed else MAX_BYTES)
        if not allowed:
            return await _refuse(send, 401, "no valid API key: send it as `Authorization: Bearer KEY`")
        if body is None:
            return await _refuse(send, 413, f"a request may have at most {MAX_BYTES} bytes")
        return await self._watched(scope, body, receive, send)

    async def _watched(self, scope: _Message, body: bytes, receive: _Receive, send: _Send) -> None:
        """Pass a request on, and cancel it if its client leaves."""
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        answered = False

        async def given() -> _Message:
            if messages:
                return messages.pop()
            await anyio.sleep_forever()
            raise AssertionError("unreachable")

        async def sending(message: _Message) -> None:
            nonlocal answered
            await send(message)
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)

        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                if not answered:
                    group.cancel_scope.cancel()

            group.start_soon(watch)
            await self._app(scope, given, sending)
            group.cancel_scope.cancel()


def _brings(headers: Iterable[tuple[bytes, bytes]], key: str) -> bool:
    given = b"".join(value for name, value in headers if name == b"authorization")
    return hmac.compare_digest(given, f"Bearer {key}".encode())


async def _whole(receive: _Receive, most: int) -> bytes | None:
    """The body, or None if it is too long. Args: most: Bytes after which reading ends."""
    body, size, more = b"", 0, True
    while more:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        body = body + part if size <= MAX_BYTES else b""
        more = message.get("more_body", False) and size <= most
    return body if size <= MAX_BYTES else None


async def _refuse(send: _Send, status: int, why: str) -> None:
    content = json.dumps({"error": {"message": why, "type": "invalid_request_error", "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
