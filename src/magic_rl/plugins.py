"""Plug-ins: a judge, a guard format, a strategy, an engine or a source of seeds that the user brings.

A setting names it as `package.module:Name`, or by the short name under which a package registered it as an entry point
of the group `magic_rl.KIND`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from magic_rl.errors import ConfigError

Kind = Literal["judges", "strategies", "engines", "seeds"]


def is_plugin(kind: Kind, name: str) -> bool:
    """Whether a text has the form `package.module:Name`, or is a name that a package registered."""
    module, _, attribute = name.partition(":")
    named = all(part.isidentifier() for part in (*module.split("."), attribute))
    return named or name in entry_points(group=f"magic_rl.{kind}").names


def find(kind: Kind, name: str) -> Any:
    """Load the plug-in that a setting names.

    Raises:
        ConfigError: If there is no such thing, or it cannot be imported.
    """
    group = f"magic_rl.{kind}"
    registered = {entry.name: entry for entry in entry_points(group=group)}
    try:
        return (registered.get(name) or EntryPoint(name, name, group)).load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name}: {error}; is its folder on PYTHONPATH, or its package installed?") from error
