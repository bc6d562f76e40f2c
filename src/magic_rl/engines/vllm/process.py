"""A vLLM server that we start ourselves: from the settings, again when it dies, and ended with this process.

It runs in a separate environment, because vLLM pins its own torch. A warden process in between ends it even if this
process is killed.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

import httpx2

from magic_rl.engines.settings import EngineConfig, VllmConfig
from magic_rl.engines.vllm import warden
from magic_rl.errors import EngineError

BASE = "base"  # name of the base model on servers that we start
_log = logging.getLogger(__name__)
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # values that vLLM allows for the largest rank


class OwnServer:
    """One server process. Ends with this object, and with this process."""

    def __init__(self, command: Sequence[str], settings: VllmConfig, device: str | None, log: Path) -> None:
        """Start it; see `wait`.

        Args:
            command: From `serve_command`.
            device: CUDA devices that it sees; None: those that this process sees.
            log: File for its output.
        """
        self._command = [sys.executable, str(Path(warden.__file__)), *command]
        self._settings, self._device, self.log = settings, device, log
        self.start()

    def start(self) -> None:
        """Start it on a free port."""
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        env |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1"}
        if self._device is not None:
            env["CUDA_VISIBLE_DEVICES"] = self._device
        command = [*self._command, "--port", str(port), *self._settings.arguments]  # later arguments win
        with self.log.open("a") as out:
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        _log.info("starting vLLM%s; its log: %s", f" on device {self._device}" if self._device else "", self.log)
        self._ended = weakref.finalize(self, _end, self._process)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait until it serves.

        Raises:
            EngineError: If it ends before that, or takes longer than `patience`.
        """
        until = time.monotonic() + self._settings.patience
        while time.monotonic() < until and self.alive:
            try:
                if httpx2.get(f"{self.url.removesuffix('/v1')}/health", trust_env=False).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.2)
        why = f"did not start within {self._settings.patience:g} s" if self.alive else "ended while it started"
        raise EngineError(f"vLLM {why}: {self._last_words()}; see {self.log}")

    def restart(self) -> None:
        """Start it again, and wait until it serves; raises as `wait` does."""
        self.stop()
        self.start()
        self.wait()

    def stop(self) -> None:
        """End it."""
        self._ended()

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        wrong = [line for line in lines if "Error" in line]
        return " ".join((wrong or lines or ["it said nothing"])[-1].split())[:200]


def require_program(settings: VllmConfig) -> None:
    """Raise EngineError if servers must be started and there is no such program."""
    program = settings.python or "vllm"
    if not settings.urls and shutil.which(program) is None:
        raise EngineError(f"{program}: no such program", "name vllm's python")


def serve_command(model: Path, dtype: str, rank: int, config: EngineConfig) -> list[str]:
    """The command that serves a model, without the port.

    Args:
        model: Folder of the base model.
        dtype: Of the base model.
        rank: The largest rank of an adapter.
        config: Names the environment of vLLM. A module is run there, as renamed builds have no `vllm serve`.
    """
    python = config.vllm.python
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model"] if python else ["vllm", "serve"]
    room = next((known for known in _RANKS if known >= rank), rank)
    command += [str(model), "--host", "127.0.0.1", "--served-model-name", BASE, "--dtype", dtype]
    command += ["--enable-lora", "--max-lora-rank", str(room), "--max-loras", "2", "--max-cpu-loras", "16"]
    command += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
    command += ["--trust-remote-code"] if config.trust_remote_code else []
    return command


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the warden's standard input, and wait until it has ended its child."""
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
