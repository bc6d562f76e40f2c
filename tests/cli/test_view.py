"""Claims about the live view: a panel for people, plain lines for everything else."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from magic_rl.cli import view as view_module
from magic_rl.cli.study_view import StudyView
from magic_rl.cli.view import Screen

SFT = {"step": 1, "stage": "sft_attacker", "stage_step": 1, "loss": 2.5, "grad_norm": 1.0, "lr": 0.1}
PLAY = {
    "step": 2,
    "stage": "play",
    "round": 1,
    "learner": "defender",
    "asr": 0.25,
    "refusal_harmful": 0.75,
    "refusal_benign": None,
    "reward_attacker": -0.5,
    "reward_defender": 1.25,
    "format_rate": 1.0,
    "masked_cut_off": 3,
    "masked_abstained": 0,
    "loss": 0.125,
}
TIMING = {"step": 2, "seconds": 20.0, "tokens_per_second": 123.4}


class Clock:
    """Time that passes when told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(view_module, "time", clock)
    return clock


def watch(console: Console, clock: Clock) -> None:
    """A run of three steps in two stages, 20 seconds a step of the game."""
    view = Screen(console)
    with view:
        view.stage("sft_attacker", 1)
        view.step(SFT, {})
        view.stage("play", 92)
        for _ in range(2):
            clock.now += 20
            view.step(PLAY, TIMING)
        view.note("saved [bold]runs/x[/bold] :smile: \x1b[31m\r\n")


def terminal(width: int = 80) -> Console:
    environment = {"TERM": "xterm-256color"}
    return Console(file=io.StringIO(), force_terminal=True, width=width, _environ=environment)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_each_step_is_one_plain_line(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=40)  # narrower than the lines, which must not be broken
    watch(console, clock)
    assert written(console).splitlines() == [
        "attacker SFT: 1 step",
        "attacker SFT 1/1 loss 2.500, 0:00 left",
        "co-evolution: 92 steps",
        *(
            f"co-evolution {done}/92 round 1, defender learns: ASR 25%, refused harmful 75%, reward defender +1.25, "
            f"reward attacker -0.50, format 100%, loss 0.125, cut off 3, tokens/s 123, {left} left"
            for done, left in ((1, "30:20"), (2, "30:00"))
        ),
        "saved [bold]runs/x[/bold] :smile:  [31m  ",
    ]


def test_lines_carry_no_control_characters(clock: Clock) -> None:
    console = Console(file=io.StringIO())
    watch(console, clock)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", written(console))


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(clock: Clock) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200, no_color=True, _environ={"TERM": "dumb"})
    watch(console, clock)
    assert "\x1b[" not in written(console)
    assert "co-evolution 2/92" in written(console)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_in_a_terminal_a_panel_shows_the_last_step(clock: Clock, width: int) -> None:
    console = terminal(width)
    watch(console, clock)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written(console))
    last = " ".join(drawn[drawn.rindex("MAGIC") :].split())
    for needed in ("co-evolution", "2/92", "30:00", "round 1, defender learns", "ASR", "25%", "+1.25", "123"):
        assert needed in last
    assert "saved [bold]runs/x[/bold] :smile:" in drawn
    assert "\x1b[31m\r" not in written(console)


def test_a_narrow_panel_of_a_study_cuts_no_time_and_no_name(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magic_rl.cli.study_view.time", clock)
    view, console = StudyView(3, terminal(60)), Console(width=60, file=io.StringIO())
    view.run("defender-only-seed-10", "began", "attack")
    view.run(
        "defender-only-seed-10", "line", "fresh attacker, trained defender 3/15 round 1, attacker learns: ASR 50 %"
    )
    clock.now += 4000
    console.print(view._panel())
    assert "defender-only-seed-10  fresh attacker  1:06:40" in written(console)


def test_the_cursor_is_given_back_when_a_run_is_interrupted(clock: Clock) -> None:
    console = terminal()
    view = Screen(console)
    view.__enter__()
    view.stage("play", 3)
    view.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert written(console).rindex("\x1b[?25h") > written(console).rindex("\x1b[?25l")


def test_a_stage_that_goes_on_counts_what_was_done_before(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=200)
    view = Screen(console)
    view.stage("play", 10, done=7)
    clock.now += 5
    view.step(PLAY, TIMING)
    assert "co-evolution 8/10" in written(console)
    assert written(console).endswith("0:10 left\n")


def test_time_left_runs_down_while_a_step_takes_long(clock: Clock) -> None:
    view = Screen(terminal())
    view.stage("play", 3)
    clock.now += 60
    view.step(PLAY, TIMING)
    clock.now += 30

    def shown(view: Screen) -> str:
        console = Console(width=80, file=io.StringIO())
        console.print(view._panel())
        return written(console)

    assert "1:30 left" in shown(view)
    clock.now += 1000
    assert "0:00 left" in shown(view)


def test_an_evaluation_says_who_plays_whom(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=200)
    view = Screen(console)
    view.stage("evaluate", 4)
    row: dict[str, Any] = {
        "attacker": "vanilla seeds",
        "defender": "defender of round 1",
        "asr": 0.5,
        "compliance": 1.0,
    }
    view.step(row, {})
    assert "evaluation 1/4 vanilla seeds, defender of round 1: ASR 50%, compliance 100%" in written(console)
