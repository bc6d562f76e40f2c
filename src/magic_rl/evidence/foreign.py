"""Attackers from other packages, each in a separate environment, where a small driver runs and writes lines of JSON.

The driver gets a job on its standard input, including keys, which are thus on no command line and in no file. It writes
a line per query, and one when it is done with a seed. These lines are kept, so only unfinished seeds are attacked
again. PyRIT talks to the target itself; nanoGCG needs the target's weights and only writes what to ask.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from magic_rl.chat.base import Completion
from magic_rl.errors import UserError
from magic_rl.evidence.attackers import Game, Move
from magic_rl.evidence.items import hash_of
from magic_rl.evidence.redteam import Log, Query
from magic_rl.store import atomic
from magic_rl.types import Message, Seed

Row = Mapping[str, Any]
Note = Callable[[str], None]

_AT_ONCE = 16  # seeds per run of a driver


@dataclass(frozen=True, slots=True)
class Tool:
    """A package with its environment."""

    package: str  # name for import
    python: Path  # an interpreter that has it
    folder: Path  # where its lines and its log are kept

    def require(self) -> None:
        """Check that the interpreter has the package. Raises: UserError: If not, or if it is no interpreter."""
        look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({self.package!r}) is None)"
        with contextlib.suppress(OSError):
            if not subprocess.run([str(self.python), "-c", look], check=False).returncode:
                return
        raise UserError(f"{self.python}: not a Python that has {self.package}", "name a Python", package=self.package)

    def run(self, name: str, job: Mapping[str, Any], seeds: Sequence[Seed], note: Note) -> dict[str, list[Row]]:
        """Rows of each seed, in order of arrival; rows that an earlier run of the same job wrote are reused.

        Args:
            name: Name of the attack.
            job: JSON values. `keys` are secret and not part of the job's identity.
            seeds: The seeds to attack.
            note: Called with messages about progress.

        Raises:
            UserError: If the tool ends before it is done; names its log.
        """
        about = hash_of(json.dumps({key: value for key, value in job.items() if key != "keys"}, sort_keys=True))
        kept = self.folder / f"{name}-{about[:8]}.jsonl"
        known = _whole(kept)
        left = [(seed.id, seed.text) for seed in seeds if not _answered(known.get(seed.id))]
        for start in range(0, len(left), _AT_ONCE):
            self._drive({**job, "seeds": left[start : start + _AT_ONCE]}, kept)
            note(f"{name}: {len(seeds) - len(left) + min(start + _AT_ONCE, len(left))} of {len(seeds)} seeds done")
        rows = _whole(kept)
        return {seed.id: rows[seed.id] for seed in seeds}

    def _drive(self, job: Mapping[str, Any], kept: Path) -> None:
        log = kept.with_suffix(".log")
        driver = resources.files("magic_rl.evidence").joinpath("drivers", f"run_{self.package}.py")
        with (
            atomic.writing(kept),
            resources.as_file(driver) as script,
            kept.open("ab") as file,
            log.open("ab") as noise,
        ):
            file.write(b'\n{"starts": true}\n')
            file.flush()
            command = [str(self.python), str(script)]
            try:
                status = subprocess.run(
                    command, input=json.dumps(job).encode(), stdout=file, stderr=noise, check=False
                ).returncode
            except FileNotFoundError as error:
                raise UserError(f"{self.python}: not a Python", "name a Python", package=self.package) from error
        if status:
            last = log.read_text("utf-8", "replace").strip().rpartition("\n")[2][:200]
            why = f"{self.python}: {self.package} ended with status {status} ({last}); see {log}"
            raise UserError(why, "name a Python", package=self.package)


def _answered(rows: Sequence[Row] | None) -> bool:
    """Whether a seed is done and not all of its calls failed."""
    return rows is not None and not (rows and all(row["failed"] for row in rows))


def _whole(kept: Path) -> dict[str, list[Row]]:
    """Rows of the finished seeds. Other lines are from a tool that was stopped, or are no rows."""
    begun, whole = defaultdict[str, list[Row]](list), dict[str, list[Row]]()
    for line in kept.read_bytes().split(b"\n") if kept.exists() else ():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if row.get("starts"):
                begun.clear()
            elif row.get("done"):
                whole[row["seed"]] = begun[row["seed"]]
            else:
                begun[row["seed"]].append(row)
    return whole


@dataclass(frozen=True, slots=True)
class ConversationAttack:
    """An attack by a tool that talks to the target, helped by a model that writes and scores."""

    name: str
    tool: Tool
    # `attack`, `target`, `helper` and their `keys`, `budget`, `max_tokens`, `temperature`, and the tool's own
    # `settings`.
    job: Mapping[str, Any]


def converse(log: Log, attack: ConversationAttack, seeds: Sequence[Seed], note: Note) -> None:
    """Let a tool that talks to the target itself attack all seeds; keep and judge its queries.

    Raises:
        UserError: If the tool ends before it is done, or asked nothing at all.
    """
    name, rows = attack.name, attack.tool.run(attack.name, attack.job, seeds, note)
    if not any(rows.values()):
        raise UserError(f"{name}: {attack.tool.package} asked nothing; its log is in {attack.tool.folder}")
    for seed in seeds:
        queries = []
        for attempt, row in enumerate(rows[seed.id]):
            *said, last = (Message(each["role"], each["content"]) for each in row["messages"])
            completion = Completion(row["reply"] or "", failed=row["failed"])
            queries.append(Query(Game(seed, tuple(said)), Move(last.content), completion, attempt))
        log.keep(name, queries)


@dataclass(frozen=True, slots=True)
class Gcg:
    """A suffix for each seed, found by gradients in the target's weights (Zou et al. 2023, arXiv 2307.15043)."""

    tool: Tool  # nanoGCG
    job: Mapping[str, Any]  # the model's folder, steps and width
    note: Note  # called with messages about progress
    name = "gcg"
    turns = 1
    max_attempts = 1

    def moves(self, games: Sequence[Game], attempt: int) -> list[Move | None]:  # noqa: ARG002 - there is one
        """See `Attack`."""
        rows = self.tool.run(self.name, self.job, [game.seed for game in games], self.note)
        found = [rows[game.seed.id][-1] for game in games]
        return [Move(row["messages"][-1]["content"], failed=row["failed"]) for row in found]
