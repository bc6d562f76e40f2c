"""Remembered labels are kept by a format's version, so whatever could change a label changes it."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest

from magic_rl.endpoints import harmless as marks
from magic_rl.judges import format as formats
from magic_rl.judges.guard import GUARDS
from magic_rl.judges.llm import Rubric

GUARD = """
from magic_rl.endpoints.base import ChatRequest
from magic_rl.judges.format import Labels, Question, versioned
from magic_rl.types import Message

def _safety(text):
    return "safe" if text == "no" else "unsafe"

class Guard:
    @property
    def version(self):
        return versioned("guard", self)

    def questions(self, exchange, *, prompts):
        return (Question(exchange.attack, exchange.reply),)

    def request(self, question):
        return ChatRequest((Message("user", question.prompt),))

    def read(self, question, text):
        return Labels(_safety(text), False)
"""


def loaded(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of this source, in place of an earlier one of the same name."""
    folder.mkdir()
    (folder / "made.py").write_text(source)
    spec = importlib.util.spec_from_file_location("made", folder / "made.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "made", module)
    spec.loader.exec_module(module)
    return module


def test_a_function_that_reading_relies_on_is_part_of_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {"first": GUARD, "same": GUARD, "other": GUARD.replace('== "no"', '!= "yes"')}
    versions = {name: loaded(tmp_path / name, source, monkeypatch).Guard().version for name, source in sources.items()}
    assert versions["first"] == versions["same"]
    assert versions["first"] != versions["other"]


def test_what_every_text_goes_through_on_its_way_to_a_server_is_part_of_every_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = [*GUARDS.values(), Rubric()]
    source = inspect.getsource(marks)
    versions = []
    for name, changed in (("same", source), ("other", source.replace("<</?SYS>>", "<</?SYSTEM>>"))):
        monkeypatch.setattr(formats, "harmless", loaded(tmp_path / name, changed, monkeypatch).harmless)
        versions.append([form.version for form in forms])
    same, other = versions
    monkeypatch.undo()
    assert same == [form.version for form in forms]
    assert not set(same) & set(other)
