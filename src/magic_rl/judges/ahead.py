"""Labels for the first episodes of a step while its last ones are still being sampled.

Only where that is exact: a model behind a server is asked about each exchange by itself, and what it says is kept in
the memory of answers. So it is asked early, and when the whole step is judged, in order and with its limits, it has
answered already. What fails early is asked again then.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from magic_rl.judges.base import Judge
from magic_rl.judges.model import ModelJudge
from magic_rl.judges.panel import Panel
from magic_rl.types import Exchange

_log = logging.getLogger(__name__)


class Ahead:
    """A thread in which judges label what has arrived. As a context manager it lasts as long as sampling does."""

    def __init__(self, judge: Judge) -> None:
        """Args: judge: A panel's members are asked each; one that cannot be asked early is left alone."""
        members = judge.members if isinstance(judge, Panel) else (judge,)
        self._judges = [member for member in members if isinstance(member, ModelJudge) and member.early]
        self._arrived: queue.SimpleQueue[Sequence[Exchange]] = queue.SimpleQueue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    @property
    def useful(self) -> bool:
        """Whether anybody can be asked early."""
        return bool(self._judges)

    def label(self, exchanges: Sequence[Exchange]) -> None:
        """Have exchanges labelled; returns at once."""
        self._arrived.put(exchanges)

    def __enter__(self) -> Self:
        if self.useful:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the questions under way be answered; the rest is for the judgement of the whole."""
        self._over.set()
        self._arrived.put(())
        if self.useful and kind is None:
            self._thread.join()

    def _work(self) -> None:
        while not self._over.is_set():
            batch = list(self._arrived.get())
            while not self._arrived.empty():
                batch += self._arrived.get()
            for judge in self._judges:
                if batch and not self._over.is_set():
                    try:
                        judge.judge(batch)
                    except Exception:  # noqa: BLE001 - it is met again, and told, when the whole step is judged
                        _log.debug("%s cannot be asked early", judge.name, exc_info=True)
                        return
