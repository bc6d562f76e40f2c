"""Arguments that several commands share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from magic_rl.config import PRESETS, PresetName

Run = Annotated[Path, typer.Argument(help="Run directory.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting, for example learning.group=8. May be given many times."
    ),
]


def preset_overrides(name: PresetName | None) -> list[str]:
    """A preset's settings as `--set` items: one named on the command line wins over the file."""
    return [f"preset={name}", *_flatten(PRESETS[name], "")] if name else []


def _flatten(tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={json.dumps(value)}"
