"""The endpoint client and what servers and proxies differ in: parameters, counts of tokens, ways to an answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.config import EndpointConfig
from magic_rl.endpoints import server as module
from magic_rl.endpoints.base import ChatRequest, Completion
from magic_rl.endpoints.server import Server
from magic_rl.errors import UserError
from magic_rl.types import Message
from tests.support.stub_server import Asked, Reply, Stub, completion, digest

SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
NO_LENGTH = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
NO_TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is supported."
)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.02)


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """Sets the proxies of the environment, and leaves none but those."""

    def only(named: Mapping[str, str]) -> None:
        for name in ("http", "https", "all", "no"):
            monkeypatch.delenv(f"{name}_proxy", raising=False)
            monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
        for name, value in named.items():
            monkeypatch.setenv(name, value)

    return only


Proxies = Callable[[Mapping[str, str]], None]


def _server(stub: Stub, **settings: object) -> Server:
    return Server(EndpointConfig.model_validate({"url": stub.url, "model": "m", "concurrency": 4, **settings}))


def _requests(count: int) -> list[ChatRequest]:
    return [ChatRequest((Message("user", f"question {i}"),)) for i in range(count)]


def _answers(count: int) -> list[Completion]:
    return [Completion(digest(f"question {i}"), 10) for i in range(count)]


def _complaint(text: str, **details: str) -> Reply:
    return Reply(400, json.dumps({"error": {"message": text, "type": "invalid_request_error", **details}}).encode())


def _counted(usage: Mapping[str, int] | None) -> Callable[[Asked], Reply]:
    """A server that counts tokens thus."""

    def answer(asked: Asked) -> Reply:
        body = json.loads(completion(digest(asked.text)))
        del body["usage"]
        return Reply(body=json.dumps(body if usage is None else {**body, "usage": usage}).encode())

    return answer


def test_behind_a_proxy_too_no_answer_is_taken_that_came_before_its_question(proxies: Proxies) -> None:
    second = completion("made up")
    extra = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(second), second)

    def script(asked: Asked) -> Reply:
        return Reply(extra=extra) if int(asked.text.split()[1]) % 4 == 0 and not asked.earlier else Reply()

    with Stub(script) as stub:
        proxies({"http_proxy": stub.url.removesuffix("/v1")})
        completions = _server(stub, url="http://model.test/v1").complete(_requests(200))
    assert completions == _answers(200)
    assert stub.most_connections <= 4
    assert {asked.path for asked in stub.asked} == {"http://model.test/v1/chat/completions"}


def test_a_proxy_that_is_not_the_server_s_may_be_any(proxies: Proxies) -> None:
    with Stub() as stub:
        proxies({"http_proxy": stub.url.removesuffix("/v1"), "all_proxy": "socks4://nobody.test:1"})
        assert _server(stub, url="http://model.test/v1").complete(_requests(1)) == _answers(1)


@pytest.mark.parametrize("left_out", ["127.0.0.1", "elsewhere.test, 127.0.0.1", "*.0.0.1", "*", "127.0.0.1:{port}"])
def test_a_server_that_no_proxy_names_is_asked_directly(left_out: str, proxies: Proxies) -> None:
    with Stub() as stub:
        port = stub.url.split(":")[2].removesuffix("/v1")
        proxies({"http_proxy": "socks5://nobody.test:1", "no_proxy": left_out.format(port=port)})
        assert _server(stub).complete(_requests(1)) == _answers(1)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"ALL_PROXY": "socks5://u:hush@localhost:1"}, "all_proxy .*`pip install socksio`.* model.test in no_proxy"),
        ({"http_proxy": "socks4://u:hush@localhost:1"}, "http_proxy .*fix it, or name model.test in no_proxy"),
        ({"http_proxy": "http://u:hush@localhost:99999"}, "http_proxy .*fix it"),
        ({"http_proxy": "http://u:hush"}, "http_proxy .*fix it"),
        ({"http_proxy": "http://"}, "http_proxy .*fix it"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_line_that_names_its_variable(
    named: dict[str, str], said: str, proxies: Proxies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    proxies(named)
    with pytest.raises(UserError, match=f"^{said}") as caught:
        Server(EndpointConfig(url="http://model.test/v1", model="m")).complete(_requests(1))
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_an_address_that_the_library_refuses_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^endpoint\.url: [^\n]*$"):
        Server(EndpointConfig(url=f"http://{'a' * 70_000}/v1", model="m")).complete(_requests(1))


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 7, "completion_tokens": 3}, {"total_tokens": 10, "prompt_tokens": 1}]
)
def test_tokens_are_limited_however_the_server_counts_them(usage: dict[str, int]) -> None:
    with Stub(_counted(usage)) as stub:
        server = _server(stub, max_total_tokens=195)
        completions = server.complete(_requests(100))
    answered = sum(got.failed is None for got in completions)
    assert 20 <= answered < 20 + 4
    assert server.tokens == 10 * answered
    assert completions[-1].failed == "endpoint.max_total_tokens: all 195 tokens are spent"


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": 0}])
def test_a_limit_of_tokens_that_nobody_counts_stops_the_batch_at_once(usage: dict[str, int] | None) -> None:
    with Stub(_counted(usage)) as stub:
        with pytest.raises(UserError, match=r"^endpoint\.max_total_tokens: .*set it to 0, and limit .*max_calls"):
            _server(stub, max_total_tokens=195).complete(_requests(100))
        assert len(stub.asked) <= 8
        assert not any(got.failed for got in _server(stub).complete(_requests(100)))  # without a limit it is no trouble


def test_a_parameter_that_the_server_refuses_by_name_is_left_out_or_renamed_once_for_all() -> None:
    def script(asked: Asked) -> Reply:
        if "max_tokens" in asked.body:
            return _complaint(NO_LENGTH, param="max_tokens", code="unsupported_parameter")
        if "temperature" in asked.body:
            return _complaint(NO_TEMPERATURE, param="temperature", code="unsupported_value")
        return Reply(delay=0.01)

    with Stub(script) as stub:
        server = _server(stub)
        completions = server.complete([ChatRequest(r.messages, schema=SCHEMA) for r in _requests(40)])
    assert completions == _answers(40)
    assert len(stub.asked) == server.calls <= 40 + 2 * 4
    last = stub.asked[-1].body
    assert (last["max_completion_tokens"], "temperature" in last) == (128, False)
    assert all("response_format" in asked.body for asked in stub.asked)  # which it never refused


@pytest.mark.parametrize("complaint", ["max_tokens is too large for 4096 tokens", "no temperature talk here"])
def test_a_request_that_is_refused_for_itself_costs_the_others_no_parameter(complaint: str) -> None:
    with Stub(lambda asked: _complaint(complaint) if asked.text == "question 2" else Reply()) as stub:
        completions = _server(stub, concurrency=1).complete(_requests(8))
    assert [got.failed is not None for got in completions] == [i == 2 for i in range(8)]
    assert completions[2].failed == f"HTTP 400: {complaint}"
    assert not any("max_completion_tokens" in asked.body for asked in stub.asked)
    others = [asked.body for asked in stub.asked if asked.text != "question 2"]
    assert [(body.get("max_tokens"), body.get("temperature")) for body in others] == [(128, 0.0)] * 7


@pytest.mark.parametrize("beginning", [False, True])
@pytest.mark.parametrize("text", [None, ""])
def test_an_answer_that_was_all_thinking_is_cut_off(text: str | None, beginning: bool) -> None:
    request = ChatRequest((Message("user", "Why?"),), beginning=beginning)
    with Stub(lambda _: Reply(body=completion(text, finish="length"))) as stub:
        (got,) = _server(stub).complete([request])
    assert got == Completion(tokens=10, failed="the answer was cut off at 128 tokens", cause="cut_off")


def test_a_writer_that_never_finishes_thinking_stops_the_pool(tmp_path: Path) -> None:
    rows = [{"text": f"{label} {i}", "label": label} for label in ("harmful", "benign") for i in range(3)]
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Stub(lambda _: Reply(body=completion(None, finish="length"))) as stub:
        args = ["pool", "build", "--out", str(tmp_path / "pool.jsonl"), "--strategies", "slang"]
        for setting in ("model=big", f"url={stub.url}", "concurrency=1"):
            args += ["--set", f"attacker.writer.{setting}"]
        result = CliRunner().invoke(app, [*args, "--set", f"data.seeds={seeds}"])
    assert "attacker.writer: 1 calls failed (cut off at 2048 tokens), more than --max-failed" in result.stderr
    assert len(stub.asked) == 1
