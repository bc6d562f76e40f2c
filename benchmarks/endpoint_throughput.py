"""Calls a second that the endpoint client gets out of a server with 50 ms latency, and the share of the possible.

    python benchmarks/endpoint_throughput.py [--concurrency 1 8 16 32] [--seconds 4] [--latency 0.05]

`concurrency` calls under way at once can make `concurrency / latency` calls a second at most; what is missing is the
time the client (and the stub server, a process of its own) spend on a call.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from magic_rl.config import EndpointConfig
from magic_rl.endpoints.base import ChatRequest
from magic_rl.endpoints.server import Server
from magic_rl.types import Message


@contextmanager
def stub(latency: float) -> Iterator[str]:
    """Address of a stub server in a process of its own."""
    command = [sys.executable, "-m", "tests.support.stub_server", "--latency", str(latency)]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        assert process.stdin is not None
        process.stdin.write("\n")


def calls_a_second(url: str, concurrency: int, calls: int) -> float:
    """Throughput of one batch of judgements of ordinary length."""
    server = Server(EndpointConfig(url=url, model="stub", concurrency=concurrency))
    text = "A reply of about a thousand characters, as a judge reads it. " * 16
    requests = [ChatRequest((Message("user", f"{i}"), Message("assistant", text))) for i in range(calls)]
    began = time.perf_counter()
    completions = server.complete(requests)
    seconds = time.perf_counter() - began
    assert not any(completion.failed for completion in completions)
    return calls / seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 16, 32], help="calls under way at once")
    parser.add_argument("--seconds", type=float, default=4.0, help="about how long each batch takes")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before the server answers")
    args = parser.parse_args()
    print("concurrency  calls/s  share of the possible")
    with stub(args.latency) as url:
        calls_a_second(url, 1, 2)  # the first call of a process imports more of the HTTP library
        for concurrency in args.concurrency:
            possible = concurrency / args.latency
            rate = calls_a_second(url, concurrency, max(1, round(possible * args.seconds)))
            print(f"{concurrency:11}  {rate:7.1f}  {rate / possible:.1%}", flush=True)


if __name__ == "__main__":
    main()
