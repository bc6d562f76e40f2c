"""The client against a server that misbehaves: nothing lost, nothing made up, limits kept."""

from __future__ import annotations

import asyncio
import gzip
import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from typing import Self

import pytest

from magic_rl.chat.base import ChatRequest, Completion, Endpoint
from magic_rl.chat.server import Server
from magic_rl.cli.remedies import in_words
from magic_rl.config import EndpointConfig
from magic_rl.engines.settings import EngineConfig
from magic_rl.errors import ChatError, ConfigError
from magic_rl.runs.judge import make_chat
from magic_rl.types import Message
from tests.support import ROOT
from tests.support.chatting import SCHEMA, answers, requests, server_of
from tests.support.stub_server import Reply, Request, Stub, completion, digest

KEY = "sk-secret"

pytestmark = pytest.mark.usefixtures("short_pauses")

SECOND = completion("made up")
# What the first of every forty questions meet. Once: only at the first attempt. Always: with the failure it ends as.
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


def test_of_hundreds_of_requests_none_is_lost_and_none_made_up() -> None:
    count = 400

    def script(asked: Request) -> Reply:
        kind = int(asked.text.split()[1]) % 40
        if kind < len(ONCE) and not asked.earlier:
            return ONCE[kind]
        kind -= len(ONCE)
        return ALWAYS[kind][0] if 0 <= kind < len(ALWAYS) else Reply(delay=0.002)

    reported: dict[int, Completion] = {}
    tasks = []

    def done(index: int, completion: Completion) -> None:
        assert index not in reported
        reported[index] = completion
        tasks.append(len(asyncio.all_tasks()))

    with Stub(script) as stub:
        server = server_of(stub, concurrency=16, attempts=6)
        completions = server.complete(requests(count), done)

    assert completions == [reported[index] for index in range(count)]
    for index, got in enumerate(completions):
        kind = index % 40 - len(ONCE)
        if 0 <= kind < len(ALWAYS):
            assert got.text == ""
            assert re.fullmatch(ALWAYS[kind][1], got.failed or "")
        else:
            assert got == Completion(digest(f"question {index}"), 10)
    assert len(stub.asked) <= server.calls <= len(stub.asked) + 10  # those that met an answer before they were sent
    assert all(asked.earlier < 6 for asked in stub.asked)
    assert stub.most_at_once <= 16
    assert max(tasks) < 50  # the workers, and those that open a connection: no task per request


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_pause_that_the_server_asks_for_is_kept_by_all_workers(form: str) -> None:
    asked_for: list[tuple[float, float]] = []  # from when until when

    def script(asked: Request) -> Reply:
        if asked.text != "question 20" or asked.earlier:
            return Reply(delay=0.005)
        until = math.ceil(time.time()) + 1
        pause = 1.0 if form == "seconds" else until - time.time()
        asked_for.append((time.monotonic(), time.monotonic() + pause))
        return Reply(status=429, headers={"Retry-After": "1" if form == "seconds" else formatdate(until, usegmt=True)})

    with Stub(script) as stub:
        completions = server_of(stub, concurrency=8).complete(requests(100))
    ((start, end),) = asked_for
    on_their_way = 0.1
    assert not [asked.time for asked in stub.asked if start + on_their_way < asked.time < end - 0.05]
    assert sum(asked.time > end - 0.05 for asked in stub.asked) > 60
    assert stub.most_connections <= 8
    assert completions == answers(100)


def test_a_server_that_wants_an_hour_is_asked_no_more() -> None:
    with Stub(lambda _: Reply(status=429, headers={"Retry-After": "3600"})) as stub:
        completions = server_of(stub).complete(requests(200))
    said = r"the server asks for a pause of 3[56]\d\d s"
    assert all(got.cause == "spent" and re.fullmatch(said, got.failed or "") for got in completions)
    assert len(stub.asked) <= 4


