"""Taking an attacker's output apart: thinking is never shown."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from magic_rl.text.think import marks_of, parse_attack, split_thoughts


@pytest.mark.parametrize(
    ("text", "thinking", "answer", "well_formed"),
    [
        ("<think>t</think><answer>a</answer>", "t", "a", True),
        ("\n<think>\nt\n</think>\n\n<answer>\na b\n</answer> ", "t", "a b", True),
        ("<think></think><answer></answer>", "", "", True),
        ("Sure! <think>t</think><answer>a</answer>", "t", "a", False),
        ("<think>t</think><answer>a</answer> bye", "t", "a", False),
        ("<think>t</think><answer>a</answer><answer>b</answer>", "t", "a", False),
        ("<think>t</think><think>u</think><answer>a</answer>", "t u", "a", False),
        ("<answer>a</answer><think>t</think>", "t", "a", False),
        ("<THINK>t</THINK><answer>a</answer>", "t", "a", False),
        ("<think>t</think><answer>a", "t", "a", False),
        ("<think>t</think>a", "t", "a", False),
        ("<think>t <answer>u</answer>", "t u", "", False),
        ("<think>t<answer>u</answer></think><answer>a</answer>", "t u", "a", False),
        ("<think>t<think>u</think>v</think><answer>a</answer>", "t u v", "a", False),
        ("t</think><answer>a</answer>", "t", "a", False),
        ("<answer>t</answer></think>a", "t", "a", False),
        ("<answer>a<think>t</think>b</answer>", "t", "a b", False),
        ("<answer>a<answer>b</answer>", "", "a b", False),
        ("just an answer", "", "just an answer", False),
        ("<think>t", "t", "", False),
        ("", "", "", False),
    ],
)
def test_an_output_is_taken_apart(text: str, thinking: str, answer: str, well_formed: bool) -> None:
    parsed = parse_attack(text)
    assert (parsed.thinking, parsed.answer, parsed.well_formed) == (thinking, answer, well_formed)


tags = st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "<Think>", "<", "think>", "</thi", "nk>", " "])


@given(pieces=st.lists(tags | st.just("word"), max_size=14))
def test_nothing_thought_is_ever_shown(pieces: list[str]) -> None:
    # Words are numbered so that each one in the answer can be traced back to its place.
    text = "".join(f" w{i} " if piece == "word" else piece for i, piece in enumerate(pieces))
    thinks = [(match.start(), match[0].lower()) for match in re.finditer(r"</?think>", text, re.IGNORECASE)]
    orphans = [
        at for n, (at, tag) in enumerate(thinks) if tag == "</think>" and (n == 0 or thinks[n - 1][1] == "</think>")
    ]
    answer = parse_attack(text).answer
    for shown in re.findall(r"w\d+", answer):
        at = text.index(f" {shown} ")
        before = [tag for position, tag in thinks if position < at]
        assert not before or before[-1] == "</think>"
        assert all(orphan < at for orphan in orphans)
    assert not re.search(r"</?(think|answer)>", answer, re.IGNORECASE)


@given(thinking=st.text(), answer=st.text())
def test_well_formed_output_comes_back_whole(thinking: str, answer: str) -> None:
    assume(re.search("</?(?:think|answer)>", f"{thinking} {answer}", re.IGNORECASE) is None)
    parsed = parse_attack(f"<think>{thinking}</think>\n<answer>{answer}</answer>")
    assert (parsed.thinking, parsed.answer, parsed.well_formed) == (thinking.strip(), answer.strip(), True)


@pytest.mark.parametrize(
    ("text", "thinking", "reply", "ended"),
    [
        ("<think>\nt\n</think>\n\na", "t", "a", True),
        ("t</think>a", "", "t</think>a", True),
        ("<think>t</think> <think>u</think>a", "t u", "a", True),
        ("<think></think>a", "", "a", True),
        ("Well. <think>t</think>a", "", "Well. <think>t</think>a", True),
        ("<think>t</think>a <think>b</think>", "t", "a <think>b</think>", True),
        ("<think>t</think>a</think>b", "t", "a</think>b", True),
        ("<think>t", "t", "", False),
        ("<think>t</think><think>u", "t u", "", False),
        (" a <think>\n", "", " a <think>\n", True),
        ("", "", "", True),
    ],
)
def test_thoughts_are_told_from_the_reply(text: str, thinking: str, reply: str, ended: bool) -> None:
    assert split_thoughts(text) == (thinking, reply, ended)


@pytest.mark.parametrize(
    ("clue", "said"),
    [
        ("[THINK]", "[THINK]t[/THINK]a"),
        ("<|channel|>analysis", "<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>final<|message|>a"),
        ("<|channel>", "<|channel>thought\nt<channel|>a"),
        ("<|START_THINKING|>", "<|START_THINKING|>t<|END_THINKING|><|START_RESPONSE|>a"),
        ("<seed:think>", "<seed:think>t</seed:think>a"),
        ("Here is my thought process:", "Here's my thought process: t\nHere is my response: a"),
    ],
)
def test_other_families_marks_are_read_as_thoughts(clue: str, said: str) -> None:
    marks = marks_of(f"{{{{ '{clue}' }}}}", ())
    assert marks == marks_of("", [clue])
    assert marks is not None
    assert split_thoughts(marks.spelled(said)) == ("t", "a", True)
    assert parse_attack(marks.spelled(said.removesuffix("a") + "<answer>a</answer>")).well_formed


def test_an_answer_in_the_final_channel_alone_is_a_reply() -> None:
    marks = marks_of("<|channel|>analysis", ())
    assert marks is not None
    assert split_thoughts(marks.spelled("<|channel|>final<|message|>a")) == ("", "a", True)


def test_a_model_without_marks_is_known_by_their_absence() -> None:
    assert marks_of("{{ messages[0].content }}<|im_end|>", ["<|im_end|>"]) is None
