"""A run attacked in ways that it was not trained against, and its attacker against an endpoint."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.config import load_config
from magic_rl.evidence.items import read_items
from magic_rl.runs.seeds import split_of
from magic_rl.runs.train import train
from magic_rl.store.run import RunDirectory
from tests.conftest import TINY_CONFIG
from tests.runs.test_train import Silent
from tests.support.stub_server import Reply, Stub, completion


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, seeds_file: Path) -> RunDirectory:
    """A complete run on the tiny model."""
    folder = tmp_path_factory.mktemp("red")
    config = folder / "config.toml"
    config.write_text(TINY_CONFIG.format(model=json.dumps(str(tiny_model)), seeds=json.dumps(str(seeds_file))))
    return train(load_config(config), folder / "run", Silent())


def test_a_run_is_attacked_on_its_held_out_seeds_by_all_that_need_no_tool(
    trained: RunDirectory, tmp_path: Path
) -> None:
    attacks = "best-of-n,prefill,many-shot,multi-turn"
    words = ["redteam", str(trained.path), "--attacks", attacks, "--budget", "3", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    items = read_items(tmp_path / "items.jsonl")
    held_out = {
        seed.id for seed in split_of(load_config(trained.path / "config.toml").data).held_out if seed.label == "harmful"
    }
    assert {item.seed_id for item in items} == held_out
    assert Counter(item.set for item in items if not item.failed) == dict.fromkeys(
        attacks.split(","), 3 * len(held_out)
    )
    assert len({item.attack for item in items if item.set == "multi-turn"}) > len(held_out)
    for needed in ("worst case", "3.0 of 3", "prefill"):
        assert needed in result.stdout
    shutil.copy(tmp_path / "items.jsonl", tmp_path / "before")
    again = CliRunner().invoke(app, words, catch_exceptions=False)
    assert again.stdout == result.stdout
    assert (tmp_path / "items.jsonl").read_text() == (tmp_path / "before").read_text()


def test_a_trained_attacker_audits_an_endpoint_on_seeds_it_was_not_taught(
    trained: RunDirectory, tmp_path: Path
) -> None:
    with Stub(lambda _: Reply(body=completion("I'm sorry, I can't help with that."))) as stub:
        (tmp_path / "target.toml").write_text(f'url = "{stub.url}"\nmodel = "m"\n')
        words = ["audit", "--target", str(tmp_path / "target.toml"), "--attacker", str(trained.path), "--budget", "2"]
        words += ["--out", str(tmp_path / "out"), "--i-own-this-endpoint", "--per-minute", "10000"]
        url, result = stub.url, CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    found = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert (found["target"], found["queries"], found["findings"]) == (url, 4, [])
    assert list(found["rates"]["strategy"]) == ["trained attacker"]
    items = read_items(tmp_path / "out" / "items.jsonl")
    assert {asked.text for asked in stub.asked} == {item.attack for item in items if not item.failed}
