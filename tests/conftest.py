"""Fixtures that many tests share: a model folder of a few kilobytes, seeds, and a config that trains in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from tests.support.tiny_llama import save_tiny_llama

# Checks annotated shapes in these modules at every call. The hook must be installed before they are imported.
SHAPED = ("attention", "inference", "layout", "lora", "packing", "sampling", "scoring")
install_import_hook(
    ["magic_rl.engines.losses", *(f"magic_rl.engines.local.{name}" for name in SHAPED)], "beartype.beartype"
)
# A busy machine must not make a test fail.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

TINY_CONFIG = """
[game.schedule]
rounds = 1
defender_steps = 1
attacker_steps = 1
[attacker]
model = {model}
batch_size = 2
strategies = ["question"]
[attacker.sampling]
max_tokens = 12
[attacker.sft]
steps = 1
batch_size = 2
[defender]
model = {model}
batch_size = 2
[defender.sampling]
max_tokens = 12
[judge]
max_abstained = 1.0
[data]
seeds = {seeds}
held_out_categories = ["c2"]
[learning]
group_size = 2
max_cut_off = 1.0
max_degenerate = 1.0
[engine]
device = "cpu"
dtype = "float32"
threads = 1
[evaluation]
max_reply_tokens = 12
"""


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make output the same in every terminal and CI service."""
    for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that samples noise."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def seeds_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seeds in three categories, with both labels in each."""
    path = tmp_path_factory.mktemp("seeds") / "seeds.jsonl"
    rows = [
        {"text": f"{label} request number {i} of category {c}", "label": label, "category": f"c{c}"}
        for c in range(3)
        for label in ("harmful", "benign")
        for i in range(2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_model: Path, seeds_file: Path) -> Path:
    """A config file for a whole run on the tiny model."""
    path = tmp_path / "tiny.toml"
    path.write_text(
        TINY_CONFIG.format(model=json.dumps(str(tiny_model)), seeds=json.dumps(str(seeds_file))), encoding="utf-8"
    )
    return path


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses before calls to servers are retried."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)
