"""The answers of a writer model while a pool is built, one a line, so that none is paid for twice.

The first line says what the answers were made with; going on with anything else is refused. A process killed while it
appends leaves at most a torn last line, which is dropped.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from magic_rl.errors import UserError

Stage = Literal["rewrite", "reasoning"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the writer said to one question.

    Attributes:
        stage: Which question it was.
        seed: Id of the seed.
        strategy: Name of the strategy.
        text: The answer; "" if it was cut off.
        tokens: Question and answer together, as the server counts them.
        cut_off: Whether the length limit ended it.
    """

    stage: Stage
    seed: str
    strategy: str
    text: str
    tokens: int = 0
    cut_off: bool = False


class Partial:
    """The answers so far. Made by `open_partial`.

    Attributes:
        tokens: Tokens of all answers.
    """

    def __init__(self, path: Path, file: BinaryIO, made_with: Mapping[str, str]) -> None:
        """Read what is there. Raises: UserError: As `open_partial`."""
        self._path, self._file = path, file
        self.tokens = 0
        self._answers: dict[tuple[Stage, str, str], Answer] = {}
        file.seek(0)
        lines = file.read().split(b"\n")
        if torn := lines.pop():
            file.truncate(file.tell() - len(torn))
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if number == 1:
                    self._compare(row["made_with"], made_with)
                else:
                    self._know(Answer(**row))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}:{number}: no answer of a writer ({error}); remove the file") from error
        if not lines:
            self._append({"made_with": dict(made_with)})

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, stage: Stage, seed: str, strategy: str) -> Answer | None:
        """The answer to a question; None if there is none yet."""
        return self._answers.get((stage, seed, strategy))

    def add(self, answer: Answer) -> None:
        """Keep an answer, in the file too."""
        self._know(answer)
        self._append(asdict(answer))

    def _know(self, answer: Answer) -> None:
        self._answers[answer.stage, answer.seed, answer.strategy] = answer
        self.tokens += answer.tokens

    def _append(self, row: Mapping[str, object]) -> None:
        self._file.write(json.dumps(row).encode("ascii") + b"\n")
        self._file.flush()

    def _compare(self, then: Mapping[str, str], now: Mapping[str, str]) -> None:
        changed = [name for name in now if then.get(name) != now[name]]
        if changed:
            raise UserError(
                f"{self._path}: was begun with another {' and another '.join(changed)}; "
                "go on with the same, or remove the file to begin anew"
            )


@contextmanager
def open_partial(path: Path, made_with: Mapping[str, str]) -> Iterator[Partial]:
    """The answers kept in a file, which is made if there is none, and removed again if no answer came.

    Args:
        made_with: What the answers depend on, by the name that a user knows it by.

    Raises:
        UserError: If the answers there were made with something else, another process is at it, or the file cannot
            be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
        except BlockingIOError as error:
            raise UserError(f"{path}: another process is building this pool; wait for it or stop it") from error
        partial = Partial(path, file, made_with)
        try:
            yield partial
        finally:
            if not partial:
                path.unlink(missing_ok=True)
