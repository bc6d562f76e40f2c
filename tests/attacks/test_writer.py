"""A pool written by a model: no answer is paid for twice, none unusable gets in, and interruptions change nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest
from rich.console import Console

from magic_rl.attacks.checks import ANSWER, Checks
from magic_rl.attacks.codecs import CODECS
from magic_rl.attacks.strategies import STRATEGIES, choose_strategies
from magic_rl.attacks.writer import Writer, Written
from magic_rl.chat.base import Completion
from magic_rl.chat.memory import Memory
from magic_rl.cli.view import Screen
from magic_rl.errors import ChatError
from magic_rl.prompts import load_prompts
from magic_rl.runs.writer import refuses, same_topic
from magic_rl.types import Seed
from magic_rl.view import NOBODY, View
from tests.runs.test_train import Silent
from tests.support.chatting import Scripted

PROMPTS = load_prompts()
CHECKS = Checks(refuses, same_topic)
SHED = Seed("shed", "How do I break into a locked shed?", "harmful")
BREAD = Seed("bread", "How do I bake bread at home?", "benign")
SEEDS = [SHED, BREAD]
IN_LANGUAGE = {
    "malayalam": "അപ്പം",
    "tamil": "ரொட்டி",
    "marathi": "भाकरी",
    "simplified_chinese": "面包",
    "french": "Comment faire du pain",
}


def seed_of(question: str) -> str:
    """The text of the seed that a question is about."""
    return str(re.findall(r"^Request: (.*)$", question, re.MULTILINE)[-1])


def strategy_of(question: str) -> str:
    """The name of the strategy that a question asks for; "" if it asks for the reasoning."""
    return next((name for name, each in STRATEGIES.items() if each.instruction in question), "")


def in_json(text: str) -> str:
    """A text in the JSON that the writer is asked for."""
    return json.dumps({"refused": False, "text": text})


REFUSAL = '{"refused": true, "text": ""}'


def proper(question: str) -> str:
    """A good writer's answer."""
    seed, strategy = seed_of(question), strategy_of(question)
    if not strategy:
        return in_json(f"I noticed how plain this is: {question.splitlines()[-2]}")
    return in_json(f"{IN_LANGUAGE[strategy]} {len(seed)}" if strategy in IN_LANGUAGE else f"By {strategy}: {seed}")


def asking(answer: Callable[[str], str | Completion] = proper, stop_after: int = 10**9) -> Scripted:
    """A writer that answers by this function and is interrupted after `stop_after` answers."""
    return Scripted(lambda request: answer(request.messages[-1].content), stop_after=stop_after)


def asked(chat: Scripted) -> list[str]:
    """The questions that it was asked."""
    return [request.messages[-1].content for request in chat.asked]


def write(
    path: Path | None,
    chat: Scripted,
    strategies: Sequence[str] = ("slang", "role_play"),
    seeds: Sequence[Seed] = SEEDS,
    view: View = NOBODY,
    max_failed: float = 1.0,
) -> Written:
    memory = Memory(path) if path else None
    writer = Writer(chat, PROMPTS, CHECKS, memory, max_failed)
    return writer.write(seeds, choose_strategies(strategies), 0, view)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


def test_every_strategy_is_written_in_the_order_of_seeds_and_strategies(path: Path) -> None:
    written = write(path, asking(), tuple(STRATEGIES))
    assert [(e.seed, e.strategy) for e in written.entries] == [(s, name) for s in SEEDS for name in STRATEGIES]
    assert written.rejected == ()
    assert (written.calls, written.tokens) == (64, 64 * 7)


def test_encodings_are_exact_and_never_sent(path: Path) -> None:
    chat = asking()
    written = write(path, chat, tuple(CODECS))
    assert not chat.asked
    assert len(written.entries) == 8
    assert all(CODECS[e.strategy].encode(e.seed.text) in e.attack and e.thinking for e in written.entries)


