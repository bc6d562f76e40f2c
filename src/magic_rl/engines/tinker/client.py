"""The connection to a server of the Tinker API: opening it, the first checks, and recovery when it breaks.

A call either returns or is lost: the server died, the session expired, the answer never came. What a lost call did on
the server is unknown. So a new session is opened, which uses nothing of the old one, and the call is made again; before
that, a policy loads its last saved state there (`policy.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import httpx2

from magic_rl.engines.settings import TinkerConfig
from magic_rl.engines.tinker.servers import SERVERS
from magic_rl.errors import UserError

_HOSTED = "https://tinker.thinkingmachines.dev/services/tinker-prod"
_LOOK = 2.0  # seconds between checks that the server still answers, while a call is under way
_TRIES = 4  # attempts at a call that is lost each time although the server answers

_log = logging.getLogger(__name__)
T = TypeVar("T")


class LostCallError(Exception):
    """A call was lost: what it did is unknown."""


class Connection:
    """A session on a server, opened again when it is lost.

    Attributes:
        sdk: The client package.
        server: How this kind of server departs from the API.
        session: Number of the session; models of earlier ones are gone.
    """

    def __init__(self, base_model: str, config: TinkerConfig) -> None:
        """Find the server, check that it has the model, and sample one token.

        Args:
            base_model: The server's name for the model.
            config: The server's address and kind.

        Raises:
            UserError: If the client is missing, or the server does not answer, lacks the model, or has another version
                of the API than the client.
        """
        self.server = SERVERS[config.server]
        try:
            self.sdk: Any = importlib.import_module("tinker")
        except ImportError as error:
            raise UserError(
                f"its client is not installed ({error}); `pip install {self.server.client!r}` adds it"
            ) from error
        self.session = 0
        self._timeout, self._patience = config.timeout, config.patience
        self.url = (config.urls.get(base_model) or config.url or _HOSTED).rstrip("/")
        # The package would go on reporting that an abandoned session is missing.
        logging.getLogger("tinker.lib.internal_client_holder").addFilter(
            lambda record: "heartbeat" not in record.getMessage()
        )
        # The package reports errors to the hosted service unless told not to.
        os.environ.setdefault("TINKER_TELEMETRY", "0")
        self._key = os.environ.get(config.api_key_env, "")
        if not self._key and self.url == _HOSTED:
            raise UserError(f"{config.api_key_env}: is not set, and {self.url} wants a key")
        if why := self._silent():
            raise UserError(f"{self.url}: {why}; is the server running there?")
        try:
            self._open()
            names = [model.model_name for model in self.run(self.service.get_server_capabilities).supported_models]
            if base_model not in names:
                raise UserError(f"{self.url}: has no model {base_model!r}, but {', '.join(map(str, names))}")
            self._say_one_token(base_model)
        except (LostCallError, self.sdk.TinkerError) as error:
            if isinstance(error.__cause__, self.sdk.AuthenticationError | self.sdk.PermissionDeniedError):
                raise UserError(f"{self.url}: refuses the key in {config.api_key_env} ({error})") from error
            raise UserError(
                f"{self.url}: does not do what its API says ({error}). The client here is tinker "
                f"{self.sdk.__version__}; for {config.server} install {self.server.client!r}"
            ) from error

    def _say_one_token(self, base_model: str) -> None:
        sampler = self.run(lambda: self.service.create_sampling_client(base_model=base_model))
        params = self.sdk.SamplingParams(max_tokens=1, seed=0)
        asked = sampler.sample(self.sdk.ModelInput.from_ints([0]), 1, params)
        (sequence,) = self.run(asked.result).sequences
        if len(sequence.tokens) != 1 or not sequence.logprobs:
            raise LostCallError(f"asked for a token with its log-probability, it gives {sequence}")

    def run(self, call: Callable[[], T], *, limit: float | None = None) -> T:
        """Make a call and return its result. It runs in a thread, as the client waits forever for a dead server.

        Args:
            limit: Seconds it may take; by default the timeout of the settings.

        Raises:
            LostCallError: If it fails or takes too long, or the server no longer answers at all.
        """
        answer: Future[T] = Future()

        def work() -> None:
            try:
                answer.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised where the answer is read
                answer.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        limit = limit or self._timeout
        until = time.monotonic() + limit
        while True:
            try:
                return answer.result(_LOOK)
            except TimeoutError as error:
                if answer.done() and answer.exception() is error:
                    raise LostCallError(_line(error)) from error
            except Exception as error:  # of the client, the transport or the server: all mean that it is lost
                raise LostCallError(_line(error)) from error
            if why := self._silent():
                raise LostCallError(why)
            if time.monotonic() > until:
                raise LostCallError(f"gave no answer in {limit:g} seconds")

    def persist(self, attempt: Callable[[], T]) -> T:
        """Repeat an attempt until it returns; each time it is lost, a new session is opened first.

        Args:
            attempt: Must start from the last saved state if `session` has changed since its last call.

        Raises:
            UserError: If the server stays away, or it answers but the attempt fails again and again.
        """
        reasons: list[str] = []
        while True:
            try:
                return attempt()
            except LostCallError as error:
                reasons.append(str(error))
                _log.warning("%s: a call was lost (%s)", self.url, error)
                if len(reasons) >= _TRIES and not self._silent():
                    raise UserError(f"{self.url}: {reasons[-1]}") from error
                self._reopen()

    def post(self, path: str, body: dict[str, Any]) -> None:
        """Send the server something that the client package has no function for; failures do not matter."""
        with contextlib.suppress(httpx2.HTTPError):
            httpx2.post(f"{self.url}{path}", json=body, headers={"X-API-Key": self._key}, timeout=5.0)

    def fetch(self, url: str) -> bytes:
        """The content at a URL that the server gave.

        Raises:
            LostCallError: If it cannot be had.
        """
        try:
            return httpx2.get(url, timeout=300.0, follow_redirects=True).raise_for_status().content
        except httpx2.HTTPError as error:
            raise LostCallError(_line(error)) from error

    def _open(self) -> None:
        key = self._key or "tml-none"  # the client refuses to start without one, and wants it to begin like this
        self.service = self.run(lambda: self.sdk.ServiceClient(base_url=self.url, api_key=key))
        self.session += 1

    def _reopen(self) -> None:
        until = time.monotonic() + self._patience
        pause = 0.1
        while True:
            why = self._silent()
            if not why:
                try:
                    return self._open()
                except LostCallError as error:
                    why = str(error)
            if time.monotonic() > until:
                raise UserError(
                    f"{self.url}: {why}, for {self._patience:g} seconds now. Every finished step is saved there",
                    "server back",
                )
            time.sleep(pause)
            pause = min(2 * pause, 10.0)

    def _silent(self) -> str:
        """Why the server does not answer at all; "" if it does."""
        try:
            answer = httpx2.get(f"{self.url}/api/v1/healthz", headers={"X-API-Key": self._key}, timeout=30.0)
        except httpx2.TransportError as error:
            return f"does not answer ({_line(error)})"
        return f"answers {answer.status_code}" if answer.status_code >= 500 else ""


def _line(error: BaseException) -> str:
    """An error in one line of limited length."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
