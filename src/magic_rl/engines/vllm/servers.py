"""The vLLM servers of one base model: versions of policies go there, samples come back.

A version is an adapter under a new name each time, because a server uses its cache for a name that it knows. Each
server loads a version before it is asked to sample from it, and drops it once nothing here refers to it.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import uuid
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx2
from anyio.from_thread import start_blocking_portal

from magic_rl.engines.settings import EngineConfig
from magic_rl.engines.vllm.calls import Answer, Calls, Choice, Replica, Version
from magic_rl.rng import derive
from magic_rl.text.renderer import Arrived
from magic_rl.types import Sample, SamplingParams, Tokens

_T = TypeVar("_T")


class Servers:
    """All servers of one base model, used as one."""

    def __init__(
        self, replicas: Sequence[Replica], config: EngineConfig, folder: Path, stop_ids: frozenset[int] = frozenset()
    ) -> None:
        """Args: folder: For adapters; all servers must see it. stop_ids: Ids that end a sample."""
        self.replicas = replicas
        self._run = uuid.uuid4().hex[:8]
        self._settings, self.rows = config.vllm, config.rows_per_batch
        self._folder, self.stop_ids = folder / self._run, stop_ids
        self._numbers = itertools.count(1)
        self._retired: list[tuple[str, Path]] = []
        weakref.finalize(self, _close, replicas, self._folder)

    def connect(self) -> str:
        """Find out what the servers serve.

        Returns:
            The version of vLLM.

        Raises:
            EngineError: If a server cannot be reached, or serves no model.
        """
        return self.call(lambda calls: calls.connect())[0]

    def publish(self, name: str, save: Callable[[Path], None]) -> Version:
        """Save a version of a policy for the servers, which load it when it is first sampled from.

        Args:
            name: Name of the policy.
            save: Writes its adapter into an empty folder.
        """
        title = f"{name}-v{next(self._numbers)}-{self._run}"
        version = Version(title, self._folder / title)
        version.folder.mkdir(parents=True)
        save(version.folder)
        weakref.finalize(version, self._retired.append, (title, version.folder)).atexit = False
        return version

    def call(self, work: Callable[[Calls], Awaitable[_T]]) -> _T:
        """Unload retired versions and do some work, on an event loop in a thread of its own."""
        retired, self._retired[:] = list(self._retired), []

        async def run() -> _T:
            limits = httpx2.Limits(max_connections=None)  # `Calls` limits the requests under way
            async with httpx2.AsyncClient(timeout=None, limits=limits, trust_env=False) as client:
                calls = Calls(client, self.replicas, self._settings)
                for name, _ in retired:
                    await calls.unload(name)
                return await work(calls)

        try:
            with start_blocking_portal() as portal:
                return portal.call(run)
        finally:
            for _, folder in retired:
                shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A version of a policy on the servers, to sample from."""

    servers: Servers
    version: Version | None  # of a policy; None is the base model
    only: Replica | None = None  # the server to ask; by default all share the work

    def sample(
        self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int, arrived: Arrived | None = None
    ) -> list[list[Sample]]:
        """Draw `n` samples for each prompt; see `Policy.sample` and `StreamingPolicy.stream`.

        The random seed of row `p * n + i` depends on `(rng_seed, p * n + i)` alone. A server promises the same draws
        for the same seed, but not the same rounding in each batch: a draw near the border between two tokens may fall
        either way.

        Raises:
            EngineError: If a server refuses, or cannot be reached for longer than `patience`.
        """
        count = n if params.temperature else 1  # greedy samples are all the same, and a server gives only one
        said = {"n": count, "max_tokens": params.max_tokens, "temperature": params.temperature, "top_p": params.top_p}
        # The defaults of a server may be others.
        plain = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
        ends = {"ignore_eos": True, "stop_token_ids": [] if params.ignore_stop else sorted(self.servers.stop_ids)}
        body = {**said, **plain, **ends, "logprobs": 0, "return_token_ids": True, "skip_special_tokens": False}
        first = derive(rng_seed, 0, "rows") >> 1  # a server adds i to the random seed of a prompt's first row
        bodies = [{**body, "prompt": list(prompt), "seed": first + p * n} for p, prompt in enumerate(prompts)]
        out: dict[int, list[Sample]] = {}

        def take(place: int, answer: Answer) -> None:
            out[place] = [_sample(prompts[place], choice) for choice in answer.choices] * (n // count)
            if arrived:
                arrived(place, out[place])

        at_once = max(1, self.servers.rows // n)
        self.servers.call(lambda calls: calls.complete(self.version, bodies, at_once, take, self.only))
        return [out[place] for place in range(len(prompts))]


def _close(replicas: Sequence[Replica], folder: Path) -> None:
    """Unload our adapters from servers that keep running, and remove the folder."""
    for replica in replicas:
        for name in () if replica.own else replica.holds:
            with contextlib.suppress(httpx2.HTTPError):  # no event loop, as this may be the end of the process
                named = {"lora_name": name}
                httpx2.post(f"{replica.url}/unload_lora_adapter", json=named, timeout=5, trust_env=False)
    shutil.rmtree(folder, ignore_errors=True)


def _sample(prompt: Tokens, choice: Choice) -> Sample:
    logprobs = tuple(choice.logprobs.token_logprobs)
    return Sample(
        tuple(prompt), tuple(choice.token_ids), logprobs, "stop" if choice.finish_reason == "stop" else "length"
    )