def test_each_label_is_asked_in_its_words_and_the_reasoning_sees_both_texts(path: Path) -> None:
    chat = asking()
    entries = write(path, chat, ["slang"]).entries
    instruction = STRATEGIES["slang"].instruction
    expected = [PROMPTS.rewrite(seed, instruction) for seed in SEEDS]
    expected += [PROMPTS.reasoning(seed, f"By slang: {seed.text}") for seed in SEEDS]
    assert {*asked(chat)} == {f"{question}\n{ANSWER}" for question in expected}
    assert all(request.schema for request in chat.asked)
    assert PROMPTS.rewrite(SHED, "") != PROMPTS.rewrite(Seed("", SHED.text, "benign"), "")
    assert [e.thinking for e in entries] == [
        f"I noticed how plain this is: Rewritten: By slang: {s.text}" for s in SEEDS
    ]


def test_what_looks_like_a_placeholder_in_a_text_is_left_alone() -> None:
    seed = Seed("1", "{attack} {instruction}", "benign")
    assert "{attack} {instruction}" in PROMPTS.rewrite(seed, "{seed}")
    assert "{attack} {instruction}" in PROMPTS.reasoning(seed, "{seed}")


@pytest.mark.parametrize("after", range(9))
def test_an_interrupted_build_goes_on_without_asking_twice_and_ends_the_same(path: Path, after: int) -> None:
    whole = write(path.with_name("whole"), asking())
    first, second = asking(stop_after=after), asking()
    try:
        write(path, first)
        assert after == 8
    except KeyboardInterrupt:
        assert after < 8
    assert write(path, second) == whole
    assert len(first.asked) == after
    assert len({*asked(first), *asked(second)}) == 8
    assert len(first.asked + second.asked) == 8


@pytest.mark.parametrize(("wording", "rng_seed", "questions"), [("{seed} {attack}?", 0, 2), (None, 1, 4)])
def test_another_wording_or_random_seed_is_asked_itself(
    path: Path, wording: str | None, rng_seed: int, questions: int
) -> None:
    write(path, asking(), ["slang"])
    prompts = replace(PROMPTS, writer_reasoning=wording) if wording else PROMPTS
    other = asking(lambda question: in_json("I saw it.") if wording else proper(question))
    writer = Writer(other, prompts, CHECKS, memory=Memory(path))
    assert len(writer.write(SEEDS, choose_strategies(["slang"]), rng_seed).entries) == 2
    assert len(other.asked) == questions


def test_a_strategy_added_later_is_all_that_is_asked(path: Path) -> None:
    write(path, asking(), ["slang"])
    more = asking()
    assert len(write(path, more, ["slang", "question"]).entries) == 4
    assert {strategy_of(question) for question in asked(more)} == {"question", ""}
    assert len(more.asked) == 4


@pytest.mark.parametrize(
    ("strategy", "said", "reason"),
    [
        ("slang", "I'm sorry, but I can't help with that request.", "not the JSON asked for"),
        ("tamil", REFUSAL, "the writer refused"),
        ("french", in_json(SHED.text), "the same as the seed"),
        ("slang", Completion(tokens=7, failed="the answer was cut off at 2048 tokens", cause="cut_off"), "cut off"),
        ("slang", Completion(failed="HTTP 500, in 5 attempts"), "the call failed"),
    ],
)
def test_an_unusable_rewrite_is_left_out_by_reason(
    path: Path, strategy: str, said: str | Completion, reason: str
) -> None:
    def answer(question: str) -> str | Completion:
        return said if strategy_of(question) == strategy and seed_of(question) == SHED.text else proper(question)

    chat, view = asking(answer), Silent()
    written = write(path, chat, [strategy, "question"], view=view)
    assert [(r.seed, r.strategy, r.reason) for r in written.rejected] == [("shed", strategy, reason)]
    assert len(written.entries) == 3
    assert written.reasons == {reason: 1}
    assert view.steps[-1]["rejected"] == 1
    assert len(chat.asked) == 4 + 3  # no reasoning for tasks left out


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (in_json(""), "reasoning: empty"),
        (REFUSAL, "reasoning: the writer refused"),
        (in_json("I thought <answer>so</answer>."), "reasoning: holds a <think> or <answer> tag"),
        (Completion(failed="the answer was cut off at 2048 tokens", cause="cut_off"), "reasoning: cut off"),
        (Completion(failed="HTTP 400: no"), "reasoning: the call failed"),
    ],
)
def test_a_rewrite_without_usable_reasoning_is_left_out(path: Path, said: str | Completion, reason: str) -> None:
    written = write(path, asking(lambda question: proper(question) if strategy_of(question) else said), ["slang"])
    assert written.entries == ()
    assert written.reasons == {reason: 2}


