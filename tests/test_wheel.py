"""The wheel is complete: installed without a checkout, its commands and the README's Python run."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.test_docs import ROOT, blocks


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built package."""
    out = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(ROOT)], check=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel, which takes its dependencies from the tests' environment."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    site = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(site, "below.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    bin_ = folder / "bin"
    pip = [str(bin_ / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True)
    return bin_


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    source = ROOT / "src"
    files = {str(path.relative_to(source)) for path in (source / "magic_rl").rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} <= set(ZipFile(wheel).namelist())


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["python", "-c", "import magic_rl, sys; assert magic_rl.__file__.startswith(sys.prefix)"],
        ["magic-rl", "demo", "--help"],
        ["python", "-m", "magic_rl", "version"],
        ["magic-rl", "init", "my.toml"],
        *(["python", "-c", block.values[0]] for block in blocks("python") if block.id.startswith("README")),
    ],
    ids=lambda command: " ".join(command[:3])[:20],
)
def test_a_wheel_works_without_a_checkout(fresh: Path, command: list[str], tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([fresh / command[0], *command[1:]], cwd=tmp_path, env=clean, check=True, capture_output=True)
    assert str(ROOT) not in (done.stdout + done.stderr).decode()
