"""Servers that sample: versions follow each update, faults change nothing, and a server that cheats is caught."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from magic_rl.config import load_config
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.engines.vllm import warden
from magic_rl.engines.vllm.engine import ServedEngine, served
from magic_rl.errors import EngineError, MismatchError
from magic_rl.runs.assembly import loop_settings
from magic_rl.runs.train import resume, train
from magic_rl.store.run import RunDirectory
from magic_rl.types import PPO, Adam, CrossEntropy, Datum, SamplingParams
from tests.runs.test_train import Silent
from tests.support.fake_vllm import Body, FakeVllm, Fault, error, stand_in
from tests.support.tiny_engine import PROMPTS
from tests.support.tiny_llama import save_tiny_llama

PARAMS = SamplingParams(8)
LESSON = [Datum((1, 2, 3), (4, 5, 6, 7))]


def config(*urls: str, **settings: Any) -> EngineConfig:
    vllm = {"urls": urls, "patience": 5.0, **settings}
    return EngineConfig(device="cpu", dtype="float32", threads=1, sampler="vllm", vllm=vllm)


@functools.cache
def learner(model: Path, rank: int = 4) -> LocalEngine:
    return LocalEngine(model, LoraConfig(rank=rank), EngineConfig(device="cpu", dtype="float32", threads=1))


def engine_on(model: Path, *servers: FakeVllm, **settings: Any) -> ServedEngine:
    return served({"one": learner(model)}, config(*(server.url for server in servers), **settings))["one"]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magic_rl.engines.vllm.calls._PAUSES", (0.01, 0.1))


@pytest.fixture
def server(tiny_model: Path) -> Iterator[FakeVllm]:
    with FakeVllm(tiny_model) as fake:
        yield fake


def taught(policy: Any) -> Any:
    policy.forward_backward(LESSON, CrossEntropy())
    policy.optim_step(Adam(lr=0.05))
    return policy


def apart(policy: Any, rng_seed: int = 0) -> float:
    """Largest difference between the log-probabilities that samples come with and the policy's own."""
    samples = [sample for group in policy.sample(PROMPTS, 3, PARAMS, rng_seed) for sample in group]
    ours = policy.logprobs([(sample.prompt, sample.tokens) for sample in samples])
    return max(float(np.abs(np.subtract(o, s.logprobs)).max()) for o, s in zip(ours, samples, strict=True))


def test_servers_sample_from_each_version_as_it_is(tiny_model: Path, server: FakeVllm) -> None:
    policy = engine_on(tiny_model, server).new_policy("attacker")
    before = taught(policy).snapshot("before")
    assert apart(policy) < 1e-4
    for number in range(2):
        assert apart(taught(policy), number) < 1e-4
    assert apart(before) < 1e-4
    assert before.sample(PROMPTS, 2, PARAMS, 1) != policy.sample(PROMPTS, 2, PARAMS, 1)


def test_a_version_has_a_name_of_its_own_and_old_ones_go(tiny_model: Path, server: FakeVllm) -> None:
    engines = [engine_on(tiny_model, server) for _ in range(2)]
    policies = [engine.new_policy("attacker") for engine in engines]
    for _ in range(3):
        for policy in policies:
            taught(policy).sample(PROMPTS, 1, PARAMS, 0)
    loaded = [body["lora_name"] for path, body in server.asked if path == "/v1/load_lora_adapter"]
    assert len(set(loaded)) == len(loaded) == 8  # a trial and three versions of each
    gc.collect()
    for policy in policies:
        policy.sample(PROMPTS, 1, PARAMS, 0)
    assert len(server.adapters) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_a_row_depends_on_its_number_alone(tiny_model: Path, count: int) -> None:
    servers = [FakeVllm(tiny_model) for _ in range(count)]
    policy = taught(engine_on(tiny_model, *servers).new_policy("p"))
    (six,) = policy.sample([PROMPTS[0]], 6, PARAMS, 5)
    three = policy.sample([PROMPTS[0]] * 3, 2, PARAMS, 5)
    assert [sample for group in three for sample in group] == six
    assert len({sample.tokens for sample in six}) > 3
    assert policy.sample(PROMPTS, 2, PARAMS, 5) != policy.sample(PROMPTS, 2, PARAMS, 6)
    assert [group[0].prompt for group in policy.sample(PROMPTS * 4, 1, PARAMS, 5)] == PROMPTS * 4
    assert all(server.count("/v1/completions") > 2 for server in servers)
    for server in servers:
        server.stop()


