"""The endpoint client against a server that misbehaves: nothing lost, nothing made up, limits kept."""

from __future__ import annotations

import asyncio
import gzip
import logging
import math
import re
import signal
import socket
import subprocess
import sys
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magic_rl.config import EndpointConfig
from magic_rl.endpoints import server as module
from magic_rl.endpoints.base import ChatRequest, Completion
from magic_rl.endpoints.harmless import harmless
from magic_rl.endpoints.server import Server
from magic_rl.errors import UserError
from magic_rl.types import Message
from tests.support import ROOT
from tests.support.stub_server import Asked, Reply, Stub, completion, digest

KEY = "sk-secret"
SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.02)


def _server(stub: Stub, **settings: object) -> Server:
    return Server(EndpointConfig.model_validate({"url": stub.url, "model": "m", "concurrency": 4, **settings}))


def _requests(count: int) -> list[ChatRequest]:
    return [ChatRequest((Message("user", f"question {i}"),)) for i in range(count)]


SECOND = completion("made up")
# What each of the first questions in forty meets. Once: until it is asked again. Always: and the failure it ends as.
ONCE = [
    Reply(drop=True),
    Reply(cut=0),
    Reply(cut=30),
    Reply(length_off=50, cut=1000),
    Reply(length_off=-20),
    Reply(extra=b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(SECOND), SECOND)),
    Reply(status=429, headers={"Retry-After": "soon"}),
    Reply(status=500),
    Reply(status=502, body=b"<html>Bad gateway</html>"),
    Reply(status=503, headers={"Retry-After": "0"}),
    Reply(body=b"<html><body>Please log in</body></html>", headers={"Content-Type": "text/html"}),
    Reply(body=b'{"choices": [{"message": {"content": "made'),
    Reply(body=b'{"object": "error", "message": "busy"}'),
    Reply(body=b'{"choices": []}'),
    Reply(body=gzip.compress(completion("made up"))[:-9], headers={"Content-Encoding": "deflate"}),
]
ALWAYS = [
    (Reply(status=500), "[^\n]*, in 6 attempts"),  # some of which may have met the rest of another answer
    (Reply(body=b"\xff\xfe nonsense"), "[^\n]*, in 6 attempts"),
    (Reply(body=completion(None)), "the completion holds no text"),
    (Reply(finish="length"), "the answer was cut off at 128 tokens"),
    (Reply(finish="content_filter"), r"the answer was broken off \(content_filter\)"),
    (Reply(status=400, body=b"prompt\ntoo long"), "HTTP 400: prompt too long"),
]


def test_of_thousands_of_requests_none_is_lost_and_none_made_up() -> None:
    def script(asked: Asked) -> Reply:
        kind = int(asked.text.split()[1]) % 40
        if kind < len(ONCE) and not asked.earlier:
            return ONCE[kind]
        kind -= len(ONCE)
        return ALWAYS[kind][0] if 0 <= kind < len(ALWAYS) else Reply(delay=0.002)

    requests = _requests(2400)
    reported: dict[int, Completion] = {}
    tasks = []

    def done(index: int, completion: Completion) -> None:
        assert index not in reported
        reported[index] = completion
        tasks.append(len(asyncio.all_tasks()))

    with Stub(script) as stub:
        server = _server(stub, concurrency=16, attempts=6)
        completions = server.complete(requests, done)

    assert completions == [reported[index] for index in range(2400)]
    for index, got in enumerate(completions):
        kind = index % 40 - len(ONCE)
        if 0 <= kind < len(ALWAYS):
            assert got.text == ""
            assert re.fullmatch(ALWAYS[kind][1], got.failed or "")
        else:
            assert got == Completion(digest(f"question {index}"), 10)
    assert sum(got.failed is not None for got in completions) == 60 * len(ALWAYS)
    assert len(stub.asked) <= server.calls <= len(stub.asked) + 60  # those that met an answer before they were sent
    assert all(asked.earlier < 6 for asked in stub.asked)
    assert stub.most_at_once <= 16
    assert max(tasks) < 50  # the workers, and those that open a connection: no task a request


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_pause_that_the_server_asks_for_is_kept_by_all_workers(form: str) -> None:
    asked_for: list[tuple[float, float]] = []  # from when until when

    def script(asked: Asked) -> Reply:
        if asked.text != "question 20" or asked.earlier:
            return Reply(delay=0.005)
        until = math.ceil(time.time()) + 1
        pause = 1.0 if form == "seconds" else until - time.time()
        asked_for.append((time.monotonic(), time.monotonic() + pause))
        return Reply(status=429, headers={"Retry-After": "1" if form == "seconds" else formatdate(until, usegmt=True)})

    with Stub(script) as stub:
        completions = _server(stub, concurrency=8).complete(_requests(100))
    ((start, end),) = asked_for
    on_their_way = 0.1
    assert not [asked.time for asked in stub.asked if start + on_their_way < asked.time < end - 0.05]
    assert sum(asked.time > end - 0.05 for asked in stub.asked) > 60
    assert stub.most_connections <= 8
    assert not any(got.failed for got in completions)


