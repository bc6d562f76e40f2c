"""The calls of one batch to vLLM servers, on one event loop: with retries, and lost adapters and servers restored."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from pydantic import BaseModel, ValidationError

from magic_rl.chat.body import error_of
from magic_rl.engines.settings import VllmConfig
from magic_rl.engines.vllm.process import OwnServer
from magic_rl.errors import EngineError

_log = logging.getLogger(__name__)
_PAUSES = (0.2, 5.0)  # seconds before the first retry, and at most before a later one
_RELOADS = 5  # how many times one request may find its adapter gone
_RESTARTS = 3  # how many times servers that we started may die in one batch
_PASSING = (408, 425, 429)  # statuses to retry, besides 500 and above


@dataclass(eq=False)
class Version:
    """A policy as it was at one moment, saved for the servers."""

    name: str  # of the adapter on the servers
    folder: Path  # where it is saved, as long as this object is referenced


@dataclass(eq=False, slots=True)
class Replica:
    """One server."""

    url: str  # ends in /v1; changes when a server that we started is restarted
    own: OwnServer | None = None  # its process, if we started it
    base: str = ""  # what it calls the base model
    root: str = ""  # where it says that its base model is from
    holds: set[str] = field(default_factory=set)  # adapters that have been loaded into it
    loads: int = 0  # how many times an adapter has been loaded

    def error(self, reason: str, remedy: str = "") -> EngineError:
        """An error that ends the run."""
        return EngineError(f"vLLM at {self.url}: {reason}", remedy)


class _Logprobs(BaseModel):
    token_logprobs: list[float]


class Choice(BaseModel):
    """One sample."""

    token_ids: list[int]
    logprobs: _Logprobs
    finish_reason: str | None

    @property
    def whole(self) -> bool:
        """Whether it is complete, and each token has a log-probability."""
        return self.finish_reason in ("stop", "length") and len(self.token_ids) == len(self.logprobs.token_logprobs)


class Answer(BaseModel):
    """All samples of one prompt."""

    choices: list[Choice]


class Calls:
    """A batch of calls."""

    def __init__(self, client: httpx2.AsyncClient, replicas: Sequence[Replica], settings: VllmConfig) -> None:
        """Args: replicas: All servers of the base model."""
        self._client, self._replicas, self._settings = client, replicas, settings
        self._loading = {id(replica): asyncio.Lock() for replica in replicas}
        self._reviving = asyncio.Lock()
        self._restarts = 0

    async def connect(self) -> list[str]:
        """Ask each server what it serves. Returns: The servers' versions of vLLM."""
        versions = []
        for replica in self._replicas:
            listed, told = [await self._ask(replica, "GET", path) for path in ("/v1/models", "/version")]
            try:
                own = next(model for model in listed.json()["data"] if not model.get("parent"))
                replica.base, replica.root = own["id"], own.get("root") or ""
                versions.append(str(told.json()["version"]))
            except (ValueError, LookupError, AttributeError, TypeError, StopIteration) as error:
                raise replica.error(f"is no vLLM server, or serves no model ({_short(listed.text)})") from error
        return versions

    async def complete(
        self,
        version: Version | None,
        bodies: Sequence[dict[str, Any]],
        at_once: int,
        take: Callable[[int, Answer], None],
        only: Replica | None = None,
    ) -> None:
        """One answer for each body.

        Args:
            version: Of a policy; None asks the base model.
            at_once: Most requests under way at each server.
            take: Called with a body's index and its answer as soon as that arrives.
            only: The server to ask; by default all share the work.
        """
        replicas = [only] if only else self._replicas
        queue = iter(enumerate(bodies))
        if version:
            missing = [replica for replica in replicas if version.name not in replica.holds]
            await asyncio.gather(*(self._load(replica, version, replica.loads) for replica in missing))

        async def work(replica: Replica) -> None:
            for index, body in queue:
                take(index, await self._one(replica, version, body))

        count = min(at_once, -(-len(bodies) // len(replicas)))
        # Servers take turns, so that even a few requests are spread over all of them.
        workers = [asyncio.create_task(work(replica)) for _ in range(count) for replica in replicas]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def unload(self, name: str) -> None:
        """Unload an adapter from all servers; it does not matter if the adapter or a server is gone already."""
        for replica in self._replicas:
            if name not in replica.holds:
                continue
            replica.holds.discard(name)
            try:
                async with asyncio.timeout(self._settings.timeout):
                    await self._client.post(f"{replica.url}/unload_lora_adapter", json={"lora_name": name})
            except (httpx2.TransportError, TimeoutError) as error:
                _log.debug("%s: %s not unloaded (%r)", replica.url, name, error)

    async def _one(self, replica: Replica, version: Version | None, body: dict[str, Any]) -> Answer:
        for _ in range(_RELOADS):
            loads = replica.loads
            named = {**body, "model": version.name if version else replica.base}
            response = await self._ask(replica, "POST", "/v1/completions", named)
            status, said = error_of(response.status_code, response.content)
            if status == 404 and version:  # dropped to make room, or the server was restarted
                await self._load(replica, version, loads)
                continue
            if status != 200:
                raise replica.error(f"answers {status}: {_short(said)}")
            try:
                answer = Answer.model_validate_json(response.content)
            except ValidationError as error:
                reason = "its answers hold no token ids with log-probabilities; vLLM 0.11 and newer give them"
                raise replica.error(reason) from error
            if len(answer.choices) != body["n"] or not all(choice.whole for choice in answer.choices):
                raise replica.error("broke off a sample, or left one out")
            return answer
        raise replica.error("drops an adapter each time it is loaded", "more adapters")

    async def _load(self, replica: Replica, version: Version, seen: int) -> None:
        """Load a version into a server, unless another call has done so since `loads` was `seen`."""
        async with self._loading[id(replica)]:
            if replica.loads != seen:
                return
            named = {"lora_name": version.name, "lora_path": str(version.folder.absolute())}
            response = await self._ask(replica, "POST", "/v1/load_lora_adapter", named, final=(500,))
            said = error_of(response.status_code, response.content)[1]
            if not response.is_success and "already been loaded" not in said:  # by an attempt whose answer was lost
                raise replica.error(f"does not load an adapter ({response.status_code}: {_short(said)})", "adapters")
            replica.holds.add(version.name)
            replica.loads += 1

    async def _ask(
        self, replica: Replica, method: str, path: str, body: object = None, final: tuple[int, ...] = ()
    ) -> httpx2.Response:
        """One request, retried while the error may be temporary. Args: final: Statuses that are not."""
        until, pause, patience = 0.0, _PAUSES[0], self._settings.patience
        while True:
            try:
                async with asyncio.timeout(self._settings.timeout):
                    response = await self._client.request(method, replica.url.removesuffix("/v1") + path, json=body)
                status, said = error_of(response.status_code, response.content)
                if (status not in _PASSING and status < 500) or status in final:
                    return response
                why = f"answers {status}: {_short(said)}"
            except TimeoutError:
                why = f"does not answer within {self._settings.timeout:g} s"
            except httpx2.TransportError as error:
                why = f"cannot be reached ({_short(str(error)) or type(error).__name__})"
            if await self._revived(replica):
                until = 0.0
                continue
            until = until or time.monotonic() + patience
            if time.monotonic() + pause > until:
                raise replica.error(f"{why}, for {patience:g} s", "server gone")
            _log.debug("%s %s; trying again", replica.url, why)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSES[1])

    async def _revived(self, replica: Replica) -> bool:
        """Restart the server if it is one of ours that has died. Returns: Whether it now runs at a new address."""
        own = replica.own
        if own is None or (own.alive and own.url == replica.url):
            return False
        async with self._reviving:
            if not own.alive:
                if self._restarts == _RESTARTS:
                    raise replica.error(f"ended {_RESTARTS + 1} times; see {own.log}")
                self._restarts += 1
                _log.warning("vLLM at %s has ended", replica.url)
                await asyncio.to_thread(own.restart)
            if replica.url != own.url:
                replica.url = own.url
                replica.holds.clear()
        return True


def _short(text: str) -> str:
    return " ".join(text.split())[:200]
