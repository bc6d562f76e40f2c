"""The run directory: all that a run leaves behind and all that it needs to continue.

Files are written aside and renamed, checkpoints and players are hashed, and rows are appended in one write, so a
run killed at any instant can go back to its last complete checkpoint (`latest_checkpoint`, `rewind`).

    config.toml  versions.json        the settings; the versions of the software it ran on
    engines.json                      how each role's model is computed, and how exactly
    inputs.json                       digests of seeds, prompts, pool, base models; what was checked; changed settings
    warmup.json                       what the defender's warm-up learns from, if the base model wrote it
    tracker.json  wandb/              which run this is at its tracker, if it has one; data not sent yet
    metrics.jsonl  timings.jsonl      one row per step: reproducible numbers; seconds and speeds
    episodes/step-000012.jsonl        every episode of a step
    checkpoints/step-000012/          each learner in a folder of its name, state.json, MANIFEST.json
    players/attacker-round-00/        adapters kept for evaluation; round 0 is before co-evolution
    payoffs.json                      payoffs between versions of the players, if opponents are drawn by them
    evaluation.json                   every number of an evaluation; see `evaluation.result`
    outcomes.json  failures.json      the outcome of each held-out seed; exchanges that the last defender got wrong
    items.jsonl                       every exchange of an evaluation; beside it summary.tsv and cost.json
    evaluations/                      evaluations with something else in place of the run's own, one folder each
    drift.json                        how attacks change from round to round
    served/defender-round-03-merged/ a player as a server loads it; see `runs.serve`
    attack.json  attacks/start/       fresh attackers against frozen defenders: the result, and one `part` each
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from magic_rl.errors import StoreError
from magic_rl.files import read_text
from magic_rl.store import atomic, manifest, records
from magic_rl.store.lock import locked
from magic_rl.store.manifest import CorruptedError
from magic_rl.types import Outcome, Role

ENGINES_FILE = "engines.json"
INPUTS_FILE = "inputs.json"
TRACKER_FILE = "tracker.json"
WARMUP_FILE = "warmup.json"

Row = Mapping[str, float | int | str | bool | None]


class SupportsSave(Protocol):
    """The part of a policy that the store uses."""

    def save(self, directory: Path) -> None:
        """Write the whole policy into an existing, empty directory."""


def refuse_taken(path: Path) -> None:
    """Raises: StoreError: If a new run at `path` would overwrite something, or cannot be written there."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        if (path / "config.toml").is_file():
            raise StoreError(f"{path}: already exists", "resume or elsewhere", run=path)
        raise StoreError(f"{path}: already exists, and holds no run", "elsewhere")
    place = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise StoreError(f"{path}: cannot be written, as {place} is not a writable folder", "elsewhere")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint."""

    step: int  # optimiser steps taken
    path: Path
    state: dict[str, Any]  # what `save_checkpoint` was given, as JSON reads it back (tuples are lists)

    def policy(self, name: str) -> Path:
        """Folder of the policy saved under `name`. Raises: StoreError: If the checkpoint holds no such policy."""
        folder = self.path / name
        if not folder.is_dir():
            raise StoreError(f"{self.path}: holds no policy {name!r}; it was saved under other settings")
        return folder


class RunDirectory:
    """A run on disk. One process at a time may write (`lock`); any may read.

    Methods that write raise `StoreError` if they cannot; methods that read raise it for broken files.
    """

    def __init__(self, path: Path, *, keep: int = 2) -> None:
        """Use `create` or `open`.

        Args:
            path: The run's directory.
            keep: How many checkpoints to keep; with 2 or more the run survives a damaged one.
        """
        self.path, self._keep = path, keep
        self._rows = {name: path / f"{name}.jsonl" for name in ("metrics", "timings")}
        self._folders = [path / name for name in ("episodes", "checkpoints", "players")]
        self._episodes, self._checkpoints, self._players = self._folders

    @classmethod
    def create(
        cls,
        path: Path,
        config_toml: str,
        versions: Mapping[str, str],
        *,
        inputs: Mapping[str, Any] | None = None,
        keep: int = 2,
    ) -> RunDirectory:
        """Make a new run directory; it appears complete or not at all.

        Args:
            path: Must not exist, or be an empty directory.
            config_toml: The resolved config, without secrets.
            versions: Versions of everything that may change a number, by name.
            inputs: JSON values that say what the run starts from.
            keep: See the class.

        Raises:
            StoreError: If the path is taken or not writable.
        """
        run = cls(path, keep=keep)
        target = path.resolve()
        with atomic.writing(path):
            refuse_taken(path)
            if target == Path.cwd():  # renaming over it would leave the user's shell in a deleted directory
                raise StoreError(f"{path}: is the current directory; name a new directory for the run")
            atomic.clean(target.parent, target.name)
            with atomic.new_directory(target) as aside:
                for folder in run._folders:
                    (aside / folder.name).mkdir()
                documents = {"versions.json": _json(dict(versions)), "config.toml": config_toml.encode()}
                if inputs is not None:
                    documents[INPUTS_FILE] = _json(dict(inputs))
                for name, content in {**{rows.name: b"" for rows in run._rows.values()}, **documents}.items():
                    atomic.write_file(aside / name, content)
        return run

    @classmethod
    def open(cls, path: Path, *, keep: int = 2) -> RunDirectory:
        """Open an existing run. Raises: StoreError: If there is no run at `path`."""
        if not (path / "config.toml").is_file():
            raise StoreError(f"{path}: {'holds no run (no config.toml)' if path.is_dir() else 'no such run or folder'}")
        return cls(path, keep=keep)

    def part(self, name: str) -> RunDirectory:
        """A directory inside this run that keeps rows, episodes and checkpoints as a run does; made if missing.

        It has no config, so it is not taken for a run. To write in it, hold the lock of this run.

        Args:
            name: Its path in the run.
        """
        part = RunDirectory(self.path / name, keep=self._keep)
        for folder in part._folders:
            atomic.make_folder(folder)
        part._clean()
        return part

    def _clean(self) -> None:
        for folder in (self.path, *self._folders):
            atomic.clean(folder)

    @property
    def config_text(self) -> str:
        """The resolved config as TOML."""
        return read_text(self.path / "config.toml")

    def write_config(self, config_toml: str) -> None:
        """Replace the resolved config."""
        atomic.write_file(self.path / "config.toml", config_toml.encode())

    @property
    def versions(self) -> dict[str, str]:
        """Versions the run was started with, by name."""
        versions: dict[str, str] = self.read_json("versions.json") or {}
        return versions

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the write lock, which ends with the process, and clean up after a killed one.

        Raises:
            StoreError: If another process holds it.
        """
        with locked(self.path):
            with atomic.writing(self.path):
                self._clean()
            yield

    # Rows and documents

    def log(self, row: Row) -> None:
        """Append one row of reproducible numbers, with its `step`. NaN and infinities are stored as null."""
        records.append(self._rows["metrics"], row)

    def log_timing(self, row: Row) -> None:
        """Append one row of seconds and speeds, with its `step`."""
        records.append(self._rows["timings"], row)

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of `log` in order, without a torn last one."""
        return records.read(self._rows["metrics"])

    def timings(self) -> list[dict[str, Any]]:
        """Rows of `log_timing` in order, without a torn last one."""
        return records.read(self._rows["timings"])

    def write_episodes(self, step: int, outcomes: Sequence[Outcome]) -> None:
        """Write every episode of a step."""
        rows = (records.episode_row(step, outcome) for outcome in outcomes)
        atomic.write_file(self._episodes_of(step), records.dump(rows))

    def episodes(self, step: int) -> list[dict[str, Any]]:
        """Rows of `records.episode_row`; none if the step had no episodes."""
        return records.read(self._episodes_of(step))

    def episode_steps(self) -> list[int]:
        """Steps that have episodes, in order."""
        return _numbers(self._episodes, r"step-(\d+)\.jsonl")

    def write_json(self, name: str, data: Any) -> None:
        """Write a document such as `payoffs.json`. NaN and infinities are stored as null."""
        atomic.write_file(self.path / name, _json(records.standard(data)))

    def read_json(self, name: str) -> Any:
        """A document, or None if there is no such file. Raises: StoreError: If it is not JSON."""
        path = self.path / name
        if not path.exists():
            return None
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise StoreError(f"{path}: not JSON ({error}); remove it or write it again") from error

    # Checkpoints

    def save_checkpoint(self, step: int, policies: Mapping[str, SupportsSave], state: Mapping[str, Any]) -> None:
        """Save everything the run needs to continue, then remove older checkpoints beyond `keep`.

        Args:
            step: Optimiser steps taken.
            policies: By name, for `Checkpoint.policy`.
            state: JSON values.

        Raises:
            StoreError: If it cannot be written; earlier checkpoints are then untouched.
            ValueError: If the state holds a number that is not finite.
        """
        with atomic.new_directory(self._checkpoint(step), replace=True) as aside:
            for name, policy in policies.items():
                (aside / name).mkdir()
                policy.save(aside / name)
            atomic.write_file(aside / "state.json", _json(dict(state)))
            manifest.seal(aside, {"step": step})
        older = [saved for saved in self.checkpoints() if saved < step]
        for saved in older[: max(0, len(older) + 1 - self._keep)]:
            atomic.remove(self._checkpoint(saved))

    def checkpoints(self) -> list[int]:
        """Steps that have a checkpoint, in order; not verified."""
        return _numbers(self._checkpoints, r"step-(\d+)")

    @property
    def is_complete(self) -> bool:
        """Whether training has finished."""
        checkpoint = self.latest_checkpoint()
        return checkpoint is not None and checkpoint.state["stage"] == "done"

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint whose hashes match; corrupted ones are skipped with a warning.

        Returns:
            None if none was ever saved.

        Raises:
            StoreError: If there are checkpoints and all are corrupted.
        """
        steps = self.checkpoints()
        for step in reversed(steps):
            path = self._checkpoint(step)
            try:
                if manifest.verify(path) != {"step": step}:
                    raise CorruptedError("it is the checkpoint of another step")
            except CorruptedError as error:
                warnings.warn(f"{path}: corrupted checkpoint, passed over ({error})", stacklevel=2)
            else:
                return Checkpoint(step, path, json.loads((path / "state.json").read_bytes()))
        if steps:
            raise StoreError(f"{self._checkpoints}: every checkpoint is corrupted; start a new run")
        return None

    def rewind(self, step: int) -> None:
        """Go back to where the run was after `step`, so that it can continue from that checkpoint.

        Drops rows, episodes, players and (corrupted) checkpoints of later steps. Repeating it changes nothing.
        """
        for rows in self._rows.values():
            records.rewind(rows, step)
        newer = [self._episodes_of(later) for later in self.episode_steps() if later > step]
        newer += [self._checkpoint(later) for later in self.checkpoints() if later > step]
        newer += [path for path in self._players.glob("[!.]*-round-*") if _saved_after(path, step)]
        for path in newer:
            atomic.remove(path)

    # Players

    def save_player(self, role: Role, number: int, policy: SupportsSave, step: int) -> None:
        """Keep a player for evaluation.

        Args:
            role: The role it plays.
            number: Its round; 0 is before co-evolution.
            policy: Its policy.
            step: Optimiser steps taken so far; a rewind to an earlier step drops the player.
        """
        with atomic.new_directory(self._player(role, number), replace=True) as aside:
            policy.save(aside)
            manifest.seal(aside, {"role": role, "round": number, "step": step})

    def players(self, role: Role) -> list[tuple[int, Path]]:
        """Rounds and folders of the saved players of a role, in order; not verified."""
        rounds = _numbers(self._players, rf"{role}-round-(\d+)")
        return [(number, self._player(role, number)) for number in rounds]

    def player(self, role: Role, number: int) -> Path:
        """Folder of a round's player, after checking its hashes.

        Raises:
            StoreError: If there is none or it is corrupted.
        """
        path = self._player(role, number)
        if not path.is_dir():
            raise StoreError(f"{path}: no such player", "resume", run=self.path)
        try:
            manifest.verify(path)
        except CorruptedError as error:
            raise StoreError(f"{path}: corrupted player ({error}); restore it or train a new run") from error
        return path

    # Places

    def _episodes_of(self, step: int) -> Path:
        return self._episodes / f"step-{step:06d}.jsonl"

    def _checkpoint(self, step: int) -> Path:
        return self._checkpoints / f"step-{step:06d}"

    def _player(self, role: Role, number: int) -> Path:
        return self._players / f"{role}-round-{number:02d}"


def _numbers(folder: Path, pattern: str) -> list[int]:
    """The numbers in the names of a folder's entries that match `pattern`, in order."""
    names = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(match[1]) for path in names if (match := re.fullmatch(pattern, path.name)))


def _saved_after(player: Path, step: int) -> bool:
    """Whether a player was saved after `step`. A corrupted one is kept: it is reported when used, or replaced."""
    try:
        return bool(manifest.read_about(player)["step"] > step)
    except CorruptedError:
        return False


def _json(data: Any) -> bytes:
    return json.dumps(data, indent=2, allow_nan=False).encode() + b"\n"


def open_run(path: str | Path) -> RunDirectory:
    """Open an existing run, to evaluate or inspect it.

    Args:
        path: Its directory.

    Returns:
        The run.

    Raises:
        StoreError: If there is none.
    """
    return RunDirectory.open(Path(path))