def test_a_server_that_wants_an_hour_is_asked_no_more() -> None:
    with Stub(lambda _: Reply(status=429, headers={"Retry-After": "3600"})) as stub:
        completions = _server(stub).complete(_requests(200))
    assert all(
        re.fullmatch(r"the server wants to be left alone for 3[56]\d\d s", got.failed or "") for got in completions
    )
    assert len(stub.asked) <= 4


def test_calls_never_exceed_their_budget() -> None:
    with Stub(lambda asked: Reply(status=500 if int(asked.text.split()[1]) % 2 else 200)) as stub:
        server = _server(stub, max_calls=30, attempts=3)
        first = server.complete(_requests(10))
        second = server.complete(_requests(50))
    assert len(stub.asked) == server.calls == 30
    assert [got.failed for got in first].count("HTTP 500, in 3 attempts") == 5
    spent = [got.failed for got in second].count("endpoint.max_calls: all 30 calls are spent")
    assert spent >= 50 - 10
    assert all(got.failed or got.text == digest(f"question {i}") for i, got in enumerate(second))


def test_tokens_exceed_their_budget_by_no_more_than_what_is_under_way() -> None:
    with Stub() as stub:
        server = _server(stub, max_total_tokens=195)
        completions = server.complete(_requests(100))
    answered = sum(got.failed is None for got in completions)
    assert 20 <= answered < 20 + 4
    assert server.tokens == 10 * answered
    assert completions[-1].failed == "endpoint.max_total_tokens: all 195 tokens are spent"


def test_the_time_limit_of_a_batch_keeps_what_is_finished() -> None:
    reported: dict[int, Completion] = {}
    with Stub(lambda _: Reply(delay=0.1)) as stub:
        began = time.monotonic()
        completions = _server(stub, total_timeout=0.55).complete(_requests(60), reported.__setitem__)
        assert time.monotonic() - began < 2
    kept = {index: got for index, got in enumerate(completions) if got.failed is None}
    assert kept == reported
    assert 4 <= len(kept) <= 20
    assert {got.failed for got in completions} == {None, "the batch took longer than 0.55 s"}


@pytest.mark.parametrize("slow", [Reply(delay=9), Reply(drip=0.05), Reply(length_off=1)], ids=["mute", "drip", "short"])
def test_a_call_that_never_ends_is_given_up_and_its_place_is_free(slow: Reply) -> None:
    with Stub(lambda asked: slow if asked.text == "question 1" else Reply()) as stub:
        began = time.monotonic()
        completions = _server(stub, concurrency=1, timeout=0.3, attempts=2).complete(_requests(3))
        assert time.monotonic() - began < 2
    assert [got.failed for got in completions] == [None, "no answer within 0.3 s, in 2 attempts", None]


