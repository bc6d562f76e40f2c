"""What a user brings along: a judge, a guard format, a strategy, an engine or a source of seeds of their own.

A setting names it as `package.module:Name`, or by the short name under which a package registered it as an entry point
of the group `magic_rl.KIND`. Built-in ones are named by the same kind of string, so each is one file and one line.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Literal

from magic_rl.errors import ConfigError

Kind = Literal["judges", "guards", "strategies", "engines", "seeds"]


def is_named(name: str) -> bool:
    """Whether a text has the form `package.module:Name`."""
    module, _, attribute = name.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), attribute))


def find(kind: Kind, name: str, built_in: Mapping[str, str]) -> Any:
    """What a setting names.

    Args:
        built_in: `package.module:Name` of what is part of this package, by short name.

    Raises:
        ConfigError: If there is no such thing, or it cannot be imported.
    """
    registered = {entry.name: entry.value for entry in entry_points(group=f"magic_rl.{kind}")}
    target = built_in.get(name) or registered.get(name) or name
    if not is_named(target):
        known = ", ".join((*built_in, *registered))
        raise ConfigError(f"{name!r} is none of {known}, and not of the form package.module:Name")
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{target}: {error}") from error
