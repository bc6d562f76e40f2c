"""Claims about several processes that compute together: the numbers of one, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.policy import LocalPolicy
from magic_rl.engines.local.workers import Workers, cut, dealt
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.errors import UserError
from magic_rl.types import PPO, Adam, Datum, Sample, SamplingParams
from tests.support.tiny_engine import PROMPTS, engine, gradients

GREEDY = SamplingParams(8, temperature=0)


@pytest.fixture(scope="module")
def alone(tiny_model: Path) -> LocalEngine:
    return engine(tiny_model)


@pytest.fixture(scope="module")
def several(tiny_model: Path) -> Iterator[LocalEngine]:
    before = torch.get_num_threads()
    config = EngineConfig(device="cpu", dtype="float32", threads=3, processes=3)
    made = LocalEngine(tiny_model, LoraConfig(rank=4), config)
    yield made
    made.workers.stop()
    torch.set_num_threads(before)


def learned(policy: LocalPolicy, samples: list[list[Sample]]) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Metrics and the accumulated gradient of two calls."""
    datums = _datums(samples)
    metrics = policy.forward_backward(datums, PPO())
    policy.forward_backward(datums[:1], PPO())
    return metrics, gradients(policy)


def _datums(samples: list[list[Sample]]) -> list[Datum]:
    rng = np.random.default_rng(0)
    return [
        Datum(s.prompt, s.tokens, 1 / len(s.tokens), tuple(rng.normal(size=len(s.tokens)).tolist()), s.logprobs)
        for group in samples
        for s in group
    ]


def test_processes_sample_score_and_learn_as_one_does(alone: LocalEngine, several: LocalEngine) -> None:
    params, one, many = SamplingParams(20), alone.new_policy("p"), several.new_policy("p")
    for step in range(3):
        expected, found = (policy.sample(PROMPTS, 4, params, rng_seed=step) for policy in (one, many))
        for ours, theirs in zip(chain(*found), chain(*expected), strict=True):
            assert (ours.prompt, ours.tokens, ours.finish) == (theirs.prompt, theirs.tokens, theirs.finish)
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
        pairs = [(s.prompt, s.tokens) for group in expected for s in group]
        for ours_, theirs_ in zip(many.logprobs(pairs), one.logprobs(pairs), strict=True):
            np.testing.assert_allclose(ours_, theirs_, atol=1e-4)
        (metrics, gradient), (expected_metrics, expected_gradient) = learned(many, expected), learned(one, expected)
        assert metrics == pytest.approx(expected_metrics, abs=1e-5)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-5)
        adam = Adam(lr=1e-2)
        assert many.optim_step(adam) == pytest.approx(one.optim_step(adam), rel=1e-4)


def test_the_same_processes_give_equal_numbers_again(several: LocalEngine) -> None:
    def one_step() -> tuple[object, ...]:
        policy = several.new_policy("again")
        samples = policy.sample(PROMPTS, 4, SamplingParams(20), rng_seed=1)
        metrics, gradient = learned(policy, samples)
        return samples, metrics, [part.tolist() for part in gradient]

    assert one_step() == one_step()


def test_the_base_and_a_snapshot_are_sampled_as_they_are(alone: LocalEngine, several: LocalEngine) -> None:
    policy = several.new_policy("p")
    learned(policy, policy.sample(PROMPTS, 4, SamplingParams(20), rng_seed=1))
    before = policy.sample(PROMPTS, 1, GREEDY, 0)
    snapshot = policy.snapshot("then")
    policy.optim_step(Adam(lr=1.0))
    assert policy.sample(PROMPTS, 1, GREEDY, 0) != before
    assert snapshot.sample(PROMPTS, 1, GREEDY, 0) == before
    for ours, theirs in zip(
        several.base().sample(PROMPTS, 1, GREEDY, 0), alone.base().sample(PROMPTS, 1, GREEDY, 0), strict=True
    ):
        assert ours[0].tokens == theirs[0].tokens


def test_fewer_prompts_than_processes_are_no_trouble(several: LocalEngine) -> None:
    policy = several.new_policy("p")
    assert len(policy.sample(PROMPTS[:1], 2, GREEDY, 0)[0]) == 2
    assert len(policy.logprobs([(PROMPTS[0], PROMPTS[1])])) == 1
    assert policy.sample([], 2, GREEDY, 0) == []
    assert policy.logprobs([]) == []


def test_a_share_has_the_threads_that_others_leave(several: LocalEngine) -> None:
    threads = []
    for shares in (1, 2, 3):
        with several.computing(shares):
            threads.append(torch.get_num_threads())
    assert (threads, torch.get_num_threads()) == ([3, 2, 1], 3)