def test_greedy_samples_are_the_local_engine_s(tiny_model: Path, server: FakeVllm) -> None:
    greedy = SamplingParams(6, temperature=0.0)
    local = learner(tiny_model).base().sample(PROMPTS, 2, greedy, 0)
    asked = engine_on(tiny_model, server).base().sample(PROMPTS, 2, greedy, 0)
    for ours, theirs in zip(local, asked, strict=True):
        assert [sample.tokens for sample in theirs] == [sample.tokens for sample in ours]
        np.testing.assert_allclose([s.logprobs for s in theirs], [s.logprobs for s in ours], atol=1e-4)


def all_of(_: str, tensor: torch.Tensor) -> None:
    tensor.zero_()


def one_kind(name: str, tensor: torch.Tensor) -> None:
    if ".down_proj." in name:
        tensor.zero_()


@pytest.mark.parametrize(("spoil", "says"), [(all_of, "ignores adapters"), (one_kind, "does not use all")])
def test_an_adapter_that_is_ignored_is_an_error(
    tiny_model: Path, server: FakeVllm, spoil: Callable[[str, torch.Tensor], None], says: str
) -> None:
    server.spoil = spoil
    with pytest.raises(MismatchError, match=says):
        engine_on(tiny_model, server)


def test_a_server_of_another_model_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with (
        FakeVllm(save_tiny_llama(tmp_path / "other", ["No."])) as server,
        pytest.raises(MismatchError, match="another"),
    ):
        engine_on(tiny_model, server)


def test_two_base_models_find_their_servers(tiny_model: Path, tmp_path: Path) -> None:
    other = save_tiny_llama(tmp_path / "other", ["No."])
    with FakeVllm(tiny_model) as one, FakeVllm(other) as two:
        given = config(two.url, one.url)
        engines = {path: learner(path) for path in (tiny_model, other)}
        assert all(apart(engine.base()) < 1e-4 for engine in served(engines, given).values())
        with pytest.raises(EngineError, match="none of"):
            served(engines, config(one.url))


def first_attempts(fault: Fault) -> Callable[[str, Body], Fault]:
    """A fault for the first attempt of every request."""
    seen: set[str] = set()

    def script(path: str, body: Body) -> Fault:
        request = f"{path} {json.dumps(body)}"
        if request in seen:
            return None
        seen.add(request)
        return fault

    return script


@pytest.mark.parametrize(
    "fault", [(503, error("starting")), (429, {}), (200, {"error": {"code": 500}}), "drop", "hang"]
)
def test_what_may_pass_is_tried_again(tiny_model: Path, server: FakeVllm, fault: Fault) -> None:
    policy = taught(engine_on(tiny_model, server, patience=30.0, timeout=5.0).new_policy("p"))
    expected = policy.sample(PROMPTS, 2, PARAMS, 0)
    policy._version = None  # to be loaded again
    server.fault = first_attempts(fault)
    assert policy.sample(PROMPTS, 2, PARAMS, 0) == expected


def test_an_adapter_that_was_dropped_is_loaded_again(tiny_model: Path, server: FakeVllm) -> None:
    policies = [taught(engine_on(tiny_model, server).new_policy("p")) for _ in range(3)]
    server.keep = 1
    assert all(apart(policy) < 1e-4 for policy in policies * 2)
    assert server.count("/v1/load_lora_adapter") >= 3 + 6


