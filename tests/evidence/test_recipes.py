"""Claims about recipes: they fit the endpoint that they are written for, and garak runs with its recipe unchanged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.errors import UserError
from magic_rl.evidence.recipes import TOOLS, write_recipes
from tests.support.serving import served

URL = "http://127.0.0.1:8111/v1"
GARAK = Path(os.environ.get("MAGIC_RL_GARAK") or Path(sys.prefix) / "garak") / "bin"


def test_each_tool_gets_a_folder_with_a_command_and_the_endpoint(tmp_path: Path) -> None:
    asked = ["recipes", URL, "--out", str(tmp_path / "out"), "--model", "owner/model-1"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert {folder.name for folder in (tmp_path / "out").iterdir()} == set(TOOLS)
    for tool in TOOLS:
        texts = [file.read_text() for file in (tmp_path / "out" / tool).iterdir()]
        assert any(URL in text and "owner/model-1" in text for text in texts), tool
        assert not any("@URL@" in text or "@MODEL@" in text for text in texts), tool
        assert "```bash" in (tmp_path / "out" / tool / "README.md").read_text()


def test_only_the_tools_that_are_asked_for_are_written(tmp_path: Path) -> None:
    assert write_recipes(URL, tmp_path, "m", ["garak"]) == [tmp_path / "garak"]
    assert [path.name for path in tmp_path.iterdir()] == ["garak"]


@pytest.mark.parametrize(
    ("url", "model", "only", "named"),
    [
        ("127.0.0.1:8000", "m", [], "127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "m", [], "add the path, such as /v1"),
        ('http://here/v1"\nstop: ["#"]', "m", [], "here"),
        (URL, 'm", "x', [], "serve it under a plainer name"),
        (URL, "m", ["garak", "hammer"], "hammer"),
    ],
)
def test_what_no_config_could_hold_is_refused(
    tmp_path: Path, url: str, model: str, only: list[str], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        write_recipes(url, tmp_path / "out", model, only)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pyrit").mkdir()
    with pytest.raises(UserError, match="pyrit: already exists"):
        write_recipes(URL, tmp_path, "m")
    assert [path.name for path in tmp_path.iterdir()] == ["pyrit"]


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.skipif(not GARAK.exists(), reason=f"no garak at {GARAK}; `make test-all` sets it up")
def test_garak_completes_a_scan_of_the_default_model_by_the_recipe(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    with served("default") as server:
        (folder,) = write_recipes(server.url, tmp_path, server.name, ["garak"])
        command = re.findall(r"```bash\n.*\n(.*)\n```", (folder / "README.md").read_text())[0]
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env={**env, "PATH": f"{GARAK}:{env['PATH']}", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert server.log.read_text() == ""
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    (report,) = (folder / "garak" / "garak_runs").glob("*.report.jsonl")
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    asked = [row for row in rows if row["entry_type"] == "attempt" and row["status"] == 2]
    assert len(asked) == 5
    assert all(row["outputs"][0]["text"] for row in asked)
    assert {row["probe"] for row in rows if row["entry_type"] == "eval"} >= {"dan.STAN", "encoding.InjectMorse"}
