"""`magic-rl serve` in a separate process, for tests and measurements."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Served:
    """A server that has reported that it is ready.

    Attributes:
        log: The file that it writes standard error to.
    """

    process: subprocess.Popen[str]
    name: str
    url: str
    log: Path

    @property
    def memory(self) -> float:
        """Its resident memory in mebibytes."""
        (line,) = [
            line for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if "VmRSS" in line
        ]
        return int(line.split()[1]) / 1024

    def stop(self, sign: signal.Signals = signal.SIGINT) -> int:
        """Ask it to end, by default as Ctrl-C does, wait, and return the exit status."""
        self.process.send_signal(sign)
        return self.process.wait(60)


@contextmanager
def served(*words: str, env: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Serve on a free port until the block ends.

    Args:
        words: Arguments of the command.
        env: Environment variables in addition to those of this process.
    """
    command = [sys.executable, "-m", "magic_rl", "serve", *words, "--port", "0"]
    with (
        tempfile.NamedTemporaryFile("w+", suffix=".log") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            preexec_fn=_takes_signals,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            name, _, url = process.stdout.readline().strip().partition(": ")
            assert url, Path(log.name).read_text()[-2000:]
            yield Served(process, name, url, Path(log.name))
        finally:
            process.kill()


def _takes_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit SIGINT as ignored