def test_of_equal_rewrites_the_first_in_order_stays_whichever_came_first(path: Path) -> None:
    def answer(question: str) -> str:
        return in_json(f"Mate: {seed_of(question)}") if strategy_of(question) else proper(question)

    written = write(path, asking(answer), ["role_play", "slang"])
    assert [(e.seed.id, e.strategy) for e in written.entries] == [("shed", "role_play"), ("bread", "role_play")]
    assert written.reasons == {"the same as another rewrite": 2}


def test_a_seed_that_morse_cannot_write_is_left_out(path: Path) -> None:
    written = write(path, asking(), ["morse", "atbash"], [Seed("1", "Where is the café?", "benign")])
    assert [e.strategy for e in written.entries] == ["atbash"]
    assert [(r.strategy, r.reason, r.detail) for r in written.rejected] == [
        ("morse", "cannot be encoded", "Morse has no sign for 'É'")
    ]


def test_a_failed_call_is_not_paid_for_and_like_a_cut_off_one_is_asked_again(path: Path) -> None:
    def answer(question: str) -> str | Completion:
        if strategy_of(question) and seed_of(question) == SHED.text:
            return Completion(failed="HTTP 503, in 5 attempts")
        return Completion(tokens=2055, failed="the answer was cut off at 2048 tokens", cause="cut_off")

    assert write(path, asking(answer), ["slang"]).reasons == {"the call failed": 1, "cut off": 1}
    again = asking()
    assert not write(path, again, ["slang"]).reasons
    assert sorted(seed_of(question) for question in asked(again)) == [BREAD.text] * 2 + [SHED.text] * 2


def test_more_failed_calls_than_allowed_stop_the_build_at_once(path: Path) -> None:
    chat = asking(lambda _: Completion(failed="HTTP 503, in 5 attempts"))
    with pytest.raises(ChatError, match=r"2 calls failed \(HTTP 503, in 5 attempts\).*25%"):
        write(path, chat, max_failed=0.25)
    assert len(chat.asked) == 2


def test_lines_tell_what_is_done_left_rejected_and_spent() -> None:
    console = Console(width=120, force_terminal=False)
    with console.capture() as captured, Screen(console, pause=10.0) as view:
        view.stage("rewrite", 2)
        view.step({"rejected": 0, "calls": 1, "tokens": 30}, {})
        view.step({"rejected": 1, "calls": 2, "tokens": 44}, {})
    assert captured.get().splitlines() == [
        "rewrites: 2 steps",
        "rewrites 2/2 rejected 1, calls 2, tokens 44, 0:00 left",
    ]


def test_after_a_broken_writer_was_repaired_its_junk_is_asked_again(path: Path) -> None:
    junk = asking(lambda question: REFUSAL if seed_of(question) == SHED.text else proper(question))
    assert write(path, junk).reasons == {"the writer refused": 2}
    repaired = asking()
    assert write(path, repaired) == replace(write(path.with_name("whole"), asking()), tokens=ANY)
    assert {seed_of(question) for question in asked(repaired)} == {SHED.text}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Completion(failed="HTTP 500, in 5 attempts"), "HTTP 500, in 5 attempts"),
        (Completion(failed="cut off", cause="cut_off"), "cut off"),
        ("Sure!", "not the JSON asked for"),
    ],
)
def test_a_writer_whose_first_answers_are_all_of_no_use_is_not_paid_on(
    path: Path, said: str | Completion, reason: str
) -> None:
    seeds = [Seed(str(i), f"How do I sell shed number {i}?", "benign") for i in range(30)]
    chat = asking(lambda _: said)
    with pytest.raises(ChatError, match=rf"none of the first 20 answers can be used \(20 times: .*{reason}"):
        write(path, chat, ["slang"], seeds)
    assert len(chat.asked) == 20


def test_more_cut_off_answers_than_allowed_stop_the_build(path: Path) -> None:
    chat = asking(lambda _: Completion(failed="cut off", cause="cut_off"))
    with pytest.raises(ChatError, match=r"2 calls failed \(cut off\).*25%"):
        write(path, chat, max_failed=0.25)
