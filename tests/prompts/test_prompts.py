"""The words of the roles: complete, replaceable file by file, and safe against braces in the values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from magic_rl.errors import UserError
from magic_rl.prompts import load_prompts
from magic_rl.types import Seed

HARMFUL, BENIGN = Seed("h", "a {reply} {seed} {0}", "harmful"), Seed("b", "a {reply} {seed} {0}", "benign")


@pytest.mark.parametrize("folder", ["", "brief", "paper"])
def test_each_label_has_its_task_and_braces_in_a_seed_stay(folder: str) -> None:
    prompts = load_prompts(folder)
    tasks = [prompts.attacker(HARMFUL), prompts.attacker(BENIGN)]
    assert tasks[0] != tasks[1]
    assert all(task.endswith(f"Request: {HARMFUL.text}") for task in tasks)  # what varies comes last
    assert prompts.next_attack("{seed} {reply}").endswith("{seed} {reply}")
    assert prompts.defender("{attack}").endswith("{attack}")


def test_the_defender_reads_the_attack_alone_unless_asked_as_in_the_paper() -> None:
    shown = {folder: load_prompts(folder).defender("Hi?") for folder in ("", "brief", "paper")}
    assert shown == {"": "Hi?", "brief": "Hi?", "paper": "Question:\nHi?"}


def test_brief_prompts_are_a_fraction_of_the_full_ones() -> None:
    full, brief = load_prompts(), load_prompts("brief")
    for label in (HARMFUL, BENIGN):
        assert len(brief.attacker_system + brief.attacker(label)) < len(full.attacker_system + full.attacker(label)) / 4


def test_full_prompts_show_a_format_that_parses_as_well_formed() -> None:
    shown = re.search(r"<think>.*</answer>", load_prompts().attacker_harmful)
    assert shown is not None
    assert re.findall(r"</?\w+>", shown[0]) == ["<think>", "</think>", "<answer>", "</answer>"]


def test_refusals_are_many_short_and_different() -> None:
    refusals = load_prompts().refusals.splitlines()
    assert len(refusals) == len(set(refusals)) == 14
    assert all(8 <= len(refusal.split()) <= 20 for refusal in refusals)


def test_a_users_file_replaces_the_built_in_one_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "defender_user.txt").write_text("Q: {attack}\nA:\n")
    (tmp_path / "notes.md").write_text("no prompt")
    prompts = load_prompts(str(tmp_path))
    assert prompts.defender("why?") == "Q: why?\nA:"
    assert prompts.attacker_system == load_prompts().attacker_system


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("defender.txt", "{attack}", "unknown prompt"),
        ("defender_user.txt", "Question:", "lacks its placeholder {attack}"),
        ("defender_user.txt", "{attack} {seed}", "unknown placeholder {seed}"),
        ("attacker_system.txt", "{seed}", "unknown placeholder {seed}; there are none here"),
        ("refusals.txt", "No.\n\nNever.", "has an empty line"),
        ("refusals.txt", "", "has an empty line"),
    ],
)
def test_a_faulty_prompt_file_is_named_in_one_line(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=rf"^{re.escape(str(tmp_path / file))}: {re.escape(complaint)}[^\n]*$"):
        load_prompts(str(tmp_path))


def test_prompts_that_are_no_text_or_no_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "refusals.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"refusals\.txt:1: is not UTF-8"):
        load_prompts(str(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        load_prompts(str(tmp_path / "nowhere"))
