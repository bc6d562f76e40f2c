"""Claims about what imports what: the rooms keep their rules, and the package declares what it uses."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "magic_rl"


def lint(source: Path) -> subprocess.CompletedProcess[str]:
    """Apply the import rules of pyproject.toml to a copy of the source."""
    code = (
        f"import sys; sys.path.insert(0, {str(source)!r})\n"
        "from importlinter.cli import lint_imports\n"
        f"sys.exit(lint_imports(config_filename={str(ROOT / 'pyproject.toml')!r}, cache_dir=None))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=source, check=False)


def test_the_rooms_keep_the_import_rules() -> None:
    done = lint(ROOT / "src")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("game", "import torch"),
        ("game", "from pathlib import Path"),
        ("game", "from magic_rl.engines.base import Policy"),
        ("game", "from magic_rl.judges.base import Judge"),
        ("text", "from magic_rl.game.play import play"),
        ("engines", "from magic_rl.learning.coevolve import coevolve"),
        ("judges", "from magic_rl.engines.base import Policy"),
        ("store", "from magic_rl.learning.coevolve import Step"),
        ("attacks", "from magic_rl.judges.base import Judge"),
        ("learning", "from magic_rl.evaluation.estimates import rate"),
        ("evaluation", "from magic_rl.learning.fluency import Fluency"),
        ("evidence", "from magic_rl.engines.base import Policy"),
        ("report", "from magic_rl.engines.base import Policy"),
        ("runs", "from magic_rl.engines.tinker.engine import TinkerEngine"),
        ("runs", "from magic_rl.engines.vllm.engine import served"),
    ],
)
def test_an_import_against_the_rules_is_caught(tmp_path: Path, room: str, line: str) -> None:
    shutil.copytree(SOURCE, tmp_path / "magic_rl", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "magic_rl" / room / "intruder.py").write_text(f"def later() -> None:\n    {line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout
    assert f"magic_rl.{room}.intruder" in done.stdout


def test_a_new_room_must_be_given_its_place(tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "magic_rl", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "magic_rl" / "attic.py").write_text("")
    assert lint(tmp_path).returncode == 1


def test_everything_imported_is_declared_as_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]  # each imported by one command only
    known = [*project["dependencies"], *extras["eval"], *extras["serve"], *extras["tinker"]]
    declared = {normal(re.split(r"[<>=!~\[; ]", line)[0]) for line in known}
    providers = packages_distributions()
    used: dict[str, str] = {}
    elsewhere = ("drivers", "tools")  # of `evidence`: they run in separate environments
    for path in SOURCE.rglob("*.py"):
        if {*elsewhere} & {*path.parts}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            used |= {name.split(".")[0]: path.name for name in names}
    foreign = {name: where for name, where in used.items() if name not in {*sys.stdlib_module_names, "magic_rl"}}
    missing = {
        name: where
        for name, where in foreign.items()
        if not declared & {normal(distribution) for distribution in providers.get(name, [name])}
    }
    assert missing == {}


def test_every_dependency_is_pinned_within_its_range() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[normal(name)] = version
    for line in (*project["dependencies"], *extras["dev"], *extras["docs"]):
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[normal(requirement.name)]), line


def normal(name: str) -> str:
    """A distribution's name in normalised form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_nothing_below_the_command_line_names_a_flag_or_a_command() -> None:
    named = re.compile(r"magic-rl |(?<![\w-])--[a-z]")
    ours = (path for path in SOURCE.rglob("*.py") if SOURCE / "cli" not in path.parents)
    found = [
        line.strip() for path in ours for line in path.read_text(encoding="utf-8").splitlines() if named.search(line)
    ]
    of_pip_and_css = ("command = ", "command += ", "style += ")
    assert [line for line in found if not line.startswith(of_pip_and_css)] == []


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_no_file_and_no_function_is_longer_than_a_reader_bears() -> None:
    long = []
    for path in (*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")):
        long += [path.name] * (len(path.read_text(encoding="utf-8").splitlines()) > 400)
        functions = functions_of(path) if SOURCE in path.parents else []
        long += [f"{path.name}: {f.name}" for f in functions if (f.end_lineno or 0) - f.lineno >= 60]
    assert long == []


def test_no_function_takes_more_than_five_things() -> None:
    theirs = {
        "local/attention.py: shared_prefix_attention",  # transformers calls it
        "local/engine.py: __init__",  # a public class, whose parameters all have defaults
        "local/lora.py: forward",  # of an autograd function: each tensor is a parameter of its own
        "runs/inspected.py: __init__",  # Inspect calls it
    }
    many = set()
    for path in SOURCE.rglob("*.py"):
        for f in functions_of(path) if path.parent != SOURCE / "cli" else []:  # there each parameter is an option
            taken = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs, f.args.vararg, f.args.kwarg]
            count = len([each for each in taken if each and each.arg not in ("self", "cls")])
            many |= {f"{path.parent.name}/{path.name}: {f.name}"} if count > 5 else set()
    assert many == theirs


def test_every_module_is_imported_where_there_is_no_posix(tmp_path: Path) -> None:
    """As on Windows: POSIX modules are missing for our code only, since dependencies handle that themselves."""
    code = """
import builtins, importlib, os, pkgutil, signal, sys
import magic_rl
names = [found.name for found in pkgutil.walk_packages(magic_rl.__path__, "magic_rl.") if "__main__" not in found.name]
def load():
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if str(error.name) not in OPTIONAL:
                raise
OPTIONAL = ("nanogcg", "pyrit")
load()
real, posix = builtins.__import__, {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
def windows(name, where=None, *rest, **more):
    if name in posix and str((where or {}).get("__name__")).startswith("magic_rl"):
        raise ModuleNotFoundError(name)
    return real(name, where, *rest, **more)
builtins.__import__ = windows
for name in ("fork", "getuid", "killpg", "sched_getaffinity", "setsid", "sysconf", "uname"):
    delattr(os, name)
del signal.SIGHUP, signal.SIGKILL
for name in [name for name in sys.modules if name.startswith("magic_rl.")]:
    del sys.modules[name]
load()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
