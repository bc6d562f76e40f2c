"""Graceful stops of long commands: Ctrl-C lets the step finish and save, a second one stops at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stops_handled(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within the block, SIGINT (Ctrl-C) and SIGTERM call `handle` and do nothing else."""
    before = {sign: signal.signal(sign, handle) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


class Interrupt:
    """Whether the user has asked to stop.

    Attributes:
        asked: True from the first Ctrl-C or SIGTERM on; the caller checks it after each step.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        """Args: note: Tells the user what will happen."""
        self.asked = False
        self._note = note

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """Within the block, a first signal sets `asked`, and a second one raises KeyboardInterrupt."""

        def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            self._note("finishing this step, then saving; press Ctrl-C again to stop at once")

        with stops_handled(ask_to_stop):
            yield
