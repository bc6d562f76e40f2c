"""A real server: vLLM's CPU build, in a separate environment that `make test-all` sets up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

PYTHON = Path(os.environ.get("MAGIC_RL_SERVING") or Path(sys.prefix) / "serving") / "bin" / "python"
PATIENCE = 300  # seconds within which the server must have started
needs_server = [
    pytest.mark.server,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"no server's environment at {PYTHON}; `make test-all` sets it up"),
]


@contextmanager
def serving(model: Path, name: str, log: Path, *options: str) -> Iterator[str]:
    """Serve a model in float32. Yields the server's address, ending in /v1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(model), "--served-model-name", name, "--dtype", "float32"]
    command += ["--max-model-len", "512", "--max-num-seqs", "8", "--enforce-eager", *options]
    alone = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "TORCHDYNAMO_DISABLE": "1"}
    frugal = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | alone | frugal
    with log.open("w") as out, subprocess.Popen(
        command, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:  # fmt: skip
        try:
            _wait_until_it_serves(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_until_it_serves(health: str, process: subprocess.Popen[bytes], log: Path) -> None:
    patience = time.monotonic() + PATIENCE
    while time.monotonic() < patience and process.poll() is None:
        try:
            if httpx2.get(health, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start; its last words: {log.read_text()[-2000:]}")
