"""Runs a command, and ends its whole process group once standard input closes, as the parent process is then gone.

A run that is killed cannot clean up, and a server that outlived it would keep a GPU busy. This file is run as a script
in a session of its own, which Ctrl-C does not reach, and it imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

_GRACE = 10.0  # seconds between SIGTERM and SIGKILL


def _send(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _end_with_parent(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):  # not `sys.stdin`: an exiting interpreter would wait for its lock
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
    _send(child.pid, signal.SIGKILL)  # processes that a dead server left behind
    return status


if __name__ == "__main__":
    sys.exit(main())