def test_calls_never_exceed_their_budget() -> None:
    with Stub(lambda asked: Reply(status=500 if int(asked.text.split()[1]) % 2 else 200)) as stub:
        server = server_of(stub, max_calls=30, attempts=3)
        first, second = server.complete(requests(10)), server.complete(requests(50))
    assert len(stub.asked) == server.calls == 30
    assert [got.failed for got in first].count("HTTP 500, in 3 attempts") == 5
    assert [got.failed for got in second].count("all 30 calls are spent") >= 50 - 10
    assert all(got.failed or got.text == digest(f"question {i}") for i, got in enumerate(second))


def test_the_time_limit_of_a_batch_keeps_what_is_finished() -> None:
    reported: dict[int, Completion] = {}
    with Stub(lambda _: Reply(delay=0.1)) as stub:
        began = time.monotonic()
        completions = server_of(stub, total_timeout=0.55).complete(requests(60), reported.__setitem__)
        assert time.monotonic() - began < 2
    kept = {index: got for index, got in enumerate(completions) if got.failed is None}
    assert kept == reported
    assert 4 <= len(kept) <= 20
    assert {got.failed for got in completions} == {None, "the batch took longer than 0.55 s"}


@pytest.mark.parametrize("slow", [Reply(delay=9), Reply(drip=0.05), Reply(length_off=1)], ids=["mute", "drip", "short"])
def test_a_call_that_never_ends_is_given_up_and_its_place_is_free(slow: Reply) -> None:
    with Stub(lambda asked: slow if asked.text == "question 1" else Reply()) as stub:
        began = time.monotonic()
        completions = server_of(stub, concurrency=1, timeout=0.3, attempts=2).complete(requests(3))
        assert time.monotonic() - began < 3
    assert [got.failed for got in completions] == [None, "no answer within 0.3 s, in 2 attempts", None]


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "api_key_env to"),
        (402, "account"),
        (403, "api_key_env"),
        (404, "endpoint.model"),
        (307, "into judge.endpoint.url"),
        (None, "running"),
    ],
)
def test_what_will_not_pass_stops_the_batch_with_one_line(
    status: int | None, advice: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with Stub(lambda asked: Reply(status or 200, asked.headers["authorization"].encode())) as stub:
        address = stub.url if status else _nobody()
        config = EndpointConfig(url=address, model="m", api_key_env="THE_KEY", concurrency=4)
        with pytest.raises(ChatError) as caught:
            make_chat(config, EngineConfig(), "judge.endpoint").complete(requests(500))
    said = in_words(caught.value)
    assert re.match(rf"^judge\.endpoint: {address}: [^\n]*; [^\n]*{advice}[^\n]*$", said)
    assert (caught.value.url, caught.value.status) == (address, status)
    assert not re.search("endpoint|api_key|url", caught.value.reason)
    # One 403 may be about its text: it takes four.
    assert len(stub.asked) <= (8 if status == 403 else 4 if status else 0)
    assert KEY not in said + caplog.text


def _nobody() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def test_the_key_is_sent_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Stub(lambda asked: Reply(418, f"no tea for {asked.headers['authorization']}".encode())) as stub:
        (got,) = server_of(stub, key=KEY).complete(requests(1))
    assert stub.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert got.failed == "HTTP 418: no tea for Bearer ***"
    assert KEY not in caplog.text
    config = EndpointConfig(url="http://localhost/v1", model="m", api_key_env="THE_KEY")
    for value, said in ((f"{KEY}\né", "what THE_KEY holds is no key"), ("", "THE_KEY is not set")):
        monkeypatch.setenv("THE_KEY", value)
        with pytest.raises(ConfigError, match=rf"^attacker\.writer\.api_key_env: .*{said}") as caught:
            make_chat(config, EngineConfig(), "attacker.writer")
        assert KEY not in str(caught.value)


def test_what_the_environment_holds_for_another_server_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "BASE_URL", "CUSTOM_HEADERS"):
        monkeypatch.setenv(f"OPENAI_{name}", f"x-{name}: {KEY}".lower())
    with Stub() as stub:
        assert server_of(stub).complete(requests(1)) == answers(1)
    assert not any(KEY in value for value in stub.asked[0].headers.values())
    assert not {"authorization", "openai-organization", "openai-project"} & stub.asked[0].headers.keys()


