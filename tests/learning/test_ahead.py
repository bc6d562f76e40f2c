"""Claims about a judge that labels early episodes while later ones are sampled: only the time changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from magic_rl.chat.base import ChatRequest, Completion, Done
from magic_rl.chat.memory import Memory
from magic_rl.config import load_config
from magic_rl.judges.ahead import asked_early
from magic_rl.judges.guards import GUARDS
from magic_rl.judges.model import ModelJudge
from magic_rl.judges.panel import Panel
from magic_rl.judges.rules import RulesJudge
from magic_rl.runs.train import train
from magic_rl.types import Exchange, Seed
from tests.runs.test_train import Silent
from tests.support.stub_server import Reply, Request, Stub, completion, digest

pytest.importorskip("tinker", reason="the extra 'tinker' is not installed")

from tests.support.fake_tinker import FakeTinker
from tests.support.fake_vllm import Body, FakeVllm, Fault

SAID = "Safety: Safe\nCategories: None\nRefusal: {}"


def guard(asked: Request) -> Reply:
    """A guard that labels by the text."""
    return Reply(body=completion(SAID.format("Yes" if int(digest(asked.text), 16) % 2 else "No")))


@pytest.fixture
def events() -> list[str]:
    """What was asked, in order: the name of an adapter, or "judge"."""
    return []


@pytest.fixture
def stub(events: list[str]) -> Iterator[Stub]:
    def script(asked: Request) -> Reply:
        events.append("judge")
        return guard(asked)

    with Stub(script) as server:
        yield server


def early(events: list[str]) -> int:
    """Number of questions to the judge between two samples of one defender, while its step is still being sampled."""
    found = 0
    for place, who in enumerate(events):
        before, after = ([each for each in part if each != "judge"] for part in (events[:place], events[place:]))
        if who == "judge" and before and after and before[-1] == after[0] and "defender" in after[0]:
            found += 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize("turns", [1, 2])
def test_labels_that_come_early_change_no_metric(
    tiny_config: Path, tiny_model: Path, tmp_path: Path, stub: Stub, events: list[str], turns: int
) -> None:
    with FakeVllm(tiny_model, rank=16) as server:

        def slow(path: str, body: Body) -> Fault:
            if path == "/v1/completions":
                time.sleep(0.05)
                events.append(body["model"])
            return None

        server.fault = slow
        settings = ["judge.kind=qwen3guard", f'judge.endpoint={{model="m", url="{stub.url}"}}', "store.answers=ANSWERS"]
        settings += ["engine.sampler=vllm", f'engine.vllm.urls=["{server.url}"]', "engine.rows_per_batch=1"]
        settings += ["attacker.sampling.max_tokens=60", "defender.sampling.max_tokens=60", f"game.turns={turns}"]

        def metrics(name: str) -> bytes:
            events.clear()
            given = [setting.replace("ANSWERS", str(tmp_path / f"{name}.sqlite")) for setting in settings]
            return (
                train(load_config(tiny_config, given), tmp_path / name, Silent()).path / "metrics.jsonl"
            ).read_bytes()

        overlapped = metrics("overlapped")
        assert early(events) > 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ModelJudge, "early", False)
            assert metrics("in turns") == overlapped
        assert early(events) == 0
        assert json.loads(overlapped.splitlines()[-1])["episodes"] > 0


class Chat:
    """A guard on a server; `asked` counts questions."""

    name = identity = "guard"

    def __init__(self, answer: Callable[[], Completion] = lambda: Completion(SAID.format("No"))) -> None:
        self.asked, self._answer = 0, answer

    def complete(self, requests: list[ChatRequest], done: Done | None = None) -> list[Completion]:
        self.asked += len(requests)
        out = [self._answer() for _ in requests]
        for place, said in enumerate(out):
            if done:
                done(place, said)
        return out


def exchanges(count: int) -> list[Exchange]:
    return [Exchange(Seed(f"{i}", f"seed {i}", "harmful"), f"attack {i}", f"reply {i}") for i in range(count)]


def judge_of(chat: Chat, folder: Path) -> ModelJudge:
    return ModelJudge(GUARDS["qwen3guard"], chat, label_request=False, memory=Memory(folder / "answers"))  # type: ignore[arg-type]


def test_a_panel_asks_each_model_once_however_early(tmp_path: Path) -> None:
    chat = Chat()
    judge = Panel([RulesJudge(), judge_of(chat, tmp_path)], "majority")
    with asked_early(judge) as label:
        assert label
        label(exchanges(3))
        until = time.monotonic() + 10
        while chat.asked < 3 and time.monotonic() < until:
            time.sleep(0.01)
    assert len(judge.judge(exchanges(5))) == 5
    assert chat.asked == 5
    assert [len(votes.verdicts) for votes in judge.votes] == [5, 5]


def test_what_goes_wrong_early_is_met_in_its_own_time(tmp_path: Path) -> None:
    def broken() -> Completion:
        raise OSError("no route")

    judge = judge_of(Chat(broken), tmp_path)
    with asked_early(judge) as label:
        assert label
        label(exchanges(2))
        time.sleep(0.1)
    with pytest.raises(OSError, match="no route"):
        judge.judge(exchanges(2))


def test_a_judge_that_would_forget_is_not_asked_early() -> None:
    forgetful = ModelJudge(GUARDS["qwen3guard"], Chat(), label_request=False)  # type: ignore[arg-type]
    for judge in (forgetful, RulesJudge()):
        with asked_early(judge) as label:
            assert label is None


def test_a_server_of_weights_hands_over_each_prompt(tiny_model: Path) -> None:
    from magic_rl.engines.settings import EngineConfig, LoraConfig, TinkerConfig
    from magic_rl.engines.tinker.engine import TinkerEngine
    from magic_rl.types import Sample, SamplingParams

    with FakeTinker(tiny_model) as fake:
        where = TinkerConfig(server="tuft", url=fake.url)
        policy = TinkerEngine(str(tiny_model), LoraConfig(rank=4), EngineConfig(kind="tinker", tinker=where)).base()
        prompts, told = [(5, 9, 30), (7, 8)], dict[int, list[Sample]]()
        said = policy.stream(prompts, 2, SamplingParams(6), 3, told.__setitem__)
        assert said == [told[0], told[1]] == policy.sample(prompts, 2, SamplingParams(6), 3)
