"""A run's defender as a target: asked as it was trained, and known by its weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from magic_rl.chat.base import ChatRequest
from magic_rl.chat.local import LocalChat
from magic_rl.config import load_config
from magic_rl.runs.target import chat_of
from magic_rl.runs.train import train
from magic_rl.types import Message
from tests.support.chatting import Recording


def test_a_runs_defender_is_asked_as_trained_and_known_by_its_weights(
    tmp_path: Path, tiny_config: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(tiny_config, ['defender.system_prompt="Be brief."'])
    train(config, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    last, first, copied = (
        chat_of(str(tmp_path / name), number=n) for name, n in (("run", None), ("run", 0), ("copy", 1))
    )
    assert last.identity == copied.identity != first.identity
    assert isinstance(last, LocalChat)
    policy = Recording()
    monkeypatch.setattr(last, "_policy", policy)
    last.complete([ChatRequest((Message("user", "a request"),), 8)])
    (prompt,) = policy.prompts
    text = AutoTokenizer.from_pretrained(tiny_model).decode(list(prompt))
    assert "Be brief." in text
    assert text.index("Be brief.") < text.index("a request")
