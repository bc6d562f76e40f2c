"""Taking an attacker's output apart: thinking is never shown."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from magic_rl.text.think import parse_attack


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
    # Words are numbered so that each one in the answer can be traced back to where it stood.
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
