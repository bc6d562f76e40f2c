"""The `magic-rl` command as a process of a study: the same commands, but it does not outlive the study.

The study holds the other end of standard input and never writes. When the study is gone, killed or not, reading ends,
and this process asks itself to stop as Ctrl-C would: training finishes its step and saves.
"""

from __future__ import annotations

import os
import signal
import threading

from magic_rl.cli.main import app


def main() -> None:
    """Run the command of `sys.argv`, and stop when standard input ends."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    app()


def _stop_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
