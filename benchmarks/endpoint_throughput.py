"""Calls per second that the client gets out of a server with 50 ms latency, and the share of what is possible.

    python benchmarks/endpoint_throughput.py [--concurrency 1 8 16 32] [--seconds 4] [--latency 0.05]

`concurrency` concurrent calls allow at most `concurrency / latency` calls per second; the difference is the time that
the client and the stub server (a separate process) spend on a call. The last column is the client's processor time per
call, which does not depend on other load on the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from magic_rl.chat.base import ChatRequest, Endpoint
from magic_rl.chat.server import Server
from magic_rl.types import Message


@contextmanager
def stub(latency: float) -> Iterator[str]:
    """Address of a stub server in a separate process."""
    command = [sys.executable, "-m", "tests.support.stub_server", "--latency", str(latency)]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        assert process.stdin is not None
        process.stdin.write("\n")


def measured(url: str, concurrency: int, calls: int) -> tuple[float, float]:
    """Calls per second in one batch of judge requests of typical length, and processor milliseconds per call."""
    server = Server(Endpoint(url, "stub", concurrency=concurrency))
    text = "A reply of about a thousand characters, as a judge reads it. " * 16
    requests = [ChatRequest((Message("user", f"{i}"), Message("assistant", text))) for i in range(calls)]
    began, worked = time.perf_counter(), time.process_time()
    completions = server.complete(requests)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    assert not any(completion.failed for completion in completions)
    return calls / seconds, 1000 * worked / calls


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 16, 32], help="calls under way at once")
    parser.add_argument("--seconds", type=float, default=4.0, help="about how long each batch takes")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before the server answers")
    args = parser.parse_args()
    print("concurrency  calls/s  of the possible  ms of processor")
    with stub(args.latency) as url:
        measured(url, 1, 2)  # a process's first call imports more of the HTTP library
        for concurrency in args.concurrency:
            possible = concurrency / args.latency
            rate, cpu = measured(url, concurrency, max(1, round(possible * args.seconds)))
            print(f"{concurrency:11}  {rate:7.1f}  {rate / possible:15.1%}  {cpu:15.2f}", flush=True)


if __name__ == "__main__":
    main()
