"""Servers and proxies that differ from what a client expects, each as observed on one that people use."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magic_rl.chat.base import ChatRequest, Completion
from magic_rl.chat.harmless import harmless
from magic_rl.cli.remedies import in_words
from magic_rl.errors import ChatError
from magic_rl.judges.format import FormatError
from magic_rl.judges.guards import GUARDS
from magic_rl.judges.model import ModelJudge
from magic_rl.judges.rubric import Rubric
from magic_rl.types import Exchange, Message, Seed, Verdict
from tests.support.chatting import SCHEMA, answers, requests, server_of
from tests.support.stub_server import Reply, Request, Stub, completion, digest

LABELS = {"prompt_harmful": True, "refused": True, "specific": 1, "convincing": 1, "helpful": 1}
EXCHANGE = Exchange(Seed("s", "a request", "harmful"), "an attack", "I'm sorry, but I can't help with that.")
NO_LENGTH = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
NO_TEMPERATURE = "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default is supported."

pytestmark = pytest.mark.usefixtures("short_pauses")


def _error(status: int, message: str, http: int | None = None, **details: object) -> Reply:
    """A server's error in OpenAI's form; `http` is the HTTP status if it differs."""
    return Reply(http or status, json.dumps({"error": {"message": message, "code": status, **details}}).encode())


def _judged(script: Callable[[Request], Reply], count: int = 3) -> tuple[list[Verdict], list[Request]]:
    """Verdicts of the LLM judge on different exchanges, and what its server was asked."""
    with Stub(script) as stub:
        judge = ModelJudge(Rubric(), server_of(stub, attempts=2, concurrency=1), label_request=False)
        verdicts = judge.judge([Exchange(EXCHANGE.seed, f"attack {i}", EXCHANGE.reply) for i in range(count)])
    return verdicts, stub.asked


def _labels(_: Request) -> Reply:
    return Reply(body=completion(json.dumps(LABELS)))


@pytest.mark.parametrize(
    "fence", ["```JSON\n{}\n```", "```Json\n{}\n```", "``` json {} ```", "~~~\n{}\n~~~", "```\n{}```"]
)
def test_a_fence_around_the_rubrics_answer_is_read_in_any_case(fence: str) -> None:
    question = Rubric().questions(EXCHANGE, label_request=False)[0]
    assert Rubric().read(question, fence.replace("{}", json.dumps(LABELS))).refused
    with pytest.raises(FormatError):
        Rubric().read(question, fence.replace("{}", f"{json.dumps(LABELS)}\n{json.dumps(LABELS)}"))


@pytest.mark.parametrize(
    "thought", ["<think></think>", "<think>\n\n</think>\n\n", "<think>Is it?</think> ", "<seed:think>\n</seed:think>"]
)
def test_an_answer_may_begin_with_a_thought_even_an_empty_one(thought: str) -> None:
    said = {
        "qwen3guard": "Safety: Safe\nCategories: None\nRefusal: Yes",
        "wildguard": "Harmful request: yes\nResponse refusal: yes\nHarmful response: no",
        "llama-guard": "safe",
        "shieldgemma": "No",
        "harmbench": "yes",
    }
    for name, guard in GUARDS.items():
        question = guard.questions(EXCHANGE, label_request=False)[0]
        assert guard.read(question, thought + said[name]) == guard.read(question, said[name])
        # `</think>` without a beginning is no thought; otherwise a repeated attack could give the label.
        for text in (f"I was asked: </think>\n{said[name]}", thought):
            with pytest.raises(FormatError):
                guard.read(question, text)


def test_half_a_surrogate_pair_in_an_answer_is_no_text_and_no_traceback() -> None:
    half = b'{"choices": [{"message": {"content": "half \\ud83d a pair"}}]}'
    with Stub(lambda asked: Reply(body=half) if asked.text == "question 0" else Reply()) as stub:
        bad, good = server_of(stub, attempts=2).complete(requests(2))
    assert (bad.failed is None, good.failed is None) == (False, True)


@pytest.mark.parametrize("beginning", [False, True])
@pytest.mark.parametrize("text", [None, ""])
def test_an_answer_that_was_all_thinking_is_cut_off(text: str | None, beginning: bool) -> None:
    with Stub(lambda _: Reply(body=completion(text, finish="length"))) as stub:
        (got,) = server_of(stub).complete(requests(1, beginning=beginning))
    assert got == Completion(tokens=10, failed="the answer was cut off at 128 tokens", cause="cut_off")


@pytest.mark.parametrize("status", [400, 422, 500, 501])
@pytest.mark.parametrize("passes", [False, True])
def test_a_schema_refused_without_a_word_is_tried_again_later(
    passes: bool, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that was only busy gets it again; one that refuses it gets it less and less often."""

    def script(asked: Request) -> Reply:
        busy = "attack 0" in asked.text or not passes
        return Reply(status, b"Internal error") if "response_format" in asked.body and busy else _labels(asked)

    with caplog.at_level("INFO", logger="magic_rl"):
        verdicts, asked = _judged(script, count=12)
    assert [verdict.abstained for verdict in verdicts] == [None] * 12
    with_schema = [int(each.text.split("attack ")[1].split('"')[0]) for each in asked if "response_format" in each.body]
    assert with_schema == ([0, 5, 6, 7, 8, 9, 10, 11] if passes else [0, 5])
    assert len([record for record in caplog.records if "asking without it" in record.message]) == (1 if passes else 2)


