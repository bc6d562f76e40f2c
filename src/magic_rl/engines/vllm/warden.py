"""Runs a command, and ends all that it started once standard input closes: whoever held the other end is gone.

A run that is killed cannot clean up, and a server that outlived it would hold a graphics card. This file is run as a
script in a session of its own, which no Ctrl-C reaches, and imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

_GRACE = 10.0  # seconds to end politely


def _send(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _end_with_parent(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):  # not by `sys.stdin`, whose lock an interpreter that ends would wait for
        pass
    _send(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE)
    _send(child.pid, signal.SIGKILL)


def main() -> int:
    """Run the command that the arguments name, and return its exit status."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_parent, args=(child,), daemon=True).start()
    status = child.wait()
    _send(child.pid, signal.SIGKILL)  # what a server that died left behind
    return status


if __name__ == "__main__":
    sys.exit(main())
