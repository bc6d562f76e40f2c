"""Worker processes that each compute a share of every batch, on a CPU.

Much of a small model's pass is Python and operations too short for several threads, so one process per core is faster
than one process with as many threads. Each call sends everything, the adapter included, and workers keep only the
frozen model, so there is no state to keep in sync. Each share goes to a fixed worker, so that sums do not depend on
timing; pools of the standard library and of loky give work to any free worker.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import subprocess
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, BinaryIO, cast

from magic_rl.errors import UserError
from magic_rl.types import Tokens

Answers = Callable[[], list[Any]]  # waits for the results of all shares given out

_LAST = 5.0  # seconds that a process has to end once its pipe is closed
_GONE = (EOFError, OSError, pickle.UnpicklingError)  # what reading and writing raise once the other end is gone


class Workers:
    """Processes that each hold the same model."""

    def __init__(self, count: int, serve: Callable[..., Any], *arguments: object) -> None:
        """Start them. They load the model while this process goes on; an error in that is raised with the first answer.

        Args:
            serve: Loads the model in a new process, and returns the function that computes a share there.
            arguments: For `serve`.
        """
        self._count, self._task = count, (serve, arguments)
        self._start()

    def _start(self) -> None:
        # Not by `multiprocessing`, which would run the user's own script again in each process.
        begin = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
        command, pipe = [sys.executable, "-c", begin], subprocess.PIPE
        quiet = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        # In a session of their own, so that Ctrl-C does not reach them: this process decides what it means.
        started = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, env=quiet, start_new_session=True)
            for _ in range(self._count)
        ]
        self._started, self._answered = started, True
        self.stop = weakref.finalize(self, _stop, started)
        for worker in started:
            _send(worker, self._task)

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [worker.pid for worker in self._started]

    def give(self, shares: Sequence[tuple[Any, ...]]) -> Answers:
        """Give each share to a worker and return at once.

        Raises:
            UserError: If a worker has ended. Calling what is returned may raise it too.
        """
        if not (self._answered and self.stop.alive):  # an interrupted call may have read half of an answer
            self.stop()
            self._start()
        asked = self._started[: len(shares)]
        self._answered = not asked
        for worker, share in zip(asked, shares, strict=True):
            _send(worker, share)

        def answers() -> list[Any]:
            read = [_read(worker) for worker in asked]
            self._answered = True
            for _, error in read:
                if error is not None:
                    raise error
            return [result for result, _ in read]

        return answers


def _stop(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.kill()  # it holds nothing that could be lost
    for worker in workers:
        with contextlib.suppress(OSError):  # input that it had not read
            worker.communicate()


def _send(worker: subprocess.Popen[bytes], message: object) -> None:
    with _present(worker):
        inward = cast("IO[bytes]", worker.stdin)
        pickle.dump(message, inward, pickle.HIGHEST_PROTOCOL)
        inward.flush()


def _read(worker: subprocess.Popen[bytes]) -> tuple[Any, Exception | None]:
    """A result, or the exception that was raised instead."""
    with _present(worker):
        answer: tuple[Any, Exception | None] = pickle.load(cast("IO[bytes]", worker.stdout))  # noqa: S301 - our own
    return answer


@contextlib.contextmanager
def _present(worker: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    except _GONE as error:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(_LAST)
        worker.kill()  # if it still runs, its output cannot be read
        raise UserError(
            f"a worker process has ended (exit status {worker.wait()}); it may have run out of memory",
            "fewer processes",
        ) from error


def _work(inward: BinaryIO, outward: BinaryIO) -> None:
    """Load the model, then compute one share after the other until the parent closes the pipe."""
    serve, arguments = pickle.load(inward)  # noqa: S301 - from the process that started this one
    compute, failed = _tried(serve, *arguments)
    while True:
        share = pickle.load(inward)  # noqa: S301
        answer = (None, failed) if failed else _tried(compute, *share)
        outward.write(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
        outward.flush()


def _tried(work: Callable[..., Any], *arguments: object) -> tuple[Any, Exception | None]:
    """A result, or the exception that was raised instead, in a form that another process can raise."""
    try:
        return work(*arguments), None
    except Exception as error:  # noqa: BLE001 - raised again where the share was given out
        trace = f"in a worker process:\n{traceback.format_exc()}"
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        except Exception:  # noqa: BLE001 - a class with a constructor of its own may raise anything
            return None, RuntimeError(trace)
        error.add_note(trace)
        return None, error


def dealt(prompts: Sequence[Tokens], parts: int) -> list[list[int]]:
    """Split prompts to sample from into shares of indices, similar in number and length; none is empty."""
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    return [share for part in range(parts) if (share := order[part::parts])]


def cut(sequences: Sequence[tuple[Tokens, Tokens]], parts: int) -> list[list[int]]:
    """Split (prompt, completion) pairs into shares of ascending indices with similar numbers of tokens; none is empty.

    Pairs that begin alike stay together as far as possible, since a share computes a common prompt once.
    """
    order = sorted(range(len(sequences)), key=lambda place: sequences[place][0])
    before: Tokens = ()
    ends, total = [], 0
    for prompt, completion in map(sequences.__getitem__, order):
        own = len(completion) + (len(prompt) if prompt != before else 0)
        ends.append(total + own / 2)
        before, total = prompt, total + own
    shares: list[list[int]] = [[] for _ in range(parts)]
    for place, middle in zip(order, ends, strict=True):
        shares[int(middle * parts / (total + 1))].append(place)  # + 1, as all may be empty
    return [sorted(share) for share in shares if share]


def main() -> None:
    """Run as a worker process."""
    logging.disable(logging.WARNING)  # the parent process has logged all of it
    warnings.simplefilter("ignore")
    outward = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that what a library prints does not reach the pipe
    with contextlib.suppress(*_GONE):
        _work(sys.stdin.buffer, outward)
