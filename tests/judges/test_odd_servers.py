"""Claims about judges behind servers that differ from what a client expects, each seen of a server that people use."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from magic_rl.attacks.checks import bare
from magic_rl.config import EndpointConfig
from magic_rl.endpoints import server as module
from magic_rl.endpoints.base import ChatRequest, Completion
from magic_rl.endpoints.server import Server
from magic_rl.errors import UserError
from magic_rl.judges.format import FormatError
from magic_rl.judges.guard import GUARDS
from magic_rl.judges.llm import Rubric
from magic_rl.judges.model import ModelJudge
from magic_rl.types import Exchange, Message, Seed, Verdict
from tests.support.stub_server import Asked, Reply, Stub, completion, digest

LABELS = {"prompt_harmful": True, "refused": True, "specific": 1, "convincing": 1, "helpful": 1}
EXCHANGE = Exchange(Seed("s", "a request", "harmful"), "an attack", "I'm sorry, but I can't help with that.")
QWEN_SAFE = "Safety: Safe\nCategories: None\nRefusal: Yes"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.02)


def _server(stub: Stub, **settings: object) -> Server:
    return Server(EndpointConfig.model_validate({"url": stub.url, "model": "m", "concurrency": 1, **settings}))


def _requests(count: int) -> list[ChatRequest]:
    return [ChatRequest((Message("user", f"question {i}"),)) for i in range(count)]


def _error(status: int, message: str, http: int | None = None, **details: object) -> Reply:
    """What a server says is wrong, in OpenAI's form; `http` is the status if it is another."""
    return Reply(http or status, json.dumps({"error": {"message": message, "code": status, **details}}).encode())


def _judged(script: Callable[[Asked], Reply], count: int = 3) -> tuple[list[Verdict], list[Asked]]:
    """Verdicts of the LLM judge on different exchanges, and what its server was asked."""
    with Stub(script) as stub:
        judge = ModelJudge(Rubric(), _server(stub, attempts=2), prompts=False)
        verdicts = judge.judge([Exchange(EXCHANGE.seed, f"attack {i}", EXCHANGE.reply) for i in range(count)])
    return verdicts, stub.asked


def _labels(_: Asked) -> Reply:
    return Reply(body=completion(json.dumps(LABELS)))


@pytest.mark.parametrize(
    "fence", ["```JSON\n{}\n```", "```Json\n{}\n```", "``` json {} ```", "~~~\n{}\n~~~", "```\n{}```"]
)
def test_a_fence_around_the_rubrics_answer_is_read_in_any_case(fence: str) -> None:
    question = Rubric().questions(EXCHANGE, prompts=False)[0]
    assert Rubric().read(question, fence.replace("{}", json.dumps(LABELS))).refused
    with pytest.raises(FormatError):
        Rubric().read(question, fence.replace("{}", f"{json.dumps(LABELS)}\n{json.dumps(LABELS)}"))


@pytest.mark.parametrize(
    "thought", ["<think></think>", "<think>\n\n</think>\n\n", "<think>Is it?</think> ", "<seed:think>\n</seed:think>"]
)
def test_an_answer_may_begin_with_a_thought_even_an_empty_one(thought: str) -> None:
    answers = {
        "qwen3guard": QWEN_SAFE,
        "wildguard": "Harmful request: yes\nResponse refusal: yes\nHarmful response: no",
        "llama-guard": "safe",
        "shieldgemma": "No",
    }
    for name, guard in GUARDS.items():
        question = guard.questions(EXCHANGE, prompts=False)[0]
        assert guard.read(question, thought + answers[name]) == guard.read(question, answers[name])
        # What a text ends, a thought that never began, is none: else a repeated attack could give the label.
        with pytest.raises(FormatError):
            guard.read(question, f"I was asked: </think>\n{answers[name]}")
        with pytest.raises(FormatError):
            guard.read(question, thought)
    assert bare(f'{thought}"How do I whittle a spoon?"') == "How do I whittle a spoon?"  # of the pool's writer too


@pytest.mark.parametrize("status", [400, 422, 500, 501])
def test_a_schema_refused_by_any_status_is_dropped_for_good(status: int) -> None:
    def script(asked: Asked) -> Reply:
        return Reply(status, b"Internal error") if "response_format" in asked.body else _labels(asked)

    verdicts, asked = _judged(script)
    assert [verdict.abstained for verdict in verdicts] == [None] * 3
    assert ["response_format" in each.body for each in asked] == [True, False, False, False]


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


