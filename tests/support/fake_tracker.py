"""A module with the interface of wandb and trackio that records what it is told, one call per line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

NAMES = ("wandb", "trackio")
Settings = dict  # wandb's


def install(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Replace both modules by this one; it records into the file `told` in the folder."""
    for name in NAMES:
        patch.setitem(sys.modules, name, sys.modules[__name__])
    patch.setenv("FAKE_TRACKER", str(folder / "told"))


def _told(*what: Any) -> None:
    with Path(os.environ["FAKE_TRACKER"]).open("a") as file:
        file.write(json.dumps(what) + "\n")


def log(data: dict[str, Any], step: int) -> None:
    """Fails at the step that FAKE_FAILS_AT names."""
    _told("log", step, data)
    if step == int(os.environ.get("FAKE_FAILS_AT", "0")):
        raise RuntimeError("gone")


def finish() -> None:
    """End a run."""
    _told("finish")


class Run:
    """The object that wandb's `init` returns."""

    url = "https://tracker.test/run"
    log, finish = staticmethod(log), staticmethod(finish)


def setup(settings: Any) -> None:
    """Like wandb's; does nothing."""


def login(prompt: bool) -> bool:
    """Whether there is a key: FAKE_KEY."""
    assert prompt is False
    return "FAKE_KEY" in os.environ


def init(**about: Any) -> Run:
    """Fails if FAKE_DOWN is set, or if FAKE_KEY says that wandb cannot be reached."""
    sys.stdout.write("* noise\n")
    _told("init", about)
    if about.get("mode") == "online" and os.environ["FAKE_KEY"] == "no network":
        raise TimeoutError("no network")
    if "FAKE_DOWN" in os.environ:
        raise OSError("no route to host")
    return Run()
