"""The memory of models' answers, in one SQLite file that any number of processes may share.

Answers are kept as text, by model and request. Labels are read from the text each time, so a parser may change and no
answer is paid for twice. Only answers that the caller could use are kept; the others are asked for again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from magic_rl.chat.base import Chat, ChatRequest, Completion, Done
from magic_rl.errors import StoreError

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class UnusableError(ValueError):
    """An answer that the caller cannot use; the message says why."""


class Memory:
    """The file. Each answer is committed as it arrives, so a killed process loses none."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            StoreError: If it cannot be written, or is not such a file.
        """
        self.path, self._warned = path, False
        self._lock = threading.Lock()  # a server's answers arrive on another thread
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT, tokens INTEGER) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path}: cannot be used as a memory of answers ({error})") from error

    def recall(self, identity: str, requests: Sequence[ChatRequest]) -> dict[int, Completion]:
        """The known answers of a model (`Chat.identity`), by the index of the request."""
        places: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(_key(identity, request), []).append(place)
        out: dict[int, Completion] = {}
        with self._lock, self._trouble():
            for key, same in places.items():
                for text, tokens in self._base.execute("SELECT text, tokens FROM answers WHERE key = ?", (key,)):
                    out |= dict.fromkeys(same, Completion(text, tokens, remembered=True))
        return out

    def remember(self, identity: str, request: ChatRequest, answer: Completion) -> None:
        """Keep an answer. A file that cannot be written is only a warning, so the answer itself is not lost."""
        row = (_key(identity, request), answer.text, answer.tokens)
        with self._lock, self._trouble():
            self._base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", row)

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if not self._warned:
                _log.warning("%s: %s; continuing without what it remembers", self.path, error)
            self._warned = True


def ask(
    chat: Chat,
    requests: Sequence[ChatRequest],
    read: Callable[[int, str], _T],
    memory: Memory | None = None,
    done: Done | None = None,
) -> list[_T | Completion]:
    """Ask a batch of requests; a request that occurs twice is asked once.

    Args:
        read: Given a request's index and an answer. Raises UnusableError if the answer is of no use; such an answer is
            not remembered, and if it was remembered, it is asked for again.
        memory: Where usable answers are kept.
        done: Called as soon as each answer is there, also if it was remembered, with the completion that `read` was
            given: failed, with the cause "unusable", if it was of no use. An exception that it raises ends the batch.

    Returns:
        What `read` returned for each request, in order; if there is no answer, the completion that says why.
    """
    out: dict[int, _T | Completion] = {}

    def take(place: int, completion: Completion) -> bool:
        if completion.failed is None:
            try:
                out[place] = read(place, completion.text)
            except UnusableError as error:
                if completion.remembered:
                    return False
                completion = replace(completion, failed=str(error), cause="unusable")
        if completion.failed is not None:
            out[place] = completion
        if done is not None:
            done(place, completion)
        return completion.failed is None

    for place, completion in (memory.recall(chat.identity, requests) if memory else {}).items():
        take(place, completion)
    waiting: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        if place not in out:
            waiting.setdefault(_key("", request), []).append(place)
    groups = list(waiting.values())

    def note(index: int, completion: Completion) -> None:
        first, *others = groups[index]
        if take(first, completion) and memory is not None:
            memory.remember(chat.identity, requests[first], completion)
        for place in others:
            take(place, completion)

    for index, completion in enumerate(chat.complete([requests[first] for first, *_ in groups], note)):
        if groups[index][0] not in out:  # not asked, as the batch was given up
            note(index, completion)
    return [out[place] for place in range(len(requests))]


def _key(identity: str, request: ChatRequest) -> str:
    return hashlib.sha256(json.dumps([identity, asdict(request)], sort_keys=True).encode()).hexdigest()
