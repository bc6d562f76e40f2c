"""Claims about single calls answered as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from magic_rl.evidence.batching import Batcher


def test_calls_that_wait_together_are_one_batch_each_with_its_answer() -> None:
    batches: list[int] = []

    def double(numbers: Sequence[int]) -> list[int]:
        batches.append(len(numbers))
        return [2 * number for number in numbers]

    async def ask() -> dict[int, int]:
        call, found = Batcher(double), {}

        async def one(number: int) -> None:
            found[number] = await call(number)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)
        return found

    assert anyio.run(ask) == {number: 2 * number for number in range(20)}
    assert batches == [20]


def test_what_a_batch_raises_reaches_every_caller_and_no_other() -> None:
    def divide(numbers: Sequence[int]) -> list[float]:
        return [1 / number for number in numbers]

    async def ask() -> list[object]:
        call, found = Batcher(divide), list[object]()

        async def one(number: int) -> None:
            try:
                found.append(await call(number))
            except ZeroDivisionError as error:
                found.append(type(error))

        async with anyio.create_task_group() as group:
            for number in (0, 1, 2):
                group.start_soon(one, number)
        found.append(await call(4))
        return found

    assert anyio.run(ask) == [ZeroDivisionError] * 3 + [0.25]


@pytest.mark.parametrize("rounds", [2])
def test_it_serves_one_event_loop_after_another(rounds: int) -> None:
    call = Batcher[int, int](list)
    assert [anyio.run(call, number) for number in range(rounds)] == list(range(rounds))
