"""The memory of answers: nothing is paid for twice, labels are read again each time, and a broken file stops no run."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from magic_rl.chat.base import ChatRequest, Completion
from magic_rl.chat.memory import Memory, UnusableError, ask
from magic_rl.errors import StoreError
from magic_rl.judges import guards
from magic_rl.judges.format import Format
from magic_rl.judges.guards import GUARDS
from magic_rl.judges.model import ModelJudge
from magic_rl.types import Exchange, Seed
from tests.support.chatting import Scripted, requests

REQUEST = requests(1)[0]
SAFE, UNSAFE = "Safety: Safe\nCategories: None\nRefusal: No", "Safety: Unsafe\nCategories: PII\nRefusal: No"


def upper(_: int, text: str) -> str:
    """Reads any answer except a question mark."""
    if text == "?":
        raise UnusableError("no answer")
    return text.upper()


def echo(request: ChatRequest) -> str:
    return request.messages[-1].content


def test_what_was_usable_is_remembered_and_what_was_not_is_asked_again(tmp_path: Path) -> None:
    said: dict[str, str | Completion] = {
        "question 0": "yes",
        "question 1": "?",
        "question 2": Completion(failed="HTTP 500"),
    }
    first, second = (Scripted(lambda request: said[echo(request)]) for _ in range(2))
    before = ask(first, requests(3), upper, Memory(tmp_path / "m"))
    told: dict[int, Completion] = {}
    after = ask(second, requests(3), upper, Memory(tmp_path / "m"), told.__setitem__)
    assert before == after == ["YES", Completion("?", 7, "no answer", "unusable"), said["question 2"]]
    assert [len(first.asked), len(second.asked)] == [3, 2]
    assert told[0] == Completion("yes", 7, remembered=True)
    assert len(told) == 3


def test_equal_requests_are_asked_once_and_answered_each() -> None:
    model = Scripted(echo)
    assert ask(model, [*requests(2), *requests(2)], upper) == ["QUESTION 0", "QUESTION 1"] * 2
    assert len(model.asked) == 2


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, max_tokens=7),
        replace(REQUEST, temperature=1.0),
        replace(REQUEST, template="x"),
        replace(REQUEST, template_kwargs={"guideline": "x"}),
        replace(REQUEST, schema={"type": "object"}),
        replace(REQUEST, sample=1),
        requests(2)[1],
    ],
)
def test_another_request_or_model_is_another_memory(other: ChatRequest, tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m")
    memory.remember("one", REQUEST, Completion("yes", 5))
    assert memory.recall("one", [other, REQUEST]) == {1: Completion("yes", 5, remembered=True)}
    assert memory.recall("two", [REQUEST]) == {}


def test_thousands_of_answers_are_recalled_at_once(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m")
    for i in (0, 400, 800):
        memory.remember("one", requests(1200)[i], Completion(str(i)))
    known = Memory(tmp_path / "m").recall("one", requests(1200))
    assert {place: answer.text for place, answer in known.items()} == {0: "0", 400: "400", 800: "800"}


def edited(change: Callable[[str], str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Format:
    """Qwen3Guard's format from a changed copy of its module."""
    source = Path(guards.__file__).read_text()
    assert change(source) != source
    (folder / "edited.py").write_text(change(source))
    spec = importlib.util.spec_from_file_location("edited", folder / "edited.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "edited", module)
    spec.loader.exec_module(module)
    form: Format = module.GUARDS["qwen3guard"]
    return form


@pytest.mark.parametrize(
    ("change", "safety"),
    [
        (lambda source: source.replace('"""Three lines', '# As the card says.\n    """Three lines'), "unsafe"),
        (lambda source: source.replace('"Unsafe": "unsafe"', '"Unsafe": "controversial"'), "controversial"),
    ],
    ids=["comment", "parser"],
)
def test_a_format_that_is_edited_costs_no_call_and_is_read_again(
    change: Callable[[str], str], safety: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = Exchange(Seed("s", "a request", "harmful"), "a prompt", "Sure, here is how.")
    first, second = Scripted(lambda _: UNSAFE), Scripted(lambda _: UNSAFE)
    said = []
    for form, model in ((GUARDS["qwen3guard"], first), (edited(change, tmp_path, monkeypatch), second)):
        judge = ModelJudge(form, model, label_request=False, memory=Memory(tmp_path / "m"))
        said += [verdict.safety for verdict in judge.judge([exchange])]
    assert said == ["unsafe", safety]
    assert [len(first.asked), len(second.asked)] == [1, 0]


def test_another_server_of_the_same_models_name_is_asked_itself(tmp_path: Path) -> None:
    exchange = Exchange(Seed("s", "a request", "harmful"), "a prompt", "Sure, here is how.")
    for identity, text, safety in (("http://one guard", UNSAFE, "unsafe"), ("http://two guard", SAFE, "safe")):
        model = Scripted(lambda _, text=text: text, identity)  # type: ignore[misc] # mypy does not know defaults of lambdas
        judge = ModelJudge(GUARDS["qwen3guard"], model, label_request=False, memory=Memory(tmp_path / "m"))
        assert [verdict.safety for verdict in judge.judge([exchange])] == [safety]


def lost(path: Path) -> None:
    with sqlite3.connect(path) as base:
        base.execute("DROP TABLE answers")


def corrupt(path: Path) -> None:
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(path.read_bytes()[:1024] + os.urandom(len(path.read_bytes()) - 1024))


@pytest.mark.parametrize("trouble", [lost, corrupt, None], ids=["lost", "corrupt", "full"])
def test_a_memory_in_trouble_is_one_line_and_loses_no_answer(
    trouble: Callable[[Path], None] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(tmp_path / "m")
    for request in requests(50, template="x" * 1000):
        memory.remember("here", request, Completion("yes" * 1000))
    if trouble is None:
        (pages,) = memory._base.execute("PRAGMA page_count").fetchone()
        memory._base.execute(f"PRAGMA max_page_count = {pages}")  # as a full disk does
    else:
        trouble(tmp_path / "m")
    assert ask(Scripted(lambda _: "no" * 9000), requests(9), upper, memory) == ["NO" * 9000] * 9
    assert caplog.text.count("continuing without what it remembers") == 1


def test_a_file_that_is_no_memory_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("not a database" * 100)
    with pytest.raises(StoreError, match=rf"^{tmp_path}/m: [^\n]*not a database[^\n]*$"):
        Memory(tmp_path / "m")


WRITE = """
import sys
from pathlib import Path
from magic_rl.chat.base import ChatRequest, Completion
from magic_rl.chat.memory import Memory
from magic_rl.types import Message
memory = Memory(Path(sys.argv[1]))
for i in range(int(sys.argv[2]), 300, 3):
    memory.remember("one", ChatRequest((Message("user", f"question {i}"),)), Completion(f"question {i}"))
"""


def test_several_processes_write_one_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path / "m")]
    writers = [subprocess.Popen([*command, str(i)], stderr=subprocess.PIPE, text=True) for i in range(3)]
    for writer in writers:
        _, complaint = writer.communicate(timeout=120)
        assert (writer.returncode, complaint) == (0, "")
    known = Memory(tmp_path / "m").recall("one", requests(300))
    assert [known[i].text for i in range(300)] == [f"question {i}" for i in range(300)]