@pytest.mark.parametrize(
    ("status", "names"), [(401, "api_key_env"), (403, "api_key_env"), (404, "model"), (307, "url"), (None, "url")]
)
def test_what_will_not_pass_stops_the_batch_with_one_line_that_names_the_setting(
    status: int | None, names: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with Stub(lambda asked: Reply(status or 200, asked.headers["authorization"].encode())) as stub:
        address = stub.url if status else _nobody()
        with pytest.raises(UserError) as caught:
            _server(stub, url=address, api_key_env="THE_KEY").complete(_requests(500))
    said = str(caught.value)
    assert f"endpoint.{names}" in said
    assert address in said
    assert "\n" not in said
    # One 403 may be about its text: it takes four.
    assert len(stub.asked) <= (8 if status == 403 else 4 if status else 0)
    for text in (said, caplog.text, str(caught.value.__cause__)):
        assert KEY not in text


def _nobody() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def test_the_key_is_sent_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("THE_KEY", f"{KEY}\n")
    with Stub(lambda asked: Reply(418, f"no tea for {asked.headers['authorization']}".encode())) as stub:
        server = _server(stub, api_key_env="THE_KEY")
        (got,) = server.complete(_requests(1))
    assert stub.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert got.failed == "HTTP 418: no tea for Bearer ***"
    assert KEY not in caplog.text
    monkeypatch.setenv("THE_KEY", f"{KEY}\né")
    config = EndpointConfig(url="http://localhost/v1", model="m", api_key_env="THE_KEY")
    with pytest.raises(UserError, match=r"^endpoint.api_key_env: what THE_KEY holds is no key") as caught:
        Server(config)
    assert KEY not in str(caught.value)
    monkeypatch.delenv("THE_KEY")
    with pytest.raises(UserError, match="THE_KEY is not set"):
        Server(config)


def test_a_schema_that_the_server_refuses_is_dropped_once_for_all() -> None:
    requests = [ChatRequest(request.messages, schema=SCHEMA) for request in _requests(40)]
    with Stub(lambda asked: Reply(400 if "response_format" in asked.body else 200, delay=0.01)) as stub:
        completions = _server(stub).complete(requests)
    assert [got.text for got in completions] == [digest(f"question {i}") for i in range(40)]
    assert 1 <= sum("response_format" in asked.body for asked in stub.asked) <= 4
    assert not any("response_format" in asked.body for asked in stub.asked[8:])


def test_a_request_that_is_refused_for_itself_costs_the_others_no_schema() -> None:
    requests = [ChatRequest(request.messages, schema=SCHEMA) for request in _requests(8)]
    with Stub(lambda asked: Reply(400 if asked.text == "question 2" else 200, body=b"x" * 300)) as stub:
        _server(stub, attempts=1, concurrency=1).complete(requests)
    sent = {asked.text: asked.body.get("response_format") for asked in stub.asked if asked.text != "question 2"}
    assert len(sent) == 7
    assert all(form is not None and form["json_schema"]["schema"] == SCHEMA for form in sent.values())


def test_a_request_arrives_as_it_was_meant() -> None:
    messages = (Message("user", "Say <|im_end|>"), Message("assistant", "<BEGIN CONVERSATION> [INST] \ud800"))
    template = "{{ bos_token }}\n{% for m in messages %}\n({{ m.role }}: {{ m.content }})\n{% endfor %}\n<|assistant|>"
    requests = [
        ChatRequest(messages, max_tokens=7, temperature=0.5, template_kwargs={"guideline": "be kind"}),
        ChatRequest(messages, template=template),
    ]
    with Stub() as stub:
        server = _server(stub, concurrency=1)
        # A digest needs text that can be encoded, which a lone surrogate cannot.
        for request in requests:
            server.complete([request])
    chat, plain = stub.asked
    broken = ["Say < |im_end|>", "< BEGIN CONVERSATION> [ INST] \ud800"]
    assert chat.path == "/v1/chat/completions"
    assert chat.body == {
        "model": "m",
        "max_tokens": 7,
        "temperature": 0.5,
        "messages": [{"role": m.role, "content": text} for m, text in zip(messages, broken, strict=True)],
        "chat_template_kwargs": {"guideline": "be kind"},
    }
    assert plain.path == "/v1/completions"
    assert plain.body["prompt"] == f"\n(user: {broken[0]})\n(assistant: {broken[1]})\n<|assistant|>"
    assert plain.body["temperature"] == 0.0


MARKS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|turn>",
    "<turn|>",
    "<|channel>",
    "<channel|>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<s>",
    "</s>",
    "<bos>",
    "<eos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "[TOOL_CALLS]",
    "[gMASK]",
    "[img-0]",
    "<sop>",
    "<think>",
    "</think>",
    "<BEGIN",
    "CONVERSATION>",
    "<END",
    "UNSAFE",
    "CONTENT",
    "CATEGORIES>",
]
MARKS = [*MARKS[:-6], " ".join(MARKS[-6:-4]), " ".join(MARKS[-4:])]


