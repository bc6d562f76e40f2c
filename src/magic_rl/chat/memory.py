"""What models have answered before, in one SQLite file that any number of processes may share.

Answers are kept as text, by who was asked and what: labels are read from the text each time, so that a parser may
change and nothing is paid for twice. Kept is only what whoever asked could use; the rest is asked again.
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
    """An answer that is of no use to whoever asked; the text says why."""


class Memory:
    """The file. Every answer is committed as it comes, so a kill loses none that was paid for."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            StoreError: If it cannot be written, or is no such file.
        """
        self.path, self._warned = path, False
        self._lock = threading.Lock()  # a server's answers come in on another thread
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
        """What a model (`Chat.identity`) has answered, by the request's place, as far as it is known."""
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
        """Keep an answer, if the file can be written: one that was paid for is not lost with it."""
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
    """What `read` makes of the answer to each request, in order; where there is none, the completion that says why.

    A request that is there twice is asked once.

    Args:
        read: Given a request's place and an answer. Raises UnusableError if it is of no use; such an answer is not
            remembered, and a remembered one is asked for again.
        memory: Where usable answers are kept.
        done: Called as soon as each answer is there, remembered ones too, with the completion that `read` was given:
            failed, for the cause "unusable", if it was of no use. What it raises ends the batch.
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
        if groups[index][0] not in out:  # given up before it was asked
            note(index, completion)
    return [out[place] for place in range(len(requests))]


def _key(identity: str, request: ChatRequest) -> str:
    return hashlib.sha256(json.dumps([identity, asdict(request)], sort_keys=True).encode()).hexdigest()
