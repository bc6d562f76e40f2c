"""Starts and stops a server: it is reported ready once it has answered, and Ctrl-C ends it and all its processes.

Transformers' server runs in this process behind `gate`; vLLM runs in a separate process and environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import httpx2

from magic_rl.errors import UserError
from magic_rl.runs.interrupt import stops_handled
from magic_rl.runs.serve.player import Model, ServerName

_GRACE = 3  # seconds for running answers to end after the server is told to stop
_STUBBORN = 15  # seconds until a server that does not end is killed
_PATIENCE = 60.0  # seconds for the first short answer
_NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters: the limits that vLLM accepts


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and the key that its clients must send."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0 takes a free one
    key: str | None = field(default=None, repr=False)  # None: no key is needed

    def url(self, port: int) -> str:
        """The URL for clients, once the port is known."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}/v1"


def require(server: ServerName, vllm: str = "") -> None:
    """Check that a server is installed, before any model is loaded.

    Raises:
        UserError: If it is not.
    """
    if server == "vllm":
        _vllm_python(vllm)
    elif lacks := [package for package in ("fastapi", "uvicorn") if find_spec(package) is None]:
        raise UserError(f"transformers' server lacks {' and '.join(lacks)}", "serve: install")


def serve(model: Model, server: ServerName, address: Address, ready: Callable[[str], None], *, vllm: str = "") -> None:
    """Serve until Ctrl-C.

    Args:
        ready: Called with the URL once the model has answered there.
        vllm: The `vllm` command or the Python of vLLM's environment; "" looks for the former on the search path.

    Raises:
        UserError: If the server is not installed, cannot have the port, does not load the model or does not answer.
    """
    if address.key is None and address.host not in ("127.0.0.1", "localhost", "::1"):
        raise UserError(f"host {address.host}: anyone who can reach it could ask", "serve: set a key")
    with _bound(address) as listening:
        port = listening.getsockname()[1]
        if server == "vllm":
            listening.close()  # vLLM opens the port itself
            _serve_vllm(_vllm_command(model, address.host, port, vllm), model.name, address, port, ready)
        else:
            _serve_here(model, address, listening, ready)


@contextlib.contextmanager
def _bound(address: Address) -> Iterator[socket.socket]:
    """Take the port, before anything is loaded."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listening = socket.create_server((address.host, address.port), family=family, backlog=512)
    except OSError as error:
        raise UserError(f"{address.host}:{address.port}: {error.strerror or error}", "serve: another port") from error
    with listening:
        yield listening


def _serve_here(model: Model, address: Address, listening: socket.socket, ready: Callable[[str], None]) -> None:
    import uvicorn

    from magic_rl.runs.serve.gate import Gate
    from magic_rl.runs.serve.local import application

    app, finish = application(model)
    server = uvicorn.Server(
        uvicorn.Config(Gate(app, address.key), log_level="warning", timeout_graceful_shutdown=_GRACE)
    )
    failed: list[UserError] = []

    def look() -> None:
        url = address.url(listening.getsockname()[1])
        try:
            if _answers(url, model.name, address.key, lambda: not server.should_exit):
                ready(url)
        except UserError as error:
            failed.append(error)
            server.should_exit = True

    threading.Thread(target=look, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again once it has ended
        server.run(sockets=[listening])
    finish()
    if failed:
        raise failed[0]


def _vllm_python(vllm: str) -> str:
    """The Python of vLLM's environment. Raises: UserError: If there is no such command."""
    python = shutil.which(vllm or "vllm")
    if python is None:
        raise UserError(f"{vllm or 'vllm'}: no such command", "serve: name vllm")
    if not Path(python).name.startswith("python"):  # the script fails in builds of another name, such as for CPUs
        python = str(Path(python).resolve().with_name("python"))
    return python


def _vllm_command(model: Model, host: str, port: int, vllm: str) -> list[str]:
    """The command that starts vLLM. Raises: UserError: If there is no such command."""
    python = _vllm_python(vllm)
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model.folder.absolute())]
    command += ["--host", host, "--port", str(port), "--override-generation-config", json.dumps(_NEUTRAL)]
    if model.engine.trust_remote_code:
        command += ["--trust-remote-code"]
    command += ["--served-model-name", model.name if model.adapter is None else "base"]
    if model.adapter is None:
        return command
    told = str(model.adapter.absolute())
    rank = json.loads((model.adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    room = next((each for each in _RANKS if each >= rank), rank)
    command += ["--tokenizer", told, "--generation-config", told]
    command += ["--enable-lora", "--max-lora-rank", str(room), "--lora-modules", f"{model.name}={told}"]
    return command


def _serve_vllm(command: Sequence[str], name: str, address: Address, port: int, ready: Callable[[str], None]) -> None:
    """Run vLLM as a separate process, with its output on stderr."""
    # Not on its command line, which every user of the machine can read.
    key = {"VLLM_API_KEY": address.key} if address.key is not None else {}
    alone = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | alone | key
    with (
        open(os.dup(2), "wb") as errors,  # noqa: PTH123 - no path
        subprocess.Popen(command, env=env, stdout=errors, stderr=errors, start_new_session=True) as process,
        stops_handled(_interrupt),
    ):
        try:
            if _answers(address.url(port), name, address.key, lambda: process.poll() is None):
                ready(address.url(port))
                process.wait()
            raise UserError(f"vLLM: ended by itself with status {process.returncode}; its output says why")
        except KeyboardInterrupt:
            pass
        finally:
            _end(process)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with stops_handled(lambda *_: None):  # a second Ctrl-C would leave it behind
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STUBBORN)
                return


def _answers(url: str, name: str, key: str | None, alive: Callable[[], bool]) -> bool:
    """Wait until a server lists its models and answers a short request; False if it ends first.

    Raises:
        UserError: If it refuses the request, does not answer it, or does not list the model.
    """
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    with httpx2.Client(trust_env=False, headers=headers, timeout=_PATIENCE) as client:
        while alive():
            try:
                listed = client.get(f"{url}/models").json()
                break
            except (httpx2.TransportError, ValueError):
                time.sleep(0.2)
        else:
            return False
        body = {"model": name, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1}
        try:
            answer = client.post(f"{url}/chat/completions", json=body)
        except httpx2.TransportError as error:
            if not alive():
                return False
            raise UserError(f"{url}: gives no answer ({error!r})") from error
    if answer.status_code != 200 or name not in [each["id"] for each in listed["data"]]:
        raise UserError(f"{url}: answers {answer.status_code} to a first request: {answer.text[:200]}")
    return True