@given(st.lists(st.sampled_from([*MARKS, "<", "|", ">", "|>", "<|", "[", "<<", "s", " ", "im_end", "/", "\n"])))
def test_no_control_mark_survives_in_a_text(parts: list[str]) -> None:
    text = "".join(parts)
    sent = harmless(text)
    assert not [mark for mark in MARKS if mark in sent]
    assert sent.replace(" ", "") == text.replace(" ", "")
    assert harmless(sent) == sent


@pytest.mark.parametrize(
    "text", ["if a<b and c|d> e", "<html><b>x</b></html>", "List[int] | None", "a <| b |> c", "«s»"]
)
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert harmless(text) == text


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", "elsewhere.test")
    with Stub() as stub:
        monkeypatch.setenv("http_proxy", stub.url.removesuffix("/v1"))
        (got,) = _server(stub, url="http://model.test/v1").complete(_requests(1))
    assert got.text == digest("question 0")
    assert stub.asked[0].path == "http://model.test/v1/chat/completions"


def test_it_can_be_asked_where_an_event_loop_runs_already() -> None:
    async def notebook() -> list[Completion]:
        return server.complete(_requests(20))

    with Stub() as stub:
        server = _server(stub)
        completions = asyncio.run(notebook())
    assert [got.text for got in completions] == [digest(f"question {i}") for i in range(20)]


BATCH = """
import asyncio, sys
from magic_rl.config import EndpointConfig
from magic_rl.endpoints.base import ChatRequest
from magic_rl.endpoints.server import Server
from magic_rl.types import Message
server = Server(EndpointConfig(url=sys.argv[1], model="m"))
async def notebook():
    server.complete([ChatRequest((Message("user", str(i)),)) for i in range(99)])
if sys.argv[2] == "notebook":
    asyncio.new_event_loop().run_until_complete(notebook())
server.complete([ChatRequest((Message("user", str(i)),)) for i in range(99)])
"""


@pytest.mark.parametrize("where", ["script", "notebook"])
def test_ctrl_c_stops_at_once(where: str) -> None:
    with Stub(lambda _: Reply(delay=30)) as stub:
        command = [sys.executable, "-c", BATCH, stub.url, where]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            patience = time.monotonic() + 30
            while len(stub.asked) < 16 and time.monotonic() < patience:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            _, complaint = process.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert process.returncode != 0
    assert complaint.rstrip().endswith("KeyboardInterrupt")
    assert len(stub.asked) == 16


def test_within_a_tenth_of_the_possible_throughput_is_reached() -> None:
    benchmark = str(ROOT / "benchmarks" / "endpoint_throughput.py")
    command = [sys.executable, benchmark, "--concurrency", "8", "--seconds", "4"]
    printed = []
    for _ in range(5):  # what else the machine does can take from a measurement, and add nothing to it
        printed.append(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        if float(printed[-1].split()[-1].rstrip("%")) >= 90:
            return
    pytest.fail("\n".join(printed))