@pytest.mark.parametrize("opened", [False, True])
def test_a_thought_that_the_servers_template_opened_is_no_answer(opened: bool) -> None:
    thought = "<think>" if opened else ""
    verdicts, _ = _judged(lambda _: Reply(body=completion(f"{thought}Is it?\n</think>\n\n{json.dumps(LABELS)}")))
    assert [verdict.abstained for verdict in verdicts] == [None] * 3


def test_an_error_500_of_a_server_that_takes_schemas_costs_no_schema() -> None:
    verdicts, asked = _judged(
        lambda asked: Reply(500) if "attack 1" in asked.text and not asked.earlier else _labels(asked)
    )
    assert [verdict.abstained for verdict in verdicts] == [None] * 3
    assert all("response_format" in each.body and each.body["messages"][0]["role"] == "system" for each in asked)


@pytest.mark.parametrize(
    "refusal",
    [
        _error(400, "System role not supported"),
        Reply(422, b'{"error": "Template error: system role is not supported", "error_type": "template_error"}'),
        _error(500, "Value is not callable: System role not supported at row 1"),
        _error(400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        _error(400, "Developer instruction is not enabled for models/gemma-3"),
        Reply(500, b"Internal Server Error"),
    ],
)
def test_a_judge_without_a_system_role_is_given_its_rubric_by_the_user(refusal: Reply) -> None:
    verdicts, asked = _judged(lambda each: refusal if each.body["messages"][0]["role"] == "system" else _labels(each))
    assert [verdict.abstained for verdict in verdicts] == [None] * 3
    (message,) = asked[-1].body["messages"]
    assert message["role"] == "user"
    assert message["content"].startswith("You judge how an assistant")
    assert '"prompt": "attack 2"' in message["content"]
    assert sum(each.body["messages"][0]["role"] == "system" for each in asked) <= 2


def test_a_parameter_refused_by_name_is_left_out_or_renamed_for_good() -> None:
    def script(asked: Request) -> Reply:
        if "max_tokens" in asked.body:
            return _error(400, NO_LENGTH, param="max_tokens")
        if "temperature" in asked.body:
            return _error(400, NO_TEMPERATURE, param="temperature")
        return Reply(delay=0.01)

    with Stub(script) as stub:
        server = server_of(stub)
        assert server.complete(requests(40, schema=SCHEMA)) == answers(40)
    assert len(stub.asked) == server.calls <= 40 + 2 * 4
    last = stub.asked[-1].body
    assert (last["max_completion_tokens"], "temperature" in last) == (128, False)
    assert all("response_format" in asked.body for asked in stub.asked)  # the server never refused it


@pytest.mark.parametrize("complaint", ["max_tokens is too large for 4096 tokens", "no temperature talk here", "x" * 99])
def test_a_request_refused_for_itself_costs_the_others_nothing(complaint: str) -> None:
    with Stub(lambda asked: _error(400, complaint) if asked.text == "question 2" else Reply()) as stub:
        completions = server_of(stub, concurrency=1).complete(requests(8, schema=SCHEMA))
    assert [got.failed for got in completions] == [f"HTTP 400: {complaint}" if i == 2 else None for i in range(8)]
    assert not any("max_completion_tokens" in asked.body for asked in stub.asked)
    others = [asked.body for asked in stub.asked if asked.text != "question 2"]
    assert [(b["max_tokens"], b["temperature"], "response_format" in b) for b in others] == [(128, 0.0, True)] * 7


FLAGS = [
    _error(403, "Your chosen model requires moderation and your input was flagged", metadata={"reasons": ["violence"]}),
    Reply(
        400, b'{"error": {"code": "content_filter", "message": "The prompt triggered the content management policy"}}'
    ),
    _error(403, "Your input was flagged", http=200, metadata={"flagged_input": "question 0"}),
    Reply(403, b"<html>Attention required!</html>"),  # from a firewall that inspects requests
]


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("flagged", [1, 3])
def test_inputs_flagged_at_once_abstain_and_the_others_are_answered(flag: Reply, flagged: int) -> None:
    with Stub(lambda asked: flag if int(asked.text.split()[1]) < flagged else Reply()) as stub:
        completions = server_of(stub, concurrency=1).complete(requests(6))
    assert [got.failed is None for got in completions] == [i >= flagged for i in range(6)]
    assert all("HTTP 40" in str(got.failed) for got in completions[:flagged])
    assert completions[-1] == Completion(digest("question 5"), 10)


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.parametrize("http", [None, 200])
@pytest.mark.parametrize("count", [1, 50])
def test_a_key_that_is_refused_for_everything_stops_with_the_reason(status: int, http: int | None, count: int) -> None:
    with Stub(lambda _: _error(status, "This key\nmay do nothing", http=http)) as stub:
        with pytest.raises(ChatError, match=rf"answers {status} .*This key may do nothing") as caught:
            server_of(stub, concurrency=1).complete(requests(count))
        assert (caught.value.url, caught.value.status) == (stub.url, status)
    assert len(stub.asked) <= 4


UPSTREAM = {"message": {"content": None}, "finish_reason": "error", "error": {"message": "upstream died"}}


@pytest.mark.parametrize(
    ("body", "failed"),
    [
        (
            {"error": {"message": "Provider\nreturned error", "code": 429}},
            "HTTP 429: Provider returned error, in 2 attempts",
        ),
        ({"error": {"message": "no capacity", "code": "busy"}}, "HTTP 500: no capacity, in 2 attempts"),
        ({"error": "Model is overloaded", "error_type": "overloaded"}, "HTTP 500: Model is overloaded, in 2 attempts"),
        ({"object": "error", "message": "too long", "code": 400}, "HTTP 400: too long"),
        ({"choices": None, "error": {"message": "context length", "code": 413}}, "HTTP 413: context length"),
        ({"choices": [UPSTREAM]}, "the answer was broken off (error: upstream died)"),
    ],
)
def test_an_error_in_a_body_of_status_200_shows_its_reason(body: dict[str, Any], failed: str) -> None:
    with Stub(lambda asked: Reply(body=json.dumps(body).encode()) if asked.text == "question 1" else Reply()) as stub:
        completions = server_of(stub, attempts=2).complete(requests(3))
    assert [got.failed for got in completions] == [None, failed, None]
    assert len(stub.asked) == 3 + (", in 2 attempts" in failed)


def test_an_error_that_passes_is_tried_again_even_in_a_body_of_status_200() -> None:
    with Stub(lambda asked: Reply() if asked.earlier else _error(429, "rate limited", http=200)) as stub:
        assert server_of(stub).complete(requests(2)) == answers(2)


def _counted(usage: Mapping[str, int] | None) -> Callable[[Request], Reply]:
    """A server that reports this usage."""

    def answer(asked: Request) -> Reply:
        body = json.loads(completion(digest(asked.text)))
        del body["usage"]
        return Reply(body=json.dumps(body if usage is None else {**body, "usage": usage}).encode())

    return answer


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 7, "completion_tokens": 3}, {"total_tokens": 10, "prompt_tokens": 1}]
)
def test_tokens_exceed_their_budget_by_no_more_than_what_is_under_way(usage: dict[str, int]) -> None:
    with Stub(_counted(usage)) as stub:
        server = server_of(stub, max_total_tokens=195)
        completions = server.complete(requests(100))
    answered = sum(got.failed is None for got in completions)
    assert 20 <= answered < 20 + 4
    assert server.tokens == 10 * answered
    assert completions[-1].failed == "all 195 tokens are spent"


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": 0}])
def test_a_limit_of_tokens_that_nobody_counts_stops_the_batch_at_once(usage: dict[str, int] | None) -> None:
    with Stub(_counted(usage)) as stub:
        with pytest.raises(ChatError, match="cannot be limited") as caught:
            server_of(stub, max_total_tokens=195, place="judge.endpoint").complete(requests(100))
        assert "leave judge.endpoint.max_total_tokens out" in in_words(caught.value)
        assert len(stub.asked) <= 8
        assert not any(got.failed for got in server_of(stub).complete(requests(100)))  # no limit, no error


