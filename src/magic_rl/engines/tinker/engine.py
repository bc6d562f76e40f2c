"""An engine whose models are on a server of the Tinker API; it sends token ids and gets ids and numbers back.

A server holds only a few adapters at a time. So a policy is a saved state that becomes a model on the server when it is
used; if there is no place for another one, the policy that has been idle the longest gives up its place.
"""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from magic_rl.engines.base import ComputePath
from magic_rl.engines.local.models import load_renderer
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.engines.tinker.client import Connection, LostCallError
from magic_rl.engines.tinker.policy import FILE, Origin, TinkerPolicy
from magic_rl.errors import UserError
from magic_rl.rng import derive
from magic_rl.types import Adam

_LORA, _ENGINE = LoraConfig(), EngineConfig()

# This process's policies with a model on a server, by server address, least recently used first, of all engines.
_in_use: dict[str, list[weakref.ref[TinkerPolicy]]] = {}

_log = logging.getLogger(__name__)


class TinkerEngine:
    """Makes policies of one base model on a server. Implements `engines.base.Engine`."""

    def __init__(
        self, model: str | Path, lora: LoraConfig = _LORA, config: EngineConfig = _ENGINE, *, rng_seed: int = 0
    ) -> None:
        """Open a session.

        Args:
            model: The server's name for the base model: a hub id or a folder, whose tokenizer is read here.
            lora: Shape of every policy's adapter.
            config: Which server, and where.
            rng_seed: Random seed for the initialisation of adapters.

        Raises:
            UserError: If the server cannot be used, or has no adapters of this shape.
        """
        self.base_model, self.rank = str(model), lora.rank
        self.identity = self.base_model  # weights on a server cannot be checked
        self.renderer = load_renderer(self.base_model, config)
        self.renderer_with = self.renderer.given
        self.connection = Connection(self.base_model, config.tinker)
        server = self.connection.server
        if lora.target_modules != "all-linear":
            raise UserError(f"lora.target_modules: {config.tinker.server} adapts every layer; leave it out")
        if server.alpha not in (None, lora.alpha):
            raise UserError(f"lora.alpha: is always {server.alpha:g} on {config.tinker.server}; leave it out")
        self.alpha = lora.alpha
        self.tokens_per_batch = config.tokens_per_batch or 2**16
        self._rng_seed = rng_seed
        self._base = TinkerPolicy("base", self, Origin(), trainable=False)  # shared, as it takes a place
        apart = [f"{name}: {why}" for name, why in server.ignores.items()]
        apart += [f"lora.alpha: {config.tinker.server} has its own"] if server.alpha is None else []
        where = f"by {config.tinker.server} at {self.connection.url}"
        self.path = ComputePath("remote", f"{where} ({'; '.join(apart)})" if apart else where)

    def unable(self, adam: Adam) -> Mapping[str, str]:
        """See `LimitedEngine.unable`. Default settings are always accepted."""
        ignores, default = self.connection.server.ignores, Adam(lr=adam.lr)
        return {name: why for name, why in ignores.items() if getattr(adam, name) != getattr(default, name)}

    def new_policy(self, name: str) -> TinkerPolicy:
        """See `Engine.new_policy`."""
        return TinkerPolicy(name, self, Origin(seed=derive(self._rng_seed, 0, f"adapter {name}") % 2**31))

    def base(self) -> TinkerPolicy:
        """See `Engine.base`. Its log-probabilities are those of an untrained adapter, which are the base's."""
        return self._base

    def load(self, directory: Path, name: str) -> TinkerPolicy:
        """See `Engine.load`."""
        try:
            saved = json.loads((directory / FILE).read_bytes())
            origin = Origin(saved["state"], saved["steps"], optimiser=saved["optimiser"])
            same = (saved["base_model"], saved["rank"]) == (self.base_model, self.rank)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{directory}: holds no policy of a server ({error})") from error
        if not same:
            raise UserError(f"{directory}: holds a policy of {saved['base_model']} with rank {saved['rank']}")
        return TinkerPolicy(name, self, origin)

    def make(self, policy: TinkerPolicy, make: Callable[[Any], Any]) -> Any:
        """Make a policy's model on the server; if need be, idle policies give up their places first.

        Args:
            policy: Whose model it is.
            make: Makes it, given the service.

        Raises:
            LostCallError: If it cannot be made even then.
        """
        connection = self.connection
        while True:
            try:
                made = connection.run(lambda: make(connection.service))
            except LostCallError as error:
                idle = next((other for other in self._others(policy) if other.give_way()), None)
                if idle is None:
                    raise
                _log.info("%s gives its place on the server to %s (%s)", idle.name, policy.name, error)
            else:
                self.used(policy)
                return made

    def used(self, policy: TinkerPolicy) -> None:
        """Note that a policy was the last to be used."""
        _in_use[self.connection.url] = [*map(weakref.ref, self._others(policy)), weakref.ref(policy)]

    def _others(self, policy: TinkerPolicy) -> list[TinkerPolicy]:
        alive = (ref() for ref in _in_use.get(self.connection.url, ()))
        return [other for other in alive if other is not None and other is not policy]
