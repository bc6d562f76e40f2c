"""Commands that must fail as user errors do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from typer.testing import CliRunner

from magic_rl.cli.main import app


def listing(folder: Path) -> set[str]:
    """Every path under a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused(args: Sequence[str | Path], folder: Path) -> str:
    """Run a command that must fail as a user error that leaves nothing behind; its one line on stderr."""
    before = listing(folder)
    result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert listing(folder) == before
    return lines[0]
