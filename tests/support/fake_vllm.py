"""A server that answers as vLLM does, backed by the local engine: adapters by name, ids in and out.

Faults are scripted. It also runs as a program, in place of vLLM:
`python -m tests.support.fake_vllm --model MODEL --port N …`.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import torch

from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.policy import LocalPolicy
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.types import SamplingParams

Body = dict[str, Any]
# A status and body; "drop" closes the connection, "lose" does so after the work; "hang"; None for no fault.
Fault = tuple[int, Body] | str | None


class FakeVllm:
    """The server. `asked` lists paths and bodies of requests; `adapters` holds the loaded adapters, oldest first.

    Attributes:
        fault: Called with each request before anything is done; "hang" stays silent for five seconds, then hangs up.
        keep: Number of adapters held before the oldest is dropped.
        spoil: Changes a loaded policy's tensors, given by name.
    """

    def __init__(self, model: Path, rank: int = 4, port: int = 0) -> None:
        self.engine, self._lock = loaded(model, rank)
        self.model = model
        self.adapters: dict[str, LocalPolicy] = {}
        self.asked: list[tuple[str, Body]] = []
        self.fault: Callable[[str, Body], Fault] = lambda _path, _body: None
        self.keep = 100
        self.spoil: Callable[[str, torch.Tensor], None] = lambda _name, _tensor: None
        self._port = port
        self.start()

    def start(self) -> None:
        """Listen on the same port as before."""
        self._up = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening, hang up and forget all adapters, as a server that dies does."""
        self._up = False
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            self.adapters.clear()

    @property
    def url(self) -> str:
        """For `engine.vllm.urls`."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def count(self, path: str) -> int:
        """Number of requests to a path."""
        return sum(asked == path for asked, _ in self.asked)

    def answer(self, path: str, body: Body) -> tuple[int, Body | str]:
        """An honest server's status and body."""
        if path == "/health":
            return 200, {}
        if path == "/version":
            return 200, {"version": "0.0-fake"}
        if path == "/v1/models":
            return 200, {"data": [{"id": "base", "root": str(self.model), "parent": None}]}
        with self._lock:
            return {
                "load_lora_adapter": self._load,
                "unload_lora_adapter": self._unload,
                "completions": self._complete,
            }[path.removeprefix("/v1/")](body)

    def _load(self, body: Body) -> tuple[int, Body | str]:
        name = body["lora_name"]
        if name in self.adapters:
            return 400, error(f"The lora adapter '{name}' has already been loaded.")
        policy = self.engine.load(Path(body["lora_path"]), name)
        with torch.no_grad():
            for key, tensor in policy._parameters.items():
                self.spoil(key, tensor)
        self.adapters[name] = policy
        for oldest in list(self.adapters)[: -self.keep]:
            del self.adapters[oldest]
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _unload(self, body: Body) -> tuple[int, Body | str]:
        known = self.adapters.pop(body["lora_name"], None)
        return (200, "Success") if known else (404, error("cannot be found"))

    def _complete(self, body: Body) -> tuple[int, Body | str]:
        policy = self.engine.base() if body["model"] == "base" else self.adapters.get(body["model"])
        if policy is None:
            return 404, error(f"The model `{body['model']}` does not exist.")
        ignore = not body["stop_token_ids"]
        params = SamplingParams(body["max_tokens"], body["temperature"], body["top_p"], ignore_stop=ignore)
        prompt = tuple(body["prompt"])
        samples = [policy.sample([prompt], 1, params, body["seed"] + i)[0][0] for i in range(body["n"])]
        choices = [
            {
                "index": i,
                "token_ids": sample.tokens,
                "logprobs": {"token_logprobs": sample.logprobs},
                "finish_reason": sample.finish,
            }
            for i, sample in enumerate(samples)
        ]
        return 200, {"choices": choices}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self._respond({})

            def do_POST(self) -> None:
                self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _respond(self, body: Body) -> None:
                fake.asked.append((self.path, body))
                fault = fake.fault(self.path, body)
                if fault == "hang":
                    time.sleep(5.5)
                if fault in ("drop", "hang") or not fake._up:
                    self.close_connection = True
                    return
                status, said = fault if isinstance(fault, tuple) else fake.answer(self.path, body)
                if fault == "lose":
                    self.close_connection = True
                    return
                content = (said if isinstance(said, str) else json.dumps(said)).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    self.close_connection = True  # the client has hung up

        return Handler


@functools.cache
def loaded(model: Path, rank: int) -> tuple[LocalEngine, threading.Lock]:
    """An engine shared by all servers of a model, and the lock that lets one compute at a time."""
    config = EngineConfig(device="cpu", dtype="float32", threads=1)
    return LocalEngine(model, LoraConfig(rank=rank), config), threading.Lock()


def error(message: str) -> Body:
    """An error body as vLLM writes it."""
    return {"error": {"message": message, "type": "BadRequestError", "code": 400}}


def stand_in(folder: Path) -> Path:
    """A program that can be called like vLLM's Python and runs the fake server."""
    root = Path(__file__).parents[2]
    program = folder / "python"
    program.write_text(
        f"#!/bin/sh\nshift 2\nexport PYTHONPATH={root}:{root / 'src'}\n"
        f'exec {sys.executable} -m tests.support.fake_vllm "$@"\n'
    )
    program.chmod(0o755)
    return program


def main() -> None:
    """Serve a model until the process ends."""
    words = sys.argv[1:]
    given = dict(itertools.pairwise(words))
    FakeVllm(Path(given["--model"]), int(given["--max-lora-rank"]), int(given["--port"]))
    threading.Event().wait()


if __name__ == "__main__":
    main()