def test_a_request_arrives_as_it_was_meant() -> None:
    messages = (Message("user", "Say <|im_end|>"), Message("assistant", "<BEGIN CONVERSATION> [INST] \ud800"))
    template = "{{ bos_token }}\n{% for m in messages %}\n({{ m.role }}: {{ m.content }})\n{% endfor %}\n<|assistant|>"
    first = ChatRequest(messages, max_tokens=7, temperature=0.5, template_kwargs={"guideline": "be kind"})
    with Stub() as stub:
        server = server_of(stub, concurrency=1)
        # A digest needs text that can be encoded, which a lone surrogate cannot.
        for request in (first, ChatRequest(messages, template=template)):
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


class PlainWords:
    """A renderer of text that opens no thought."""

    opening = identity = ""

    def given(self, variables: Mapping[str, str]) -> Self:
        return self

    def text(self, messages: Sequence[Message]) -> str:
        return f"({messages[-1].content}) "


def test_a_prefilled_reply_is_sent_to_be_continued() -> None:
    asked = (Message("user", "Count."),)
    with Stub() as stub:
        server_of(stub).complete([ChatRequest(asked, prefill="One, <|im_end|>")])
        Server(Endpoint(stub.url, "m"), renderer=PlainWords()).complete([ChatRequest(asked, prefill="One, ")])
    chat, plain = (each.body for each in stub.asked)
    assert chat["messages"][1:] == [{"role": "assistant", "content": "One, < |im_end|>"}]
    assert (chat["continue_final_message"], chat["add_generation_prompt"]) == (True, False)
    assert plain["prompt"] == "(Count.) One, "


def test_calls_are_spaced_as_the_limit_per_minute_says() -> None:
    with Stub(lambda asked: Reply(status=200 if asked.earlier else 429)) as stub:
        assert server_of(stub, per_minute=1200, attempts=9).complete(requests(6)) == answers(6)
    times = sorted(asked.time for asked in stub.asked)
    assert len(times) == 12  # those that are tried again count
    assert times[-1] - times[0] > 11 * 0.05 - 0.04


def test_it_can_be_asked_where_an_event_loop_runs_already() -> None:
    async def notebook() -> list[Completion]:
        return server.complete(requests(20))

    with Stub() as stub:
        server = server_of(stub)
        assert asyncio.run(notebook()) == answers(20)


BATCH = """
import asyncio, sys
from magic_rl.chat.base import ChatRequest
from magic_rl.chat.base import Endpoint
from magic_rl.chat.server import Server
from magic_rl.types import Message
server = Server(Endpoint(sys.argv[1], "m"))
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


def test_four_fifths_of_the_possible_throughput_are_reached() -> None:
    """On a machine that is busy with other work, only the processor time per call has to allow it."""
    benchmark = str(ROOT / "benchmarks" / "endpoint_throughput.py")
    command = [sys.executable, benchmark, "--concurrency", "16", "--seconds", "2"]
    printed = []
    for _ in range(3):
        printed.append(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        _, rate, _, cpu = printed[-1].splitlines()[-1].split()
        if float(rate) >= 0.8 * 320 or (os.getloadavg()[0] > (os.cpu_count() or 1) and 1000 / float(cpu) >= 0.8 * 320):
            return
    pytest.fail("\n".join(printed))


def test_a_schema_goes_as_the_servers_expect_it() -> None:
    with Stub() as stub:
        server_of(stub).complete(requests(1, schema=SCHEMA))
    form = stub.asked[0].body["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", SCHEMA)