@pytest.mark.parametrize(
    ("path", "fault", "says"),
    [
        ("/v1/completions", (500, error("CUDA error")), "CUDA error, for 0.3 s"),
        ("/v1/completions", (400, error("longer than the maximum")), "400: longer than"),
        ("/v1/completions", (200, {"choices": [{"text": "no ids"}]}), "no token ids"),
        ("/v1/load_lora_adapter", (404, {"detail": "Not Found"}), "does not load an adapter"),
        ("/v1/load_lora_adapter", (500, error("rank 4 is greater than max_lora_rank 2")), "rank 4"),
        ("/v1/completions", "drop", "cannot be reached"),
    ],
)
def test_what_does_not_pass_ends_in_one_line(
    tiny_model: Path, server: FakeVllm, path: str, fault: Fault, says: str
) -> None:
    policy = taught(engine_on(tiny_model, server, patience=0.3).new_policy("p"))
    server.fault = lambda asked, _: fault if asked == path else None
    with pytest.raises(EngineError, match=says) as caught:
        policy.sample(PROMPTS, 1, PARAMS, 0)
    assert "\n" not in str(caught.value)


def test_the_correction_is_on_where_another_program_samples(tiny_config: Path) -> None:
    both = (load_config(tiny_config), load_config(tiny_config, ["engine.sampler=vllm"]))
    assert [loop_settings(each).learning.correction for each in both] == ["none", "token_truncate"]
    off = load_config(tiny_config, ["engine.sampler=vllm", "learning.correction=none"])
    assert loop_settings(off).learning.correction == "none"


