"""An engine that learns here and lets vLLM servers sample, and a check that both compute the same model.

A server that cannot place an adapter's tensors says nothing and answers as the base model. So before a run begins, each
server loads a trial adapter that clearly changes the model, and the log-probabilities of its samples are compared with
ours under that adapter and under the base.
"""

from __future__ import annotations

import contextlib
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from magic_rl.engines.base import ComputePath
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.parity import ANSWER, QUESTIONS
from magic_rl.engines.local.policy import LocalPolicy
from magic_rl.engines.settings import EngineConfig
from magic_rl.engines.vllm.calls import Replica, Version
from magic_rl.engines.vllm.process import OwnServer, serve_command
from magic_rl.engines.vllm.servers import ServedVersion, Servers
from magic_rl.errors import EngineError, MismatchError
from magic_rl.text.renderer import Arrived
from magic_rl.types import Adam, CrossEntropy, Datum, Message, Sample, SamplingParams, Tokens

_K = TypeVar("_K")
_MOVED = 0.5  # least change, in nats per token, that the trial adapter makes
# Nats per token that a server may always differ under an adapter, even if its base model is exact.
_NEAR = {torch.float32: 2e-3, torch.bfloat16: 2e-2}
_SAME_BASE = 0.2  # largest difference in nats per token of the same base model, unless rounding is large
_MOST_STEPS = 12
_TRIAL = SamplingParams(max_tokens=16)


class ServedPolicy:
    """A local policy, each version of which goes to the servers that sample. Implements `engines.base.Policy`."""

    def __init__(self, inner: LocalPolicy, servers: Servers, *, adapted: bool = True) -> None:
        """Args: inner: The policy that learns. adapted: Whether it has an adapter, and is not the base model itself."""
        self.name = inner.name
        self.logprobs, self.forward_backward, self.save = inner.logprobs, inner.forward_backward, inner.save
        self._inner, self._servers, self._adapted = inner, servers, adapted
        self._version: Version | None = None  # its current state on the servers; None: not there yet

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        """See `Policy.sample` and `ServedVersion.sample`."""
        return self.stream(prompts, n, params, rng_seed, lambda _place, _samples: None)

    def stream(
        self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int, arrived: Arrived
    ) -> list[list[Sample]]:
        """See `StreamingPolicy.stream`."""
        if not prompts:
            return []
        if self._adapted and self._version is None:
            self._version = self._servers.publish(self.name, self._inner.snapshot(self.name).save)  # no optimiser
        return ServedVersion(self._servers, self._version).sample(prompts, n, params, rng_seed, arrived)

    def optim_step(self, adam: Adam) -> dict[str, float]:
        """See `Policy.optim_step`."""
        self._version = None
        return self._inner.optim_step(adam)

    def snapshot(self, name: str) -> ServedPolicy:
        """See `Policy.snapshot`. On the servers it is the same version, if they have this one."""
        copy = ServedPolicy(self._inner.snapshot(name), self._servers, adapted=self._adapted)
        copy._version = self._version
        return copy


class ServedEngine:
    """A local engine for whose policies servers sample. Implements `engines.base.Engine`."""

    def __init__(self, inner: LocalEngine, servers: Servers) -> None:
        """Compare servers and engine.

        Args:
            inner: The engine that learns.
            servers: Servers of the same base model.

        Raises:
            MismatchError: If a server computes another model, or ignores adapters.
            EngineError: If a server cannot be reached, or accepts no adapter.
        """
        self._inner, self._servers = inner, servers
        self.renderer, self.renderer_with = inner.renderer, inner.renderer_with
        number = servers.connect()
        gap = compare(inner, servers)
        many = f"{len(servers.replicas)} servers" if len(servers.replicas) > 1 else "a server"
        sampler = f"vLLM {number} on {many}, log-probabilities within {gap:.2g} nats of these"
        self.path: ComputePath = replace(inner.path, sampler=sampler)

    @property
    def identity(self) -> str:
        """See `Engine.identity`."""
        return self._inner.identity

    def new_policy(self, name: str) -> ServedPolicy:
        """See `Engine.new_policy`."""
        return self._served(self._inner.new_policy(name))

    def load(self, directory: Path, name: str) -> ServedPolicy:
        """See `Engine.load`."""
        return self._served(self._inner.load(directory, name))

    def base(self) -> ServedPolicy:
        """See `Engine.base`."""
        return self._served(self._inner.base(), adapted=False)

    def _served(self, policy: LocalPolicy, *, adapted: bool = True) -> ServedPolicy:
        return ServedPolicy(policy, self._servers, adapted=adapted)


def compare(engine: LocalEngine, servers: Servers) -> float:
    """Let each server sample from the base model and from a trial adapter, and score its samples here.

    Returns:
        Mean absolute difference of log-probabilities under the adapter, in nats per token, for the worst server.

    Raises:
        MismatchError: If a server samples from another model.
    """
    prompts = [engine.renderer.prompt([Message("user", question)]) for question in QUESTIONS]
    trial = _trial(engine, prompts[0])
    version = servers.publish("trial", lambda folder: trial.snapshot("trial").save(folder))
    gaps = []
    for replica in servers.replicas:
        plain, adapted = (
            [row for group in ServedVersion(servers, each, replica).sample(prompts, 4, _TRIAL, 0) for row in group]
            for each in (None, version)
        )
        rounding = max(_see_base(replica, plain, engine), _NEAR[engine.dtype] / 4)
        gaps.append(_see_adapter(replica, adapted, (trial, engine.base()), rounding))
    return max(gaps)


