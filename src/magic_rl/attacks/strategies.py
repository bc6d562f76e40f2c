"""The rewriting strategies of METHOD §2, each with an instruction for a model that writes: `strategies.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from pydantic import ConfigDict, TypeAdapter

from magic_rl.errors import ConfigError
from magic_rl.plugins import find, is_plugin


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to rewrite a request."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str  # identifier in configs and pools
    family: Literal["style", "persuasion", "encoding", "translation"]
    description: str  # a short phrase for people
    instruction: str  # tells a model to rewrite this way
    # For the offline writer: texts around `{seed}`, `{lower}` (the seed without its first capital and final
    # punctuation), `{misspelt}` or, in encodings, `{encoded}`. A strategy without templates needs a model.
    templates: tuple[str, ...] = ()


def _load() -> dict[str, Strategy]:
    tree = tomllib.loads(resources.files("magic_rl.attacks").joinpath("strategies.toml").read_text(encoding="utf-8"))
    return TypeAdapter(dict[str, Strategy]).validate_python({name: {"name": name, **s} for name, s in tree.items()})


STRATEGIES: Mapping[str, Strategy] = _load()


def choose_strategies(names: Sequence[str] = ()) -> list[Strategy]:
    """Strategies by name, the user's own as `package.module:NAME`; without names, all that need no model.

    Raises:
        ConfigError: For an unknown name.
    """
    for name in names:
        if name not in STRATEGIES and not is_plugin("strategies", name):
            raise ConfigError(f"unknown strategy {name!r}; known: {', '.join(STRATEGIES)}")
    if names:
        return [STRATEGIES.get(name) or find("strategies", name) for name in names]
    return [strategy for strategy in STRATEGIES.values() if strategy.templates]
