"""An HTTP/1.1 server that misbehaves as scripted, for tests of the endpoint client.

It answers a completion request with a digest of its text, so an answer that was made up or belongs to another request
shows. As a context manager it runs in a thread; `python -m tests.support.stub_server` runs it as a separate process.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

_LATE = 0.0005  # seconds, on average: the event loop rounds its waits up to whole milliseconds


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it had arrived completely (monotonic seconds), and how often the same text came before."""

    time: float
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    text: str
    earlier: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What the stub does with one request.

    Attributes:
        body: Sent in place of a completion that holds the digest.
        delay: Seconds from the complete request to the first byte.
        drop: Close the connection without an answer.
        cut: Close the connection after this many bytes of the body.
        length_off: Added to the true Content-Length.
        extra: Sent after the body, as if more had been requested.
        drip: Seconds between two bytes of the body.
        finish: `finish_reason` of the completion.
    """

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False
    cut: int | None = None
    length_off: int = 0
    extra: bytes = b""
    drip: float = 0.0
    finish: str = "stop"


def digest(text: str) -> str:
    """The content of an honest answer to this text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


class Stub:
    """The server. `asked` lists the requests; `most_connections` and `most_at_once` are peaks.

    Every completion counts as ten tokens.
    """

    def __init__(self, script: Callable[[Request], Reply] = lambda _: Reply()) -> None:
        self.asked: list[Request] = []
        self.most_connections = self.most_at_once = 0
        self._script = script
        self._seen: dict[str, int] = {}
        self._connections: set[asyncio.StreamWriter] = set()
        self._under_way = 0
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        """For `endpoint.url`."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        self.most_connections = max(self.most_connections, len(self._connections))
        try:
            while True:
                asked = await self._read(reader)
                self._under_way += 1
                self.most_at_once = max(self.most_at_once, self._under_way)
                try:
                    if not await self._answer(self._script(asked), asked, writer):
                        return
                finally:
                    self._under_way -= 1
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client hung up, or the test is over
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        content = await reader.readexactly(int(headers["content-length"]))
        there = time.monotonic()
        body = json.loads(content)
        text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        earlier = self._seen.get(text, 0)
        self._seen[text] = earlier + 1
        asked = Request(there, first.split()[1], headers, body, text, earlier)
        self.asked.append(asked)
        return asked

    async def _answer(self, reply: Reply, asked: Request, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays open."""
        if reply.delay:
            await asyncio.sleep(asked.time + reply.delay - time.monotonic() - _LATE)
        if reply.drop:
            return False
        body = completion(digest(asked.text), asked.path, reply.finish) if reply.body is None else reply.body
        headers = {"Content-Length": len(body) + reply.length_off, **reply.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        start = f"HTTP/1.1 {reply.status} Whatever\r\n{head}\r\n".encode("latin-1")
        sent = body if reply.cut is None else body[: reply.cut]
        if reply.drip:
            writer.write(start)
            for byte in sent:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(reply.drip)
        else:
            writer.write(start + sent + reply.extra)
            await writer.drain()
        return reply.cut is None


def completion(text: str | None, path: str = "/v1/chat/completions", finish: str = "stop") -> bytes:
    """The body of a completion."""
    said = {"message": {"role": "assistant", "content": text}} if path.endswith("/chat/completions") else {"text": text}
    return json.dumps({"choices": [{**said, "finish_reason": finish}], "usage": {"total_tokens": 10}}).encode()


def main() -> None:
    """Serve until standard input closes."""
    parser = argparse.ArgumentParser(description="Print the address of a stub server, and serve until stdin closes.")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer")
    latency = parser.parse_args().latency
    with Stub(lambda _: Reply(delay=latency)) as stub:
        print(stub.url, flush=True)
        input()


if __name__ == "__main__":
    main()
