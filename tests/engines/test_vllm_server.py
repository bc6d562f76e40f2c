"""The real vLLM samples for a tiny model: the same distribution as the local engine's, and the whole loop."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from magic_rl.config import load_config
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.engines.vllm.engine import ServedEngine, served
from magic_rl.runs.train import resume, train
from magic_rl.types import Adam, CrossEntropy, Datum, Message, SamplingParams
from tests.conftest import TINY_CONFIG
from tests.runs.test_train import Silent
from tests.support.curves import LEARNED, TOLERANCE, apart, curve
from tests.support.tiny_engine import PROMPTS
from tests.support.tiny_llama import save_tiny_llama

PYTHON = Path(os.environ.get("MAGIC_RL_SERVING") or Path(sys.prefix) / "serving") / "bin" / "python"
ARGUMENTS = ("--max-model-len", "2048", "--max-num-seqs", "32", "--enforce-eager")
# A server on a CPU that shares its cores with the learner.
FRUGAL = {
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
PHRASES = ("No.", "Yes.", "Perhaps.", "Ask again.", "I cannot say.")
LESSON = Datum(PROMPTS[0], (4, 5, 6, 7))
CLOSE = 2e-3  # nats: float32 on both sides, in other orders of summation

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"no server's environment at {PYTHON}; `make test-all` sets it up"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that says one of a few phrases, with heads of a width that vLLM supports."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny") / "model", PHRASES, head_size=64)


@pytest.fixture(scope="module")
def local(model: Path) -> LocalEngine:
    settings = {"python": str(PYTHON), "arguments": ARGUMENTS}
    config = EngineConfig(device="cpu", dtype="float32", threads=1, sampler="vllm", vllm=settings)
    return LocalEngine(model, LoraConfig(), config)


@pytest.fixture(scope="module")
def engine(local: LocalEngine) -> Iterator[ServedEngine]:
    """The local engine with a vLLM server that was started for it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FRUGAL.items():
            patch.setenv(name, value)
        made = served({"one": local}, local.config)["one"]
    yield made
    for replica in made._servers.replicas:
        if replica.own:
            replica.own.stop()


def taught(policy: Any, lesson: Datum = LESSON, lr: float = 0.005) -> Any:
    policy.forward_backward([lesson], CrossEntropy())
    policy.optim_step(Adam(lr=lr))
    return policy


def test_log_probabilities_are_ours_for_every_version(engine: ServedEngine) -> None:
    policy = engine.new_policy("p")
    versions = [engine.base(), *(taught(policy).snapshot(f"{i}") for i in range(3))]
    for version in versions:
        samples = [sample for group in version.sample(PROMPTS, 4, SamplingParams(8), 1) for sample in group]
        ours = version.logprobs([(sample.prompt, sample.tokens) for sample in samples])
        theirs = np.concatenate([sample.logprobs for sample in samples])
        assert np.abs(np.concatenate(ours) - theirs).max() < CLOSE
    assert "nats" in str(engine.path)


def test_samples_end_where_ours_do_and_repeat_with_their_seed(engine: ServedEngine) -> None:
    policy, params, stops = taught(engine.new_policy("p")), SamplingParams(2), engine.renderer.stop_ids
    samples = [sample for group in policy.sample(PROMPTS, 8, params, 1) for sample in group]
    assert {sample.finish for sample in samples} == {"stop", "length"}
    for sample in samples:
        ended = sample.tokens[-1] in stops
        assert (sample.finish == "stop") is ended
        assert not stops & set(sample.tokens[:-1])
        assert ended or len(sample.tokens) == 2
    assert [s for group in policy.sample(PROMPTS, 8, params, 1) for s in group] == samples
    (eight,) = policy.sample([PROMPTS[0]], 8, params, 1)
    assert [s.tokens for group in policy.sample([PROMPTS[0]] * 4, 2, params, 1) for s in group] == [
        s.tokens for s in eight
    ]
    assert len({sample.tokens for sample in samples}) > 4


def test_both_samplers_draw_from_the_same_distribution(
    engine: ServedEngine, local: LocalEngine, tmp_path: Path
) -> None:
    prompt = engine.renderer.prompt([Message("user", "Hello.")])
    policy = engine.new_policy("p")
    for _ in range(2):
        taught(policy, Datum(prompt, engine.renderer.completion(PHRASES[0])), lr=5e-5)
    policy.save(tmp_path)
    n = 1500

    def drawn(by: Any) -> Counter[tuple[int, ...]]:
        groups = by.sample([prompt] * (n // 50), 50, SamplingParams(2), 3)
        return Counter(sample.tokens for group in groups for sample in group)

    def alike(one: Counter[tuple[int, ...]], other: Counter[tuple[int, ...]]) -> float:
        """The p-value of the hypothesis that both have the same distribution; rare kinds are counted as one."""
        usual = [kind for kind, count in (one + other).items() if count >= 10]
        assert len(usual) > len(PHRASES)  # each of them, then the end, and the end at once
        return float(
            chi2_contingency([[*(c[k] for k in usual), n + 1 - sum(c[k] for k in usual)] for c in (one, other)]).pvalue
        )

    here = drawn(local.load(tmp_path, "p"))
    assert alike(here, drawn(policy)) > 1e-3
    assert alike(here, drawn(engine.base())) < 1e-6  # it sees what two small steps of learning change


def test_the_reward_curve_is_the_local_engine_s(
    engine: ServedEngine, local: LocalEngine, model: Path, seeds_file: Path, tmp_path: Path
) -> None:
    here, there = (
        curve(each, model, seeds_file, tmp_path / name, lr=3e-4) for name, each in (("here", local), ("there", engine))
    )
    assert apart(here, there) < TOLERANCE
    assert here[-1] - here[0] > LEARNED


def test_a_server_that_was_killed_is_started_again(engine: ServedEngine) -> None:
    policy = taught(engine.new_policy("p"))
    expected = policy.sample(PROMPTS, 2, SamplingParams(8), 0)
    (replica,) = engine._servers.replicas
    assert replica.own
    warden = replica.own._process.pid
    (server,) = Path(f"/proc/{warden}/task/{warden}/children").read_text().split()
    os.kill(int(server), signal.SIGKILL)
    replica.own._process.wait(30)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FRUGAL.items():
            patch.setenv(name, value)
        assert policy.sample(PROMPTS, 2, SamplingParams(8), 0) == expected


def test_the_whole_loop_learns_from_what_a_server_samples(
    engine: ServedEngine, model: Path, seeds_file: Path, tmp_path: Path
) -> None:
    (replica,) = engine._servers.replicas
    file = tmp_path / "tiny.toml"
    file.write_text(TINY_CONFIG.format(model=json.dumps(str(model)), seeds=json.dumps(str(seeds_file))))
    settings = ["engine.sampler=vllm", f'engine.vllm.urls=["{replica.url}"]', "game.turns=2", "game.opponents=uniform"]

    class Stop(Silent):
        def step(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
            if metrics["step"] == 3:
                signal.raise_signal(signal.SIGINT)

    train(load_config(file, [*settings, "game.schedule.rounds=2"]), tmp_path / "run", Stop())
    run = resume(tmp_path / "run", Silent())
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5]
    steps = [row for row in run.metrics() if row["stage"] == "play"]
    assert [row["learner"] for row in steps] == ["defender", "attacker"] * 2
    learned = [row for row in steps if "mismatch" in row]
    assert learned
    for row in learned:
        assert 0 < row["mismatch"] < CLOSE
        assert math.isclose(row["effective_samples"], 1, rel_tol=1e-3)