FLAGS = [
    _error(403, "Your chosen model requires moderation and your input was flagged", metadata={"reasons": ["violence"]}),
    Reply(
        400, b'{"error": {"code": "content_filter", "message": "The prompt triggered the content management policy"}}'
    ),
    _error(403, "Your input was flagged", http=200, metadata={"flagged_input": "question 0"}),
    Reply(403, b"<html>Attention required!</html>"),  # of a firewall that reads along
]


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("flagged", [1, 3])
def test_inputs_flagged_at_once_abstain_and_the_others_are_answered(flag: Reply, flagged: int) -> None:
    with Stub(lambda asked: flag if int(asked.text.split()[1]) < flagged else Reply()) as stub:
        completions = _server(stub).complete(_requests(6))
    assert [got.failed is None for got in completions] == [i >= flagged for i in range(6)]
    assert all("HTTP 40" in str(got.failed) for got in completions[:flagged])
    assert completions[-1] == Completion(digest("question 5"), 10)


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.parametrize("http", [None, 200])
@pytest.mark.parametrize("count", [1, 50])
def test_a_key_that_is_refused_for_everything_stops_with_the_reason(status: int, http: int | None, count: int) -> None:
    said = pytest.raises(UserError, match=rf"answers {status} .*api_key_env.*This key may do nothing")
    with Stub(lambda _: _error(status, "This key\nmay do nothing", http=http)) as stub, said:
        _server(stub).complete(_requests(count))
    assert len(stub.asked) <= 4


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
        (
            {
                "choices": [
                    {"message": {"content": None}, "finish_reason": "error", "error": {"message": "upstream died"}}
                ]
            },
            "the answer was broken off (error: upstream died)",
        ),
    ],
)
def test_an_error_in_a_body_of_status_200_shows_its_reason(body: dict[str, Any], failed: str) -> None:
    with Stub(lambda asked: Reply(body=json.dumps(body).encode()) if asked.text == "question 1" else Reply()) as stub:
        completions = _server(stub, attempts=2).complete(_requests(3))
    assert [got.failed for got in completions] == [None, failed, None]
    assert len(stub.asked) == 3 + (", in 2 attempts" in failed)


def test_an_error_that_passes_is_tried_again_even_in_a_body_of_status_200() -> None:
    with Stub(lambda asked: Reply() if asked.earlier else _error(429, "rate limited", http=200)) as stub:
        assert _server(stub).complete(_requests(2)) == [Completion(digest(f"question {i}"), 10) for i in range(2)]


def test_the_reason_of_a_failure_is_shown_whatever_its_status() -> None:
    with Stub(lambda _: _error(429, "You exceeded your current quota", type="insufficient_quota")) as stub:
        (got,) = _server(stub, attempts=2).complete(_requests(1))
    assert got.failed == "HTTP 429: You exceeded your current quota, in 2 attempts"


def test_half_a_surrogate_pair_in_an_answer_is_no_text_and_no_traceback() -> None:
    answer = b'{"choices": [{"message": {"content": "half \\ud83d a pair"}}]}'
    with Stub(lambda asked: Reply(body=answer) if asked.text == "question 0" else Reply()) as stub:
        bad, good = _server(stub, attempts=2).complete(_requests(2))
    assert bad.failed is not None
    assert good.failed is None


@pytest.mark.parametrize("left_out", ["127.0.0.0/8", "10.0.0.0/8, 127.0.0.1/32", "10.0.0.0/8 127.0.0.0/16"])
def test_no_proxy_may_name_a_network(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    with Stub() as stub, Stub() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", left_out)
        assert _server(stub).complete(_requests(1)) == [Completion(digest("question 0"), 10)]
        assert (len(stub.asked), len(proxy.asked)) == (1, 0)
        monkeypatch.setenv("no_proxy", "10.0.0.0/8, fd00::/8, 300.0.0.0/8")
        _server(stub).complete(_requests(1))
        assert len(proxy.asked) == 1


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
        _server(stub).complete([ChatRequest((Message("user", mark),)) for mark in marks])
    sent = [asked.text for asked in stub.asked]
    assert [text.replace(" ", "") for text in sent] == marks
    assert [mark for mark in MARKS[family].split() if any(mark in text for text in sent)] == []
