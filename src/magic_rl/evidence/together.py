"""Single calls that wait at the same time, answered as one batch: Inspect asks one by one, a model answers many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio
from anyio import to_thread

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")

_PAUSE = 0.02  # seconds in which others may join a batch


@dataclass(slots=True)
class _Call(Generic[_Asked, _Answer]):
    asked: _Asked
    answer: _Answer | None = None
    done: bool = False
    error: BaseException | None = None


class Together(Generic[_Asked, _Answer]):
    """An async function of one thing, made of a blocking one of many. Batches run one after the other, in a thread."""

    def __init__(self, work: Callable[[Sequence[_Asked]], Sequence[_Answer]]) -> None:
        """Args: work: One answer for each thing that is asked, in order."""
        self._work = work
        self._waiting: list[_Call[_Asked, _Answer]] = []
        self._lock = anyio.Lock()

    async def __call__(self, asked: _Asked) -> _Answer:
        """The answer to one. What `work` raises is raised for all of its batch."""
        call = _Call[_Asked, _Answer](asked)
        self._waiting.append(call)
        async with self._lock:  # whoever comes in first works for all who wait
            if not call.done:
                await anyio.sleep(_PAUSE)
                await self._answer()
        if call.error is not None:
            raise call.error
        return call.answer  # type: ignore[return-value] # set, as it is done without an error

    async def _answer(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            answers = await to_thread.run_sync(self._work, [call.asked for call in batch])
            for call, answer in zip(batch, answers, strict=True):
                call.answer = answer
        except BaseException as error:
            for call in batch:
                call.error = error
            raise
        finally:
            for call in batch:
                call.done = True
