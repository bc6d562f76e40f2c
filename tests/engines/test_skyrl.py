"""A real SkyRL server on a tiny model: it samples and learns as the local engine does, and carries a whole run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from safetensors.torch import load_file

from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.settings import EngineConfig, LoraConfig, TinkerConfig
from magic_rl.types import PPO, Adam, CrossEntropy, Datum, ImportanceSampling, Loss

pytest.importorskip("tinker", reason="the extra 'tinker' is not installed")

from magic_rl.config import load_config
from magic_rl.engines.tinker.engine import TinkerEngine
from magic_rl.runs.conformance import conformance
from magic_rl.runs.evaluate import evaluate
from magic_rl.runs.train import resume, train
from magic_rl.store.run import RunDirectory
from magic_rl.view import View
from tests.support.curves import LEARNED, TOLERANCE, apart, curve

PYTHON = Path(os.environ.get("MAGIC_RL_SKYRL") or Path(sys.prefix) / "skyrl") / "bin" / "python"
PATIENCE = 300  # seconds until the server must have started

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"no server's environment at {PYTHON}; `make test-all` sets it up"),
]


class Skyrl:
    """A SkyRL server on a model, with six places for adapters."""

    def __init__(self, model: Path, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self._folder = f"http://127.0.0.1:{port}", folder
        backend = {"max_lora_adapters": 7, "max_lora_rank": 4, "train_micro_batch_size": 8}
        backend |= {"sample_max_num_sequences": 16}
        self._command = [str(PYTHON.parent / "uv"), "run", "--no-project", "--active", "-m", "skyrl.tinker.api"]
        self._command += ["--host", "127.0.0.1", "--port", str(port), "--base-model", str(model), "--backend", "jax"]
        self._command += ["--backend-config", json.dumps(backend), "--checkpoints-base", str(folder / "checkpoints")]
        self._command += ["--database-url", f"sqlite:///{folder / 'tinker.db'}"]

    def start(self) -> None:
        """Start it, on the database and checkpoints of the last start, and wait until it serves."""
        alone = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "UV_OFFLINE": "1"}
        alone |= {"VIRTUAL_ENV": str(PYTHON.parents[1]), "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}"}
        # What was compiled once is kept with the environment.
        compiled = {"JAX_COMPILATION_CACHE_DIR": str(PYTHON.parents[1] / "compiled")}
        compiled |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | alone | compiled
        log = self._folder / "log"
        with log.open("a") as out:
            self._process = subprocess.Popen(
                self._command, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, cwd=self._folder
            )
        patience = time.monotonic() + PATIENCE
        while time.monotonic() < patience and self._process.poll() is None:
            try:
                if httpx2.get(f"{self.url}/api/v1/healthz", trust_env=False).status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.5)
        pytest.fail(f"the server did not start; its last words: {log.read_text()[-2000:]}")

    def end(self, by: signal.Signals = signal.SIGTERM) -> None:
        """End it and its engine."""
        os.killpg(self._process.pid, by)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def skyrl(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Skyrl]:
    server = Skyrl(tiny_model, tmp_path_factory.mktemp("skyrl"))
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="module")
def there(skyrl: Skyrl, tiny_model: Path) -> TinkerEngine:
    where = TinkerConfig(server="skyrl-jax", url=skyrl.url)
    return TinkerEngine(str(tiny_model), LoraConfig(rank=4), EngineConfig(tinker=where))


@pytest.fixture(scope="module")
def here(tiny_model: Path) -> LocalEngine:
    config = EngineConfig(device="cpu", dtype="float32", threads=1)
    return LocalEngine(tiny_model, LoraConfig(rank=4), config)


PAIRS = [((5, 9, 30), (4, 5, 6, 7)), ((40, 41), (8, 9)), ((11,), (12, 13, 14))]


def gap(one: Sequence[tuple[float, ...]], two: Sequence[tuple[float, ...]]) -> float:
    return max(abs(a - b) for left, right in zip(one, two, strict=True) for a, b in zip(left, right, strict=True))


def test_the_base_says_what_it_says_here(there: TinkerEngine, here: LocalEngine) -> None:
    assert gap(there.base().logprobs(PAIRS), here.base().logprobs(PAIRS)) < 1e-4


@pytest.mark.parametrize("loss", [CrossEntropy(), PPO(), ImportanceSampling()])
def test_a_step_there_is_a_step_here(there: TinkerEngine, here: LocalEngine, tmp_path: Path, loss: Loss) -> None:
    """From the same adapter: log-probabilities, loss, gradient norm and the adapter after the step."""
    far = there.new_policy("far")
    before, after, ours = (tmp_path / name for name in ("before", "after", "ours"))
    for folder in (before, after, ours):
        folder.mkdir()
    far.snapshot("before").save(before)
    near = here.load(before, "near")
    now = near.logprobs(PAIRS)
    assert gap(far.logprobs(PAIRS), now) < 1e-4
    datums = [
        Datum(prompt, tokens, 0.5 / (1 + i), (1.0, -0.5, 2.0, 0.3)[: len(tokens)], tuple(v - 0.1 * i for v in row))
        for i, ((prompt, tokens), row) in enumerate(zip(PAIRS, now, strict=True))
    ]
    assert far.forward_backward(datums, loss) == pytest.approx(near.forward_backward(datums, loss), abs=1e-4)
    adam = Adam(lr=0.01, max_grad_norm=1e9)  # this server does not clip
    assert far.optim_step(adam) == pytest.approx(near.optim_step(adam), rel=1e-3)
    assert gap(far.logprobs(PAIRS), near.logprobs(PAIRS)) < 1e-3
    assert gap(far.logprobs(PAIRS), now) > 0.01
    far.snapshot("after").save(after)
    near.save(ours)
    theirs, mine = (load_file(folder / "adapter_model.safetensors") for folder in (after, ours))
    assert theirs.keys() == mine.keys()
    # Adam's first step is the sign of the gradient times lr; where that is 0 except for rounding, its sign is random.
    alike = [torch.isclose(theirs[name], mine[name], atol=1e-4).float().mean().item() for name in mine]
    assert min(alike) > 0.99


def test_the_reward_curve_is_the_local_engine_s(
    there: TinkerEngine, here: LocalEngine, tiny_model: Path, seeds_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "start").mkdir()
    there.new_policy("defender").snapshot("start").save(tmp_path / "start")
    far = curve(there, tiny_model, seeds_file, tmp_path / "far")
    with pytest.MonkeyPatch.context() as patch:  # another engine draws another untrained adapter
        patch.setattr(here, "new_policy", lambda name: here.load(tmp_path / "start", name))
        near = curve(here, tiny_model, seeds_file, tmp_path / "near")
    assert apart(far, near) < TOLERANCE
    assert near[-1] - near[0] > LEARNED


def test_it_conforms(there: TinkerEngine) -> None:
    assert [finding for finding in conformance(there) if not finding.holds] == []


class Stopping(View):
    """Asks for a stop at one step, as Ctrl-C does."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0

    def step(self, metrics: Any, timing: Any) -> None:
        self.steps += 1
        if self.steps == self.at:
            signal.raise_signal(signal.SIGINT)