def _see_base(replica: Replica, samples: Sequence[Sample], engine: LocalEngine) -> float:
    base = engine.base()
    known = all(max(sample.tokens) < base.vocabulary for sample in samples)
    gap = _distance(_sampled(samples), _scored(base, samples)) if known else np.inf
    rounding = float(np.nan_to_num(engine.path.parity + engine.path.own))  # it is large in some families
    if gap > max(_SAME_BASE, 3 * rounding):
        raise MismatchError(
            f"vLLM at {replica.url}: what it samples from its base model has other log-probabilities here, by "
            f"{gap:.2g} nats per token: it serves another model than {engine.folder.name}, or in another precision",
            "same base",
        )
    return gap


def _see_adapter(
    replica: Replica, samples: Sequence[Sample], policies: tuple[LocalPolicy, LocalPolicy], rounding: float
) -> float:
    theirs = _sampled(samples)
    ours, unmoved = (_scored(policy, samples) for policy in policies)
    gap, moved = _distance(theirs, ours), _distance(ours, unmoved)
    # Rounding has about the same effect under the adapter as without; leaving out a kind of layer has more.
    if gap > min(4 * rounding, moved / 2):
        ignored = _distance(theirs, unmoved) < gap
        what = "ignores adapters and answers as its base model" if ignored else "does not use all of an adapter"
        raise MismatchError(
            f"vLLM at {replica.url}: {what}: under a trial adapter its log-probabilities are {gap:.2g} nats per token "
            f"from ours, and {_distance(theirs, unmoved):.2g} from the base model's",
            "fewer layers",
        )
    return gap


def _trial(engine: LocalEngine, prompt: Tokens) -> LocalPolicy:
    """A policy that clearly differs from the base model but still writes text: one slightly overfitted answer."""
    trial, answer = engine.new_policy("trial"), engine.renderer.completion(ANSWER)
    before = engine.base().logprobs([(prompt, answer)])
    for _ in range(_MOST_STEPS):
        trial.forward_backward([Datum(prompt, answer, 1 / len(answer))], CrossEntropy())
        trial.optim_step(Adam(lr=2e-3))
        if _distance(np.concatenate(trial.logprobs([(prompt, answer)])), np.concatenate(before)) > _MOVED:
            break
    return trial


def _sampled(samples: Sequence[Sample]) -> np.ndarray:
    return np.concatenate([sample.logprobs for sample in samples])


def _scored(policy: LocalPolicy, samples: Sequence[Sample]) -> np.ndarray:
    return np.concatenate(policy.logprobs([(sample.prompt, sample.tokens) for sample in samples]))


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference in nats per token."""
    return float(np.abs(one - other).mean())


def served(engines: Mapping[_K, LocalEngine], config: EngineConfig) -> dict[_K, ServedEngine]:
    """Give each base model's engines servers that sample, running already or started here.

    Raises:
        EngineError: If servers cannot be started or reached, or none serves a base model; also as `ServedEngine`.
    """
    settings = config.vllm
    folder = Path(settings.folder) if settings.folder else Path(tempfile.mkdtemp(prefix="magic-rl-vllm-"))
    if not settings.folder:
        weakref.finalize(served, _tidy, folder)  # at the end of the process, once all adapters are gone
    by_model: dict[Path, dict[_K, LocalEngine]] = {}
    for key, engine in engines.items():
        by_model.setdefault(engine.folder, {})[key] = engine
    running = [Replica(url) for url in settings.urls]
    if len(by_model) > 1 and running:
        Servers(running, config, folder).connect()  # finds out what each serves
    replicas: dict[Path, list[Replica]] = {}
    for model, of_model in by_model.items():  # start all of them before waiting for any
        mine = [one for one in running if len(by_model) == 1 or _serves(one, model)]
        replicas[model] = mine if running else _started(list(of_model.values()), config, folder)
        if not replicas[model]:
            raise EngineError(f"vLLM: none of {', '.join(settings.urls)} serves {model}", "a server for each")
    out = {}
    for model, of_model in by_model.items():
        for replica in replicas[model]:
            if replica.own:
                replica.own.wait()
        stop_ids = next(iter(of_model.values())).renderer.stop_ids
        servers = Servers(replicas[model], config, folder, stop_ids)
        out.update({key: ServedEngine(engine, servers) for key, engine in of_model.items()})
    return out


def _tidy(folder: Path) -> None:
    """Remove a temporary folder if it is empty; logs are kept."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _serves(replica: Replica, model: Path) -> bool:
    """Whether a server says that it serves the model of a folder, which may be in the hub's cache."""
    name = Path(replica.root or replica.base).name
    return any(part == name or part.endswith(f"--{name}") for part in model.parts)


def _started(engines: Sequence[LocalEngine], config: EngineConfig, folder: Path) -> list[Replica]:
    """Start servers of one base model for its engines, which differ in the shape of their adapters."""
    one = engines[0]
    rank = max(engine.peft_config.r for engine in engines)
    command = serve_command(one.folder, str(one.dtype).removeprefix("torch."), rank, config)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, device in enumerate(config.vllm.devices or (None,)):
        own = OwnServer(command, config.vllm, device, folder / f"{one.folder.name}-{number}.log")
        made.append(Replica(own.url, own))
    return made
