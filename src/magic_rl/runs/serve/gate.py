"""What stands before a server's own application: the key, a limit to what is read, and an eye on who has left.

Plain ASGI. A request whose client is gone is cancelled, so that nothing is computed for nobody.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import anyio

MAX_BYTES = 2**20  # of a request: longer than a context, shorter than what keeps a tokenizer busy for seconds
_DRAINED = 2**26  # read of a longer one and thrown away, so that its client hears the answer
_PATIENCE = 5.0  # seconds that a client without the key may take to send its request

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
App = Callable[[_Message, _Receive, _Send], Awaitable[None]]


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: App, key: str | None) -> None:
        """Args: key: What a client must bring as its bearer token; None lets all in."""
        self._app, self._key = app, key

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Answer what may not pass; let everything else through."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        # Read before anything is refused: a connection closed on unread bytes is reset, and its client sees no answer.
        allowed, body = self._key is None or _brings(scope["headers"], self._key), None
        with anyio.move_on_after(None if allowed else _PATIENCE):
            body = await _whole(receive, _DRAINED if allowed else MAX_BYTES)
        if not allowed:
            return await _refuse(send, 401, "no valid API key: send it as `Authorization: Bearer KEY`")
        if body is None:
            return await _refuse(send, 413, f"a request has {MAX_BYTES} bytes at most")
        return await self._watched(scope, body, receive, send)

    async def _watched(self, scope: _Message, body: bytes, receive: _Receive, send: _Send) -> None:
        """Let a request through, and cancel it once its client has left."""
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