def test_an_adapter_that_no_pass_uses_has_no_gradient(several: LocalEngine) -> None:
    policy = several.new_policy("p")
    samples = policy.sample(PROMPTS, 4, SamplingParams(8), rng_seed=1)
    grown = LocalPolicy("p", several, {**policy._parameters, "unused": torch.nn.Parameter(torch.zeros(3))})
    result, gradient = grown.compute(LocalPolicy._learn, _vector(grown), (_datums(samples), PPO()))
    assert result
    assert set(gradient) == set(policy._parameters)


def test_an_error_in_a_worker_is_raised_here_and_the_next_call_is_answered(several: LocalEngine) -> None:
    policy = several.new_policy("p")
    wrong = 10**9  # no id of this model
    with pytest.raises(IndexError) as raised:
        policy.logprobs([(PROMPTS[0], PROMPTS[1]), ((wrong,), (wrong, wrong))])
    assert any("worker process" in note for note in raised.value.__notes__)
    assert len(policy.logprobs([(PROMPTS[0], PROMPTS[1])] * 3)) == 3


def test_an_error_that_cannot_be_sent_is_named_all_the_same() -> None:
    workers = Workers(1, failing)
    with pytest.raises(RuntimeError, match="UnsendableError: no model"):
        workers.give([(1,)])()


def test_words_of_a_library_on_standard_output_are_an_error_of_the_worker(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello', flush=True)")
    code = (
        "from magic_rl.engines.local.workers import Workers; from tests.engines.test_workers import echo\n"
        "Workers(1, echo).give([(1,)])()"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert "a worker process has ended" in done.stderr


def test_after_an_interrupted_call_the_next_one_is_answered() -> None:
    workers = Workers(1, echo)
    workers.give([(bytes(10**7),)])  # more than a pipe holds, and nobody reads it
    assert workers.give([(2,)])() == [2]
    assert workers.give([(3,)])() == [3]
    workers.stop()
    assert workers.give([(4,)])() == [4]


def test_a_worker_that_is_killed_is_one_line() -> None:
    workers = Workers(1, echo)
    os.kill(workers.pids[0], 9)
    with pytest.raises(UserError, match="exit status -9"):
        workers.give([(1,)])()


@pytest.mark.parametrize(
    "ends",
    ["pass", "os.kill(os.getpid(), 9)", "raise KeyboardInterrupt", "w.give([(3,), (4,)]); os.kill(os.getpid(), 9)"],
)
def test_no_worker_outlives_the_process_that_started_it(ends: str) -> None:
    begin = "import os; from magic_rl.engines.local.workers import Workers; from tests.engines.test_workers import echo"
    code = f"{begin}; w = Workers(2, echo); w.give([(1,), (2,)])(); print(*w.pids, flush=True); {ends}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    for _ in range(100):
        if not any(map(_runs, pids)):
            return
        time.sleep(0.1)
    raise AssertionError(f"{pids} still run")


def test_a_script_needs_no_guard_against_being_run_twice(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"""
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.settings import EngineConfig
from magic_rl.types import SamplingParams
engine = LocalEngine({str(tiny_model)!r}, config=EngineConfig(device="cpu", threads=2, processes=2))
print(len(engine.base().sample([(1, 2), (3, 4)], 1, SamplingParams(2), 0)))
""")
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


tokens = st.lists(st.integers(0, 3), max_size=4).map(tuple)


@given(st.lists(st.tuples(tokens, tokens), max_size=12), st.integers(1, 4))
def test_shares_hold_everything_once(sequences: list[tuple[tuple[int, ...], tuple[int, ...]]], parts: int) -> None:
    for shares in (cut(sequences, parts), dealt([prompt for prompt, _ in sequences], parts)):
        assert sorted(chain(*shares)) == list(range(len(sequences)))
        assert len(shares) <= parts
        assert all(shares)
    assert all(share == sorted(share) for share in cut(sequences, parts))


def test_shares_are_even_and_keep_groups_together() -> None:
    sequences = [((group,) * 50, (0,) * 10) for group in (0, 1, 2, 3) for _ in range(8)]
    assert [{sequences[i][0][0] for i in share} for share in cut(sequences, 2)] == [{0, 1}, {2, 3}]
    assert list(map(len, cut([((0,), (1,) * 10)] * 30, 3))) == [10, 10, 10]
    prompts = [(0,) * length for length in range(1, 9)]
    one, two = (sum(len(prompts[i]) for i in share) for share in dealt(prompts, 2))
    assert abs(one - two) <= 4


class UnsendableError(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, *, why: str) -> None:
        super().__init__(why)


def failing() -> None:
    raise UnsendableError(why="no model")


def _vector(policy: LocalPolicy) -> np.ndarray:
    return torch.nn.utils.parameters_to_vector(policy._parameters.values()).detach().numpy()


def echo() -> Callable[[object], object]:
    return lambda value: value


def _runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
