"""Takes the runs of a study through their stages in parallel processes; what is done is read from the disk alone.

A process that fails affects only its own run. When asked to stop, the runner asks its processes to stop, and they save
what they have. Nothing here knows what a stage computes, so tests use stages of their own.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from magic_rl.errors import UserError
from magic_rl.runs.interrupt import stops_handled
from magic_rl.runs.study.plan import PlannedRun, Stage
from magic_rl.runs.study.slots import Environment
from magic_rl.store import atomic
from magic_rl.store.lock import is_locked
from magic_rl.view import View

_PAUSE = 0.1  # seconds between checks of the processes
_TAIL = 1 << 14  # bytes at the end of a log that are read


@dataclass(frozen=True, slots=True)
class Work:
    """How a study does its runs."""

    # What a run needs next; None if it is finished. Read from the disk.
    next_stage: Callable[[PlannedRun], Stage | None]
    command: Callable[[PlannedRun, Stage], Sequence[str]]
    logs: Path  # folder for what the processes write, one file per run
    slots: Sequence[Environment]  # environments of the runs side by side


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """How a study ended."""

    failed: dict[str, str]  # the reason, by name of the run
    stopped: bool  # whether the user stopped it


def run_all(runs: Sequence[PlannedRun], work: Work, view: View) -> StudyOutcome:
    """Take every run through its stages.

    Returns:
        Which runs failed, and whether the user stopped the study; if not, all other runs are finished.

    Raises:
        UserError: If logs cannot be written.
    """
    atomic.make_folder(work.logs)
    runner = _Runner(work, view, deque(runs))
    workers = [runner.take_runs(slot) for slot in work.slots]
    with stops_handled(runner.ask_to_stop):
        try:
            while workers := [worker for worker in workers if next(worker, "over") is None]:
                time.sleep(_PAUSE)
        finally:  # no process is left behind, no matter what went wrong here
            for process in runner.processes:
                process.terminate()
            for process in runner.processes:
                process.wait()
    return StudyOutcome(runner.failed, bool(runner.asked))


@dataclass(slots=True, eq=False)
class _Runner:
    """The state of `run_all`. Its generators yield while they wait, so that other runs get their turn."""

    work: Work
    view: View
    waiting: deque[PlannedRun]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    asked: int = 0  # how often the user asked to stop

    def ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        """Count a request to stop; nothing new begins, and processes are told."""
        self.asked += 1

    def take_runs(self, slot: Environment) -> Iterator[None]:
        """Take one run after the other through its stages."""
        while self.waiting and not self.asked:
            run = self.waiting.popleft()
            if why := (yield from self._through(run, slot)):
                self.failed[run.name] = why
                self.view.run(run.name, "failed", why)

    def _through(self, run: PlannedRun, slot: Environment) -> Generator[None, None, str]:
        """Take a run through its stages. Returns: Why it failed, or ""."""
        log, last = self.work.logs / f"{run.name}.log", None
        while not self.asked:
            if is_locked(run.path):
                self.view.run(run.name, "line", "another process is at work on this run; waiting for it")
                while is_locked(run.path) and not self.asked:
                    yield
                continue
            try:
                stage = self.work.next_stage(run)
            except UserError as error:
                return str(error)
            if stage is None:
                self.view.run(run.name, "finished" if last else "skipped")
                return ""
            if stage == last:
                return f"{stage} ended well but left the run unfinished; see {log}"
            last = stage
            if why := (yield from self._stage(run, stage, slot, log)):
                return why
        return ""

    def _stage(self, run: PlannedRun, stage: Stage, slot: Environment, log: Path) -> Generator[None, None, str]:
        """Run a stage in a process. Returns: Why it failed, or ""."""
        with atomic.writing(log), log.open("ab") as out:
            begin = out.tell()
            # In its own session, Ctrl-C reaches the process only from here, once. The pipe is never written to; its end
            # tells the process that this one is gone.
            process = subprocess.Popen(
                self.work.command(run, stage),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **slot},
            )
        self.processes.append(process)
        self.view.run(run.name, "began", stage)
        told, shown = 0, ""
        while True:
            while told < self.asked:  # a second time it stops at once, without saving
                if not told:
                    self.view.run(run.name, "stopping")
                told += 1
                process.terminate()
            status = process.poll()
            if (line := _last_line(log, begin)) not in ("", shown):
                shown = line
                self.view.run(run.name, "line", line)
            if status is not None:
                break
            yield
        process.communicate()  # closes the pipe
        return _reason(status, log, begin) if status and not self.asked else ""


def _lines(log: Path, begin: int) -> list[str]:
    """Lines at the end of a log; nothing before `begin` is read."""
    with log.open("rb") as file:
        file.seek(max(begin, file.seek(0, os.SEEK_END) - _TAIL))
        text = file.read().decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.strip()]


def _last_line(log: Path, begin: int) -> str:
    """The last line about a run's progress; indented lines show an exchange and are skipped."""
    return next((line for line in reversed(_lines(log, begin)) if not line.startswith(" ")), "")


def _reason(status: int, log: Path, begin: int) -> str:
    """Why a process failed: its error line, or the last line that it wrote."""
    if status < 0:
        return f"killed by signal {-status} (9 is what a machine without free memory sends); see {log}"
    lines = _lines(log, begin)
    said = next((line for line in reversed(lines) if line.startswith("error: ")), next(reversed(lines), ""))
    return f"{said.removeprefix('error: ') or f'exit status {status} without output'}; see {log}"
