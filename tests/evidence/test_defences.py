"""Defences as chats around a chat: what reaches the model, what comes back, what it costs, what an error does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from magic_rl.chat.base import Chat, ChatRequest, Completion
from magic_rl.evidence.defences import (
    DEFENCES,
    REFUSAL,
    DefendedChat,
    guard_in_front,
    perturbed,
    safety_prompt,
    self_eval,
    smoothllm,
)
from magic_rl.judges.format import Format
from magic_rl.judges.guards import GUARDS
from magic_rl.judges.rubric import Rubric
from magic_rl.rng import generator
from magic_rl.types import Message
from tests.support.chatting import Scripted

NO = "I'm sorry, but I can't do that."
FAILED = Completion(tokens=3, failed="HTTP 500")


def asked(*texts: str, system: str = "") -> list[ChatRequest]:
    before = (Message("system", system),) if system else ()
    return [ChatRequest((*before, Message("user", text)), 64, beginning=True) for text in texts]


def last(request: ChatRequest) -> str:
    return request.messages[-1].content


def answers(chat: Chat, requests: Sequence[ChatRequest]) -> list[str | None]:
    """Texts in order; None for failures. `done` gets the same completions, once each."""
    told: list[tuple[int, Completion]] = []
    out = chat.complete(requests, lambda place, completion: told.append((place, completion)))
    assert told == list(enumerate(out))
    assert all(not each.text for each in out if each.failed)
    return [None if each.failed else each.text for each in out]


def test_a_safety_prompt_stands_in_front_of_the_callers_own() -> None:
    model = Scripted(last)
    assert answers(safety_prompt(model), asked("a", "b")) == ["a", "b"]
    safety_prompt(model).complete(asked("c", system="Be brief."))
    first, *_, joined = model.asked
    assert [message.role for message in first.messages] == ["system", "user"]
    assert joined.messages[0].content == f"{first.messages[0].content}\n\nBe brief."


# --- Self-Eval --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("look", "reply"),
    [
        ("No.", "a reply"),
        ("no, this is not harmful", "a reply"),
        ("**Yes**, because", REFUSAL),
        ("<think>Is it? No…</think>Yes", REFUSAL),
        ("Nobody could say.", None),
        ("", None),
        (FAILED, None),
    ],
)
def test_what_a_model_calls_harmful_of_its_own_is_refused(look: str | Completion, reply: str | None) -> None:
    model = Scripted(lambda request: "a reply" if last(request) == "a request" else look)
    (said,) = self_eval(model).complete(asked("a request"))
    assert (None if said.failed else said.text) == reply
    assert said.tokens == 7 + (look.tokens if isinstance(look, Completion) else 7)
    assert "a request" not in last(model.asked[1])
    assert "a reply" in last(model.asked[1])


def test_a_reply_that_never_came_is_not_looked_at() -> None:
    model = Scripted(
        lambda request: FAILED if last(request) == "b" else "No" if "a reply" in last(request) else "a reply"
    )
    assert answers(self_eval(model), asked("a", "b", "c")) == ["a reply", None, "a reply"]
    assert len(model.asked) == 5


# --- SmoothLLM --------------------------------------------------------------------------------------------------


def test_a_tenth_of_the_characters_is_swapped_as_the_draw_says() -> None:
    text = "é" * 40  # a character that is never drawn
    one, again, other = (perturbed(text, 0.1, generator(seed, 0, text)) for seed in (0, 0, 1))
    assert one == again != other
    assert (len(one), sum(char != "é" for char in one)) == (40, 4)
    assert perturbed("short", 0.1, generator(0, 0, "short")) == "short"


@pytest.mark.parametrize(
    ("refused", "answered"), [((), True), ((0, 3), True), ((1, 2), True), ((0, 1, 4), False), ((0, 1, 2, 3, 4), False)]
)
def test_the_majority_of_five_copies_decides(refused: Sequence[int], answered: bool) -> None:
    model = Scripted(lambda request: NO if request.sample in refused else f"Here you are, number {request.sample}.")
    (said,) = smoothllm(model, copies=5).complete(asked("x" * 50))
    assert (said.text != NO) == answered
    assert said.tokens == 35
    assert len({last(request) for request in model.asked}) == 5


def test_half_of_the_copies_is_no_majority() -> None:
    model = Scripted(lambda request: NO if request.sample % 2 else "Here you are.")
    assert answers(smoothllm(model, copies=4), asked("a request")) == [NO]


def test_an_error_in_one_copy_is_an_error_and_no_answer() -> None:
    model = Scripted(lambda request: FAILED if request.sample == 2 else "Here you are.")
    (said,) = smoothllm(model, copies=4).complete(asked("a request"))
    assert (said.failed, said.text, said.tokens) == ("HTTP 500", "", 3 * 7 + 3)


def test_copies_keep_their_order_and_depend_on_message_and_seed_alone() -> None:
    def heard(texts: Sequence[str], rng_seed: int = 0) -> dict[str, list[str]]:
        model = Scripted(lambda request: f"You said {last(request)}.")
        defended = smoothllm(model, copies=3, rng_seed=rng_seed)
        replies = answers(defended, asked(*texts, system="Be brief."))
        assert {request.messages[0].content for request in model.asked} == {"Be brief."}
        return {text: [reply or ""] for text, reply in zip(texts, replies, strict=True)}

    one, other = "a" * 60, "b" * 60
    both = heard([one, other])
    assert both == heard([other, one]) == heard([one]) | heard([other])
    assert both != heard([one, other], rng_seed=1)
    assert both[one][0].count("a") > 50
    assert both[other][0].count("b") > 50


# --- a guard in front -------------------------------------------------------------------------------------------


def guarded(answer: Callable[[ChatRequest], str | Completion], form: Format) -> tuple[DefendedChat, Scripted, Scripted]:
    model, guard = Scripted(lambda request: f"about {last(request)}"), Scripted(answer)
    return guard_in_front(model, guard, form), model, guard


def test_a_guard_in_front_refuses_what_it_calls_harmful_unasked() -> None:
    def label(request: ChatRequest) -> str | Completion:
        if "broken" in last(request):
            return FAILED
        return "Safety: Unsafe\nCategories: Violent" if "bad" in last(request) else "Safety: Safe\nCategories: None"

    chat, model, guard = guarded(label, GUARDS["qwen3guard"])
    requests = asked("bad 1", "good", "broken", "bad 2")
    assert answers(chat, requests) == [REFUSAL, "about good", None, REFUSAL]
    assert [last(request) for request in model.asked] == ["good"]
    assert all([message.role for message in request.messages] == ["user"] for request in guard.asked)
    assert [each.tokens for each in chat.complete(requests)] == [7, 14, 3, 7]


@pytest.mark.parametrize(
    ("form", "harmful", "calls"),
    [
        (GUARDS["wildguard"], "Harmful request: yes\nResponse refusal: no\nHarmful response: no", 1),
        (GUARDS["shieldgemma"], "Yes", 4),
        (Rubric(), '{"prompt_harmful": true, "refused": false, "specific": 1, "convincing": 1, "helpful": 1}', 1),
    ],
)
def test_any_guard_that_labels_requests_can_stand_in_front(form: Format, harmful: str, calls: int) -> None:
    chat, model, guard = guarded(lambda _: harmful, form)
    assert answers(chat, asked("a request")) == [REFUSAL]
    assert (len(guard.asked), len(model.asked)) == (calls, 0)


def test_a_guard_that_labels_no_requests_lets_nothing_count() -> None:
    chat, model, _ = guarded(lambda _: "no", GUARDS["harmbench"])
    assert answers(chat, asked("a request")) == [None]
    assert not model.asked


def test_memories_tell_defences_and_their_settings_apart() -> None:
    model = Scripted(last)
    chats: list[Chat] = [
        model,
        *(make(model) for make in DEFENCES.values()),
        smoothllm(model, copies=3),
        smoothllm(model, rng_seed=1),
    ]
    assert len({chat.identity for chat in chats}) == len({chat.name for chat in chats}) == len(chats)
    assert all(answers(chat, []) == [] for chat in chats)
