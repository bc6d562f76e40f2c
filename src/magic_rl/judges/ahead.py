"""Asks a judge about the first episodes of a step while the last ones are still being sampled.

This is done only where it changes no label: a model behind a server is asked about each exchange separately, and its
answers are kept in the memory of answers. When the whole step is judged, in order and with its limits, most answers are
there already. Questions that failed early are asked again then.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from magic_rl.judges.base import Judge
from magic_rl.judges.model import ModelJudge
from magic_rl.judges.panel import Panel
from magic_rl.types import Exchange

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def asked_early(judge: Judge) -> Iterator[Callable[[Sequence[Exchange]], None] | None]:
    """A function to call with exchanges as they arrive; None if no judge can be asked early.

    Leaving the block waits for questions under way and drops the rest.

    Args:
        judge: The judge; of a panel, each member that can be asked early.
    """
    members = judge.members if isinstance(judge, Panel) else (judge,)
    judges = [member for member in members if isinstance(member, ModelJudge) and member.early]
    if not judges:
        yield None
        return
    arrived: queue.SimpleQueue[Sequence[Exchange]] = queue.SimpleQueue()
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            batch = list(arrived.get())
            while not arrived.empty():
                batch += arrived.get()
            for each in judges if batch else ():
                try:
                    _ = over.is_set() or each.judge(batch)
                except Exception:  # noqa: BLE001 - judging the whole step meets it again and reports it
                    _log.debug("%s cannot be asked early", each.name, exc_info=True)
                    return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield arrived.put
    finally:
        over.set()
        arrived.put(())
    thread.join()