def metrics(run: RunDirectory) -> list[dict[str, Any]]:
    """Every number of every step, rounded as servers round."""
    return [{k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in run.metrics()]


STEPS = ("game.schedule.rounds=2", "engine.vllm.patience=20", "store.checkpoint_every=100")


def learn(policy: Any, number: int) -> dict[str, float]:
    """One step: sampled by the server, learned from here."""
    samples = [sample for group in policy.sample(PROMPTS, 2, PARAMS, number) for sample in group]
    datums = [
        Datum(each.prompt, each.tokens, 0.1, (float(1 - i % 3),) * len(each.tokens), each.logprobs)
        for i, each in enumerate(samples)
    ]
    return {**policy.forward_backward(datums, PPO()), **policy.optim_step(Adam(lr=0.01))}


MOMENTS = [
    (request, number, how)
    for request, count in (("unload_lora_adapter", 1), ("load_lora_adapter", 1), ("completions", 3))
    for number in range(count)
    for how in ("drop", "lose")  # before its work is done, and after
]


@pytest.mark.slow
@pytest.mark.parametrize(("request_", "number", "how"), MOMENTS)
def test_a_server_killed_in_a_step_changes_none(
    tiny_model: Path, server: FakeVllm, tmp_path: Path, request_: str, number: int, how: str
) -> None:
    engine = engine_on(tiny_model, server, patience=60.0)
    unbroken = engine.new_policy("unbroken")
    expected = [learn(unbroken, step) for step in range(3)]
    broken = engine.new_policy("unbroken")
    found, seen = [learn(broken, 0)], itertools.count()

    def restart() -> None:
        server.stop()
        time.sleep(0.2)
        server.start()

    def dies(path: str, _body: Body) -> Fault:
        if path != f"/v1/{request_}" or next(seen) != number:
            return None
        threading.Thread(target=restart).start()
        return how

    server.fault = dies
    found.append(learn(broken, 1))
    assert next(seen) > number
    server.fault = lambda _path, _body: None
    found.append(learn(broken, 2))
    assert found == [pytest.approx(each, abs=1e-5) for each in expected]
    assert np.abs(np.subtract(broken.logprobs([((1, 2), (3, 4))]), unbroken.logprobs([((1, 2), (3, 4))]))).max() < 1e-5
    broken.save(tmp_path)
    state = load_file(tmp_path / "optimizer.safetensors")
    assert {int(value) for name, value in state.items() if name.endswith(":step")} == {3}


@pytest.mark.slow
def test_a_server_killed_ten_times_in_a_run_changes_no_step(
    tiny_config: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with FakeVllm(tiny_model, rank=16) as server:
        settings = load_config(tiny_config, [*STEPS, "engine.sampler=vllm", f'engine.vllm.urls=["{server.url}"]'])
        unbroken = train(settings, tmp_path / "unbroken", Silent())
        moments = set(np.linspace(3, len(server.asked) - 2, 10).astype(int).tolist())
        asked, died = itertools.count(), []

        def dies(_path: str, _body: Body) -> Fault:
            if next(asked) not in moments:
                return None
            died.append(threading.Thread(target=server.stop))
            died[-1].start()
            threading.Timer(0.3, server.start).start()
            return "drop"

        server.fault = dies
        assert metrics(train(settings, tmp_path / "broken", Silent())) == metrics(unbroken)
        assert len(died) == 10


@pytest.mark.slow
def test_a_server_that_stays_away_ends_the_run_saved(tiny_config: Path, tiny_model: Path, tmp_path: Path) -> None:
    with FakeVllm(tiny_model, rank=16) as server:
        given = [*STEPS, "engine.sampler=vllm", f'engine.vllm.urls=["{server.url}"]']
        settings = load_config(tiny_config, given)
        unbroken = train(settings, tmp_path / "unbroken", Silent())
        loads = server.count("/v1/load_lora_adapter")

        def dies_in_the_game(_path: str, _body: Body) -> Fault:
            return "drop" if server.count("/v1/load_lora_adapter") >= 2 * loads else None  # at the last version

        server.fault = dies_in_the_game
        with pytest.raises(EngineError, match="cannot be reached"):
            train(load_config(tiny_config, [*given, "engine.vllm.patience=0.2"]), tmp_path / "run", Silent())
        server.fault = lambda _path, _body: None
        saved = RunDirectory.open(tmp_path / "run")
        checkpoint = saved.latest_checkpoint()
        assert checkpoint
        assert checkpoint.step == len(metrics(saved)) > 1
        assert metrics(resume(tmp_path / "run", Silent(), ["engine.vllm.patience=20"])) == metrics(unbroken)


@pytest.mark.slow
def test_a_server_of_our_own_is_started_again_and_ends_with_us(tiny_model: Path, tmp_path: Path) -> None:
    given = config(python=str(stand_in(tmp_path)), folder=str(tmp_path / "shared"), patience=100.0)
    engine = served({"one": learner(tiny_model, rank=16)}, given)["one"]
    (replica,) = engine._servers.replicas
    policy = taught(engine.new_policy("p"))
    expected = policy.sample(PROMPTS, 2, PARAMS, 0)
    assert replica.own
    first = replica.own._process.pid
    for child in children(first):
        os.kill(child, signal.SIGKILL)
    assert policy.sample(PROMPTS, 2, PARAMS, 0) == expected
    last = replica.own._process.pid
    assert last != first
    replica.own.stop()
    assert not Path(f"/proc/{last}").exists()
    assert list((tmp_path / "shared").glob("*.log"))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_server_that_cannot_start_says_why(tiny_model: Path, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'ValueError: no such dtype'\necho done\nexit 1\n")
    program.chmod(0o755)
    given = config(python=str(program), folder=str(tmp_path))
    with pytest.raises(EngineError, match=r"ended while it started: ValueError: no such dtype; see .*\.log"):
        served({"one": learner(tiny_model)}, given)


def test_a_killed_run_leaves_no_server(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        f"process = subprocess.Popen([sys.executable, {warden.__file__!r}, 'sleep', '600'], stdin=subprocess.PIPE)\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert run.stdout
    watching = int(run.stdout.readline())
    until = time.monotonic() + 10
    while not children(watching) and time.monotonic() < until:
        time.sleep(0.02)
    (sleeping,) = children(watching)
    run.kill()
    run.wait()
    while Path(f"/proc/{sleeping}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(f"/proc/{sleeping}").exists()
