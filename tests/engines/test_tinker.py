"""Weights on a server of the Tinker API: the local engine's numbers, each step once even if the server dies."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from magic_rl.engines.settings import EngineConfig, LoraConfig, TinkerConfig
from magic_rl.errors import UserError
from magic_rl.types import PPO, Adam, CrossEntropy, Datum, ImportanceSampling, Loss, SamplingParams

pytest.importorskip("tinker", reason="the extra 'tinker' is not installed")

from magic_rl.engines.tinker.engine import TinkerEngine
from magic_rl.engines.tinker.servers import SERVERS
from tests.support.fake_tinker import FakeTinker, Moment

DATUMS = [
    Datum((5, 9, 30), (4, 5, 6, 7), 0.5, (1.0, 1.0, -0.5, 2.0), (-5.0, -5.5, -5.2, -5.9)),
    Datum((40, 41), (8, 9), 0.25, (-1.0, 0.5), (-5.3, -5.1)),
]
PAIRS = [(datum.prompt, datum.tokens) for datum in DATUMS]
ADAM = Adam(lr=0.01)


@pytest.fixture(scope="module")
def fake(tiny_model: Path) -> Iterator[FakeTinker]:
    with FakeTinker(tiny_model) as server:
        yield server


def engine(fake: FakeTinker, server: str = "tuft", **settings: Any) -> TinkerEngine:
    where = TinkerConfig.model_validate({"server": server, "url": fake.url, "patience": 5.0, **settings})
    return TinkerEngine(fake.name, LoraConfig(rank=4), EngineConfig(tinker=where))


def gap(one: list[tuple[float, ...]], two: list[tuple[float, ...]]) -> float:
    return max(abs(a - b) for left, right in zip(one, two, strict=True) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("loss", [CrossEntropy(), PPO(), ImportanceSampling()])
@pytest.mark.parametrize("calls", [1, 2])
def test_a_step_is_that_of_the_engine_in_this_process(
    tiny_model: Path, tmp_path: Path, loss: Loss, averages: bool, calls: int
) -> None:
    with FakeTinker(tiny_model, averages=averages) as fake:
        there = engine(fake, "skyrl-jax" if averages else "tuft").new_policy("p")
        there.snapshot("start").save(tmp_path)
        here = fake.engine.load(tmp_path, "p")
        parts = [DATUMS] if calls == 1 else [DATUMS[:1], DATUMS[1:]]
        for part in parts:
            far, near = there.forward_backward(part, loss), here.forward_backward(part, loss)
            assert far == pytest.approx(near, abs=1e-5)
        clipped = Adam(lr=0.01, max_grad_norm=1e9)  # some servers do not clip
        assert there.optim_step(clipped) == pytest.approx(here.optim_step(clipped), rel=1e-4)
        assert gap(there.logprobs(PAIRS), here.logprobs(PAIRS)) < 1e-4


def test_samples_are_of_the_policy_that_was_asked(fake: FakeTinker) -> None:
    made = engine(fake)
    policy = trained(made)
    samples = policy.sample([(5, 9, 30), (7, 8)], 3, SamplingParams(12), 0)
    assert [len(row) for row in samples] == [3, 3]
    flat = [sample for row in samples for sample in row]
    assert len({sample.tokens for sample in flat}) > 1
    scored = policy.logprobs([(sample.prompt, sample.tokens) for sample in flat])
    assert gap([sample.logprobs for sample in flat], scored) < 1e-3
    assert gap(policy.logprobs(PAIRS), made.base().logprobs(PAIRS)) > 0.1
    assert samples == policy.sample([(5, 9, 30), (7, 8)], 3, SamplingParams(12), 0)


def test_what_is_saved_goes_on_as_if_it_had_not_been(fake: FakeTinker, tmp_path: Path) -> None:
    made = engine(fake)
    policy = trained(made)
    policy.save(tmp_path)
    loaded = engine(fake).load(tmp_path, "again")
    for each in (policy, loaded):
        step(each)
    assert gap(policy.logprobs(PAIRS), loaded.logprobs(PAIRS)) < 1e-5
    assert policy.steps == loaded.steps == 3


def _emptied(file: Any) -> None:
    with tarfile.open(fileobj=file, mode="w|gz"):
        pass


@pytest.mark.parametrize("send", [_emptied, lambda file: file.write(b"busy")], ids=["empty", "no archive"])
def test_an_archive_without_an_adapter_is_one_line(
    fake: FakeTinker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, send: Callable[[Any], None]
) -> None:
    monkeypatch.setattr(FakeTinker, "archive", lambda _fake, _name, file: send(file))
    with pytest.raises(UserError, match=r"holds no adapter_model\.safetensors"):
        engine(fake).new_policy("p").snapshot("copy").save(tmp_path)


def test_a_snapshot_stays_and_brings_its_adapter_home(fake: FakeTinker, tmp_path: Path) -> None:
    policy = trained(engine(fake))
    copy, before = policy.snapshot("copy"), policy.logprobs(PAIRS)
    step(policy)
    assert gap(copy.logprobs(PAIRS), before) < 1e-5
    assert gap(policy.logprobs(PAIRS), before) > 1e-3
    copy.save(tmp_path)
    assert gap(fake.engine.load(tmp_path, "here").logprobs(PAIRS), before) < 1e-4
    with pytest.raises(RuntimeError):
        copy.forward_backward(DATUMS, PPO())


def test_idle_policies_make_way_where_places_are_few(tiny_model: Path) -> None:
    with FakeTinker(tiny_model, places=1) as fake:
        one, two = trained(engine(fake), "one"), engine(fake).new_policy("two")
        before = one.logprobs(PAIRS)
        for _ in range(2):
            assert gap(one.logprobs(PAIRS), before) < 1e-5
            assert gap(two.logprobs(PAIRS), before) > 1e-3
        assert len(fake.models) == 1


def test_states_that_nobody_needs_are_deleted(tiny_model: Path, tmp_path: Path) -> None:
    with FakeTinker(tiny_model) as fake:
        policy = engine(fake).new_policy("p")
        step(policy)
        policy.save(tmp_path)
        for _ in range(3):
            step(policy)
        assert len(fake._states) == 2  # that of the folder, and the latest


# Faults


MOMENTS: list[Moment] = [
    ("forward_backward", "before"),
    ("forward_backward", "after"),
    ("forward_backward", "fetched"),
    ("optim_step", "before"),
    ("optim_step", "after"),
    ("optim_step", "fetched"),
    ("save_weights", "before"),
    ("save_weights", "after"),
    ("save_weights", "fetched"),
    ("asample", "before"),
    ("asample", "fetched"),
    ("forward", "after"),
    ("save_weights_for_sampler", "after"),
]


@pytest.fixture(scope="module")
def unbroken(tiny_model: Path) -> tuple[list[Any], list[tuple[float, ...]]]:
    with FakeTinker(tiny_model) as fake:
        policy = engine(fake).new_policy("p")
        return [whole(policy) for _ in range(3)], policy.logprobs(PAIRS)


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(moment))
def test_a_killed_server_loses_no_step_and_repeats_none(
    tiny_model: Path, unbroken: tuple[list[Any], list[tuple[float, ...]]], moment: Moment
) -> None:
    with FakeTinker(tiny_model) as fake:
        policy = engine(fake).new_policy("p")
        metrics = [whole(policy)]
        fake.kill_at = moment
        metrics += [whole(policy), whole(policy)]
        assert fake.kill_at is None
        assert policy.steps == 3
        assert fake.steps(policy._state()) == 3
        assert [dict(each) for each in metrics] == [pytest.approx(each, abs=1e-5) for each in unbroken[0]]
        assert gap(policy.logprobs(PAIRS), unbroken[1]) < 1e-4


@pytest.mark.parametrize("status", [500, 503, 429, 404])
def test_a_server_that_is_out_of_order_for_a_moment_is_asked_again(
    tiny_model: Path, unbroken: tuple[list[Any], list[tuple[float, ...]]], status: int
) -> None:
    with FakeTinker(tiny_model) as fake:
        policy = engine(fake).new_policy("p")
        fake.fail = {"optim_step": (status, 1), "retrieve_future": (status, 1), "asample": (status, 1)}
        assert [whole(policy) for _ in range(3)] == [pytest.approx(each, abs=1e-5) for each in unbroken[0]]
        assert fake.steps(policy._state()) == 3


def test_an_expired_session_is_opened_again(tiny_model: Path) -> None:
    with FakeTinker(tiny_model) as fake:
        policy = trained(engine(fake))
        before = policy.logprobs(PAIRS)
        fake.down = 0.0
        fake.kill()
        assert gap(policy.logprobs(PAIRS), before) < 1e-5


def test_a_server_that_stays_away_ends_the_run_in_one_line(tiny_model: Path, tmp_path: Path) -> None:
    with FakeTinker(tiny_model) as fake:
        policy = trained(engine(fake, patience=0.5))
        fake.down = 60.0
        fake.kill()
        with pytest.raises(UserError, match="saved there") as caught:
            policy.sample([(5, 9)], 1, SamplingParams(4), 0)
        assert "\n" not in str(caught.value)
        policy.save(tmp_path)  # which needs no server
        assert json.loads((tmp_path / "server_state.json").read_text())["steps"] == 2


# What cannot work is refused at the start


@pytest.mark.parametrize(
    ("lora", "settings", "named"),
    [
        (LoraConfig(rank=4, alpha=16.0), {"server": "skyrl-jax"}, "lora.alpha"),
        (LoraConfig(rank=4, target_modules=("q_proj",)), {}, "lora.target_modules"),
        (LoraConfig(rank=4), {"url": "http://127.0.0.1:9"}, "127.0.0.1:9"),
    ],
)
def test_what_a_server_cannot_do_is_refused_by_its_setting(
    fake: FakeTinker, lora: LoraConfig, settings: dict[str, Any], named: str
) -> None:
    where = TinkerConfig.model_validate({"server": "tuft", "url": fake.url, **settings})
    with pytest.raises(UserError, match=named):
        TinkerEngine(fake.name, lora, EngineConfig(tinker=where))


def test_steps_that_a_server_would_take_otherwise_are_named(fake: FakeTinker) -> None:
    made = engine(fake, "skyrl-megatron")
    assert not made.unable(Adam(lr=1.0))
    assert set(made.unable(Adam(lr=1.0, beta2=0.95, max_grad_norm=2.0))) == {"beta2", "max_grad_norm"}


@pytest.mark.parametrize(
    ("fails", "status", "says"),
    [
        *((kind, 422, r"install 'tinker<=0\.24\.1'") for kind in ("create_session", "asample", "retrieve_future")),
        *((kind, 401, "TINKER_API_KEY") for kind in ("create_session", "get_server_capabilities", "asample")),
    ],
)
def test_a_wrong_client_or_key_is_named_at_the_start(tiny_model: Path, fails: str, status: int, says: str) -> None:
    with FakeTinker(tiny_model) as fake:
        fake.fail = {fails: (status, 99)}
        with pytest.raises(UserError, match=says):
            engine(fake, "skyrl-jax")


def test_each_kind_of_server_has_its_constraints() -> None:
    folder = Path(__file__).parents[2] / "constraints"
    for name in SERVERS:
        pinned = (folder / f"{name.partition('-')[0]}.txt").read_text()
        assert "tinker" in pinned


def trained(made: TinkerEngine, name: str = "p") -> Any:
    policy = made.new_policy(name)
    for _ in range(2):
        step(policy)
    return policy


def step(policy: Any) -> None:
    policy.forward_backward(DATUMS, CrossEntropy())
    policy.optim_step(Adam(lr=0.02))


def whole(policy: Any) -> dict[str, float]:
    """A step of the game: sample, score, learn."""
    samples = [sample for row in policy.sample([(5, 9, 30)], 2, SamplingParams(6), 0) for sample in row]
    scored = policy.logprobs([(sample.prompt, sample.tokens) for sample in samples])
    said = fmean(value for row in scored for value in row)
    return {"said": said, **policy.forward_backward(DATUMS, PPO()), **policy.optim_step(ADAM)}
