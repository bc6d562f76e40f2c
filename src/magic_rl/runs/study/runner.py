"""Runs of a study as processes side by side, each through its stages; what is done is known from the disk alone.

A process that fails costs its own run. Asked to stop, the runner asks its processes to stop, which save what they have.
Nothing here knows what a stage computes, so tests run it on stages of their own.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
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

_PAUSE = 0.1  # seconds between two looks at the processes
_TAIL = 1 << 14  # bytes at the end of a log that are looked at


@dataclass(frozen=True, slots=True)
class Work:
    """What a study does, apart from which runs it has."""

    # What a run needs next; None if it is finished. Read from the disk.
    next_stage: Callable[[PlannedRun], Stage | None]
    command: Callable[[PlannedRun, Stage], Sequence[str]]
    logs: Path  # folder for what the processes write, a file per run
    slots: Sequence[Environment]  # places for runs side by side


@dataclass(frozen=True, slots=True)
class Ended:
    """How a study ended."""

    failed: dict[str, str]  # why, by name of the run
    stopped: bool  # whether the user stopped it


@dataclass(slots=True, eq=False)
class _Job:
    """A run that has a slot."""

    run: PlannedRun
    slot: int  # its number
    told: int = 0  # how often its process was asked to stop
    stage: Stage | None = None  # begun last
    process: subprocess.Popen[bytes] | None = None  # at work on it
    begins: int = 0  # where the log of the stage begins
    shown: str = ""  # the line of the log seen last


def run_all(runs: Sequence[PlannedRun], work: Work, view: View) -> Ended:
    """Take every run through its stages.

    Returns:
        Which runs failed, and whether it was stopped; all other runs are finished if it was not.

    Raises:
        UserError: If logs cannot be written.
    """
    atomic.make_folder(work.logs)
    runner = _Runner(work, view, deque(runs))
    with stops_handled(runner.ask_to_stop):
        try:
            while runner.step():
                time.sleep(_PAUSE)
        finally:
            runner.end_processes()
    return Ended(runner.failed, bool(runner.asked))


@dataclass(slots=True, eq=False)
class _Runner:
    """The state of `run_all`."""

    work: Work
    view: View
    waiting: deque[PlannedRun]
    jobs: list[_Job] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    asked: int = 0  # how often the user asked to stop

    def step(self) -> bool:
        """Look at every process and begin what can begin; False when there is nothing more to do."""
        for job in list(self.jobs):
            self._pass_on(job)
            self._look_at(job)
        free = sorted(set(range(len(self.work.slots))) - {job.slot for job in self.jobs})
        while self.waiting and free and not self.asked:
            job = _Job(self.waiting.popleft(), free[0])
            self.jobs.append(job)
            self._go_on(job)
            if job in self.jobs:
                free.pop(0)
        return bool(self.jobs or (self.waiting and not self.asked))

    def ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        """Count a request to stop; `step` passes it on and begins nothing new."""
        self.asked += 1

    def end_processes(self) -> None:
        """Leave no process behind, no matter what went wrong here."""
        for job in self.jobs:
            if job.process is not None:
                job.process.terminate()
        for job in self.jobs:
            if job.process is not None:
                job.process.wait()

    def _pass_on(self, job: _Job) -> None:
        """Ask a process to stop as often as the user asked; a second time it stops at once, without saving."""
        while job.process is not None and job.told < self.asked:
            if not job.told:
                self.view.run(job.run.name, "stopping")
            job.told += 1
            job.process.terminate()

    def _look_at(self, job: _Job) -> None:
        if job.process is None:  # waits for the process of an earlier study
            if self.asked:
                self.jobs.remove(job)
            else:
                self._go_on(job)
            return
        status = job.process.poll()
        line = _last_line(self._log(job), job.begins)
        if line and line != job.shown:
            job.shown = line
            self.view.run(job.run.name, "line", line)
        if status is None:
            return
        assert job.process.stdin is not None  # noqa: S101 - it was opened with one
        job.process.stdin.close()
        job.process = None
        if self.asked:
            self.jobs.remove(job)
        elif status:
            self._fail(job, _reason(status, self._log(job), job.begins))
        else:
            self._go_on(job)

    def _go_on(self, job: _Job) -> None:
        """Begin the next stage of a run, or be done with it."""
        try:
            if is_locked(job.run.path):
                if job.shown != _BUSY:
                    job.shown = _BUSY
                    self.view.run(job.run.name, "line", _BUSY)
                return
            stage = self.work.next_stage(job.run)
        except UserError as error:
            self._fail(job, str(error))
            return
        if stage is None:
            self.jobs.remove(job)
            self.view.run(job.run.name, "finished" if job.stage else "skipped")
        elif stage == job.stage:
            self._fail(job, f"{stage} ended well but left the run unfinished; see {self._log(job)}")
        else:
            self._begin(job, stage)

    def _begin(self, job: _Job, stage: Stage) -> None:
        job.stage, job.shown = stage, ""
        log = self._log(job)
        with atomic.writing(log), log.open("ab") as out:
            job.begins = out.tell()
            # A session of its own: Ctrl-C reaches it through `_pass_on` alone, once. The pipe is never written to;
            # its end tells the process that this one is gone.
            job.process = subprocess.Popen(
                self.work.command(job.run, stage),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **self.work.slots[job.slot]},
            )
        self.view.run(job.run.name, "began", stage)

    def _fail(self, job: _Job, why: str) -> None:
        self.jobs.remove(job)
        self.failed[job.run.name] = why
        self.view.run(job.run.name, "failed", why)

    def _log(self, job: _Job) -> Path:
        return self.work.logs / f"{job.run.name}.log"


_BUSY = "another process is at work on this run; waiting for it"


def _lines(log: Path, begin: int) -> list[str]:
    """Lines at the end of a log that is not read from before `begin`."""
    with log.open("rb") as file:
        file.seek(max(begin, file.seek(0, os.SEEK_END) - _TAIL))
        text = file.read().decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.strip()]


def _last_line(log: Path, begin: int) -> str:
    """Where a run stands; indented lines show an exchange and say nothing of that."""
    return next((line for line in reversed(_lines(log, begin)) if not line.startswith(" ")), "")


def _reason(status: int, log: Path, begin: int) -> str:
    """Why a process failed: its line of error, or the last that it wrote."""
    if status < 0:
        return f"killed by signal {-status} (9 is what a machine without free memory sends); see {log}"
    lines = _lines(log, begin)
    said = next((line for line in reversed(lines) if line.startswith("error: ")), next(reversed(lines), ""))
    return f"{said.removeprefix('error: ') or f'exit status {status} without a word'}; see {log}"
