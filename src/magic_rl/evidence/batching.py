"""Answers calls that wait at the same time as one batch: Inspect asks one by one, but a judge is faster in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import anyio
from anyio import to_thread

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")

_PAUSE = 0.02  # seconds in which others may join a batch


class Batcher(Generic[_Asked, _Answer]):
    """An async function of one item, made from a blocking function of many. Batches run in a thread, one at a time."""

    def __init__(self, work: Callable[[Sequence[_Asked]], Sequence[_Answer]]) -> None:
        """Args: work: Returns one answer per item, in order. If it raises, all callers in the batch get the error."""
        self._work = work
        self._waiting: list[tuple[_Asked, list[_Answer | Exception]]] = []
        self._lock = anyio.Lock()

    async def __call__(self, asked: _Asked) -> _Answer:
        """The answer for one item."""
        found: list[_Answer | Exception] = []
        self._waiting.append((asked, found))
        async with self._lock:  # the first caller works for all that wait
            if not found:
                await anyio.sleep(_PAUSE)
                batch, self._waiting = self._waiting, []
                answers: Sequence[_Answer | Exception]
                try:
                    answers = await to_thread.run_sync(self._work, [one for one, _ in batch])
                except Exception as error:  # noqa: BLE001 - each caller raises it
                    answers = [error] * len(batch)
                for (_, box), answer in zip(batch, answers, strict=True):
                    box.append(answer)
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]
