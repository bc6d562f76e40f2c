"""A short run from the same state has the same reward curve, within noise, on every engine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from magic_rl.engines.base import Engine
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.settings import EngineConfig, LoraConfig, TinkerConfig
from magic_rl.engines.vllm.engine import served
from tests.support.curves import LEARNED, TOLERANCE, apart, curve
from tests.support.fake_vllm import FakeVllm

pytestmark = pytest.mark.slow


def local(model: Path) -> LocalEngine:
    return LocalEngine(model, LoraConfig(rank=4), EngineConfig(device="cpu", dtype="float32", threads=1))


@contextmanager
def vllm(model: Path) -> Iterator[Engine]:
    with FakeVllm(model) as server:
        given = EngineConfig(device="cpu", dtype="float32", threads=1, sampler="vllm", vllm={"urls": (server.url,)})
        yield served({"one": local(model)}, given)["one"]


def forget(_name: str, tensor: torch.Tensor) -> None:
    tensor.zero_()


@contextmanager
def deaf_vllm(model: Path) -> Iterator[Engine]:
    """A server that answers as the base model does once it has passed the check."""
    with FakeVllm(model) as server:
        given = EngineConfig(device="cpu", dtype="float32", threads=1, sampler="vllm", vllm={"urls": (server.url,)})
        engine = served({"one": local(model)}, given)["one"]
        server.spoil = forget
        yield engine


@contextmanager
def tinker(model: Path) -> Iterator[Engine]:
    pytest.importorskip("tinker", reason="the extra 'tinker' is not installed")
    from magic_rl.engines.tinker.engine import TinkerEngine
    from tests.support.fake_tinker import FakeTinker

    with FakeTinker(model) as fake:
        where = TinkerConfig(server="tuft", url=fake.url)
        yield TinkerEngine(str(model), LoraConfig(rank=4), EngineConfig(kind="tinker", tinker=where))


@pytest.fixture(scope="module")
def here(tiny_model: Path, seeds_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], list[float]]:
    """The curve of the local engine."""
    folder = tmp_path_factory.mktemp("curves") / "here"
    return functools.cache(lambda: curve(local(tiny_model), tiny_model, seeds_file, folder))


@pytest.mark.parametrize("engine", [vllm, tinker])
def test_the_reward_curve_is_the_local_engine_s(
    tiny_model: Path,
    seeds_file: Path,
    tmp_path: Path,
    here: Callable[[], list[float]],
    engine: Callable[[Path], object],
) -> None:
    with engine(tiny_model) as made:  # type: ignore[attr-defined]
        assert apart(curve(made, tiny_model, seeds_file, tmp_path / "there"), here()) < TOLERANCE
    assert here()[-1] - here()[0] > LEARNED


def test_a_sampler_that_does_not_follow_shows_in_the_curve(
    tiny_model: Path, seeds_file: Path, tmp_path: Path, here: Callable[[], list[float]]
) -> None:
    with deaf_vllm(tiny_model) as made:
        assert apart(curve(made, tiny_model, seeds_file, tmp_path / "there"), here()) > 2 * TOLERANCE
