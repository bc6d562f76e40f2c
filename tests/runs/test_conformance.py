"""The checks pass on a correct engine, and each known flaw of servers fails one of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.runs.conformance import conformance
from tests.support.tiny_engine import engine


def test_the_engine_in_this_process_conforms(tiny_model: Path) -> None:
    findings = list(conformance(engine(tiny_model)))
    assert len(findings) > 8
    assert [finding for finding in findings if not finding.holds] == []


@pytest.mark.parametrize(
    ("flaw", "fails"),
    [
        (None, set()),
        ("base for every adapter", {"samples are of a trained adapter", "samples of a snapshot are its own"}),
        ("latest for a snapshot", {"a snapshot stays as it is while its policy learns"}),
        ("drops gradients", {"two accumulated calls equal one"}),
        ("steps of size 0 step", {"a step of size 0 changes nothing"}),
    ],
)
def test_a_flaw_of_a_server_is_found(tiny_model: Path, tmp_path: Path, flaw: str | None, fails: set[str]) -> None:
    pytest.importorskip("tinker", reason="the extra 'tinker' is not installed")
    from tests.support.fake_tinker import FakeTinker

    config = tmp_path / "c.toml"
    with FakeTinker(tiny_model, flaw=flaw) as fake:  # type: ignore[arg-type]  # of the words above
        player = f"model = {json.dumps(fake.name)}\nlora.rank = 4\n"
        server = f'kind = "tinker"\ntinker.server = "tuft"\ntinker.url = "{fake.url}"\n'
        config.write_text(f"[attacker]\n{player}[defender]\n{player}[engine]\n{server}")
        done = CliRunner().invoke(app, ["engine", "check", str(config)])
    assert done.exit_code == (1 if flaw else 0), done.output
    failed = {line[2:].strip().partition(": ")[0] for line in done.stdout.splitlines() if line.startswith("NO")}
    assert fails <= failed if flaw else not failed
