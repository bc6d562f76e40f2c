"""The examples run, and use only what `magic_rl` exports."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import magic_rl

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXAMPLES), *sys.path])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=EXAMPLES, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_imports_the_face_alone(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names} <= {"magic_rl", "numpy"}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_whole_game_is_learned_on_a_table() -> None:
    last = run("loop.py").splitlines()[-1]
    assert float(last.split()[-3]) < 0.05, last


@pytest.mark.slow
def test_the_whole_game_is_played_by_a_small_model() -> None:
    assert len(run("loop.py", "model").splitlines()) == 13


def test_the_theorem_holds_in_the_solved_example() -> None:
    lines = run("solve_exactly.py").splitlines()
    assert all(line.endswith("(safe)") for line in lines[:4])
    assert [float(line.split()[-1]) for line in lines[-2:]] == [0.0, 3.0]


def test_a_judge_of_ones_own_labels_two_replies() -> None:
    assert [line.split(maxsplit=4)[-1] for line in run("own_judge.py").splitlines()]


def test_every_exported_name_exists_and_no_other_is_listed() -> None:
    assert sorted(magic_rl.__all__) == sorted(magic_rl._HOME_OF)
    for name in magic_rl.__all__:
        assert getattr(magic_rl, name) is not None
    source = Path(magic_rl.__file__).read_text(encoding="utf-8")
    checked = ast.parse(source[source.index("if TYPE_CHECKING") : source.index("__version__")])
    seen = {alias.name for node in ast.walk(checked) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(magic_rl.__all__)