def test_a_whole_run_is_trained_stopped_resumed_and_evaluated(skyrl: Skyrl, tiny_config: Path, tmp_path: Path) -> None:
    """SFT of both players, several turns, earlier versions as opponents."""
    settings = ["engine.kind=tinker", "engine.tinker.server=skyrl-jax", f"engine.tinker.url={skyrl.url}"]
    settings += [f"{role}.lora.rank=4" for role in ("attacker", "defender")]
    settings += [
        "game.turns=2",
        "game.prompts=brief",
        "game.opponents=uniform",
        "game.schedule.rounds=2",
        "evaluation.max_seeds=1",
    ]
    settings += [f"defender.sft.examples={_examples(tmp_path)}", "defender.sft.steps=1", "defender.sft.batch_size=2"]
    config = load_config(tiny_config, settings)
    stopped = train(config, tmp_path / "run", Stopping(at=4))
    assert stopped.latest_checkpoint().state["stage"] == "play"  # type: ignore[union-attr]
    run = resume(tmp_path / "run")
    assert run.latest_checkpoint().state["stage"] == "done"  # type: ignore[union-attr]
    rows = run.metrics()
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert all(row["grad_norm"] is not None for row in rows)
    assert [number for number, _ in RunDirectory.open(run.path).players("defender")] == [0, 1, 2]
    assert evaluate(run).table
    saved = run.player("defender", 2)
    assert (saved / "adapter_model.safetensors").exists()


def test_a_killed_server_applies_the_running_step_once(skyrl: Skyrl, there: TinkerEngine) -> None:
    """Killed between the gradient and the step, and started again on the same files."""
    datums = [Datum(prompt, tokens, 0.1) for prompt, tokens in PAIRS]
    unbroken, broken = there.new_policy("once"), there.new_policy("once")
    for policy in (unbroken, broken):
        policy.forward_backward(datums, CrossEntropy())
        policy.optim_step(Adam(lr=0.01))
        policy.forward_backward(datums, CrossEntropy())
    expected = unbroken.optim_step(Adam(lr=0.01))
    wanted = unbroken.logprobs(PAIRS)
    skyrl.end(signal.SIGKILL)
    again = threading.Timer(1.0, skyrl.start)
    again.start()
    assert broken.optim_step(Adam(lr=0.01)) == pytest.approx(expected, rel=1e-4)
    again.join()
    assert gap(broken.logprobs(PAIRS), wanted) < 1e-5


def _examples(folder: Path) -> Path:
    file = folder / "examples.jsonl"
    row = {"messages": [{"role": "user", "content": "Help me."}], "completion": "I can't help with that."}
    file.write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    return file
