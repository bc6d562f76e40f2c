"""Single calls that wait at the same time, answered as one batch: Inspect asks one by one, a model answers many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import anyio
from anyio import to_thread

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")

_PAUSE = 0.02  # seconds in which others may join a batch


class Together(Generic[_Asked, _Answer]):
    """An async function of one thing, made of a blocking one of many. Batches run one after the other, in a thread."""

    def __init__(self, work: Callable[[Sequence[_Asked]], Sequence[_Answer]]) -> None:
        """Args: work: One answer for each thing that is asked, in order. What it raises is raised for all of them."""
        self._work = work
        self._waiting: list[tuple[_Asked, list[_Answer | Exception]]] = []
        self._lock = anyio.Lock()

    async def __call__(self, asked: _Asked) -> _Answer:
        """The answer to one."""
        found: list[_Answer | Exception] = []
        self._waiting.append((asked, found))
        async with self._lock:  # whoever comes in first works for all who wait
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