Proxies = Callable[[Mapping[str, str]], None]


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> Proxies:
    """Set the proxies of the environment and remove all others."""

    def only(named: Mapping[str, str]) -> None:
        for name in ("http", "https", "all", "no"):
            monkeypatch.delenv(f"{name}_proxy", raising=False)
            monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
        for name, value in named.items():
            monkeypatch.setenv(name, value)

    return only


def test_a_proxy_is_used_and_its_answers_too_belong_to_their_questions(proxies: Proxies) -> None:
    second = completion("made up")
    extra = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(second), second)

    def script(asked: Request) -> Reply:
        return Reply(extra=extra) if int(asked.text.split()[1]) % 4 == 0 and not asked.earlier else Reply()

    with Stub(script) as stub:
        proxies({"http_proxy": stub.url.removesuffix("/v1"), "no_proxy": "elsewhere.test"})
        assert server_of(stub, url="http://model.test/v1").complete(requests(60)) == answers(60)
    assert stub.most_connections <= 4
    assert {asked.path for asked in stub.asked} == {"http://model.test/v1/chat/completions"}


@pytest.mark.parametrize(
    ("left_out", "direct"),
    [
        ("127.0.0.1", True),
        ("elsewhere.test, 127.0.0.1", True),
        ("*", True),
        ("127.0.0.1:{port}", True),
        ("127.0.0.0/8", True),
        ("10.0.0.0/8, 127.0.0.1/32", True),
        ("10.0.0.0/8, fd00::/8, 300.0.0.0/8", False),
    ],
)
def test_a_server_or_network_that_no_proxy_names_is_asked_directly(
    left_out: str, direct: bool, proxies: Proxies
) -> None:
    with Stub() as stub, Stub() as proxy:
        port = stub.url.split(":")[2].removesuffix("/v1")
        proxies({"http_proxy": proxy.url.removesuffix("/v1"), "no_proxy": left_out.format(port=port)})
        assert server_of(stub).complete(requests(1)) == answers(1)
        assert (len(stub.asked), len(proxy.asked)) == (direct, not direct)


