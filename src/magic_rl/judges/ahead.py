"""Labels for the first episodes of a step while its last ones are still being sampled.

Only where that is exact: a model behind a server is asked about each exchange by itself, and what it says is kept in
the memory of answers. So it is asked early, and when the whole step is judged, in order and with its limits, it has
answered already. What fails early is asked again then.
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
    """Within the block, what is called with exchanges that have arrived; None if nobody can be asked early.

    Args:
        judge: A panel's members are asked each. At the end, questions under way are waited for, no others are asked.
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
                except Exception:  # noqa: BLE001 - it is met again, and told, when the whole step is judged
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
