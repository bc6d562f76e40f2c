"""Labels that a judge has given before, in one SQLite file that any number of runs may share.

Keyed by judge (with its version and model) and by the content it judged, so another judge, another prompt format or
another text is another entry. Only what was understood is kept: an abstention is always asked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple
from pathlib import Path

from magic_rl.errors import UserError
from magic_rl.judges.format import Labels, Question

_AT_ONCE = 500  # keys in one query

_log = logging.getLogger(__name__)


class VerdictCache:
    """The file. Every label is committed as it comes, so a kill loses none that was paid for."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            UserError: If it cannot be written, or is no such file.
        """
        self._warned = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = threading.Lock()  # completions may come in on another thread
            self._base = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute("CREATE TABLE IF NOT EXISTS labels (key TEXT PRIMARY KEY, labels TEXT) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"judge.cache: {path}: {error}; name another file, or false") from error

    def recall(self, judge: str, questions: Sequence[Question]) -> dict[Question, Labels]:
        """What the judge has said to these questions, as far as it is known."""
        keys = {_key(judge, question): question for question in questions}
        out: dict[Question, Labels] = {}
        listed = list(keys)
        for begin in range(0, len(listed), _AT_ONCE):
            some = listed[begin : begin + _AT_ONCE]
            marks, rows = ",".join("?" * len(some)), []
            with self._lock, self._trouble():
                rows = self._base.execute(f"SELECT key, labels FROM labels WHERE key IN ({marks})", some).fetchall()  # noqa: S608 - question marks only
            for key, labels in rows:
                with contextlib.suppress(ValueError, TypeError, KeyError):  # of another version: asked again
                    fields = json.loads(labels)
                    out[keys[key]] = Labels(**{**fields, "categories": tuple(fields["categories"])})
        return out

    def remember(self, judge: str, question: Question, labels: Labels) -> None:
        """Keep an answer, if the file can be written: one that was paid for is not lost with it."""
        with self._lock, self._trouble():
            self._base.execute(
                "INSERT OR REPLACE INTO labels VALUES (?, ?)", (_key(judge, question), json.dumps(asdict(labels)))
            )

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if not self._warned:
                _log.warning("judge.cache: %s; going on without it", error)
            self._warned = True


def _key(judge: str, question: Question) -> str:
    content = json.dumps([judge, *astuple(question)])
    return hashlib.sha256(content.encode()).hexdigest()