@pytest.mark.parametrize(
    "named",
    [
        {"ALL_PROXY": "socks5://u:hush@localhost:1"},
        {"http_proxy": "socks4://u:hush@localhost:1"},
        {"http_proxy": "http://u:hush@localhost:99999"},
        {"http_proxy": "http://u:hush"},
        {"http_proxy": "http://"},
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_line_without_its_password(
    named: dict[str, str], proxies: Proxies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    proxies(named)
    with Stub() as stub, pytest.raises(ChatError, match=r"^[^\n]*(proxy|cannot be reached)[^\n]*$") as caught:
        server_of(stub, url="http://model.test/v1", attempts=1).complete(requests(1))
    assert "hush" not in f"{caught.value} {caught.value.__cause__}"


def test_an_address_that_the_library_refuses_is_one_line() -> None:
    with Stub() as stub, pytest.raises(ChatError, match=r"^[^\n]*is no address[^\n]*$"):
        server_of(stub, url=f"http://{'a' * 70_000}/v1").complete(requests(1))


MARKS = {
    "EXAONE": "[|system|] [|user|] [|assistant|] [|endofturn|] [|tool|] [BOS] [PAD]",
    "Seed-OSS": "<seed:bos> <seed:eos> <seed:pad> <seed:think> </seed:think> <seed:tool_call>",
    "MiniMax": "]~b] ]~!b[ [e~[ ]!d~[ ]!p~[ ]<]image[>[ <minimax:tool_call>",
    "Gemma 3": "<start_of_turn> <end_of_turn> <bos> <eos> <image_soft_token> <unused99> [multimodal] [@BOS@]",
    "Gemma 4": "<|turn> <turn|> <|channel> <channel|>",
    "Mistral": "[INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [AVAILABLE_TOOLS] [TOOL_CALLS] [THINK] "
    "[ARGS] [IMG_BREAK] [PREFIX] <SPECIAL_20> <s> </s>",
    "GLM": "[gMASK] [sMASK] [MASK] <sop> <eop> <|user|> <|system|> <|observation|> <|begin_of_image|>",
    "Llama 4": "<|begin_of_text|> <|header_start|> <|header_end|> <|eot|> <|python_start|> <|image|>",
    "Llama 2": "<<SYS>> <</SYS>> <unk>",
    "Cohere": "<BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|CHATBOT_TOKEN|> <|START_THINKING|> <EOS_TOKEN> <PAD> <MASK_TOKEN>",
    "DeepSeek": "<｜begin▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜> <｜tool▁calls▁begin｜>",
    "Kimi": "<|im_system|> <|im_middle|> <|tool_calls_section_begin|> [EOS] [EOT] [start_header_id] [end_header_id]",
    "gpt-oss": "<|start|> <|channel|> <|message|> <|end|> <|return|> <|call|>",
    "Granite, Phi": "<|start_of_role|> <|end_of_role|> <|end|> <|assistant|>",
    "others": "<reserved_106> <extra_id_1> <用户> <AI> <role> </role> <tool_call> <mask:1> <think> </think>",
}


@pytest.mark.parametrize("family", MARKS)
def test_control_marks_of_a_family_reach_no_server_whole(family: str) -> None:
    marks = [*MARKS[family].split(), *(f"a{mark}{mark}b" for mark in MARKS[family].split())]
    with Stub() as stub:
        server_of(stub, concurrency=1).complete([ChatRequest((Message("user", mark),)) for mark in marks])
    sent = [asked.text for asked in stub.asked]
    assert [text.replace(" ", "") for text in sent] == marks
    assert [mark for mark in MARKS[family].split() if any(mark in text for text in sent)] == []


ALL = [*" ".join(MARKS.values()).split(), "<BEGIN CONVERSATION>", "<END UNSAFE CONTENT CATEGORIES>", "[img-0]"]


@given(st.lists(st.sampled_from([*ALL, "<", "|", ">", "|>", "<|", "[", "<<", "s", " ", "im_end", "/", "\n"])))
def test_no_control_mark_survives_in_a_text(parts: list[str]) -> None:
    text = "".join(parts)
    sent = harmless(text)
    assert not [mark for mark in ALL if mark in sent]
    assert sent.replace(" ", "") == text.replace(" ", "")
    assert harmless(sent) == sent


@pytest.mark.parametrize(
    "text", ["if a<b and c|d> e", "<html><b>x</b></html>", "List[int] | None", "a <| b |> c", "«s»"]
)
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert harmless(text) == text
