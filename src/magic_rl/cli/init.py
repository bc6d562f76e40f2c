"""`magic-rl init`: a starter config in which every setting stands, explained and at its default."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from magic_rl.config import Config
from magic_rl.errors import UserError

_HEADER = """\
# A config of magic-rl, for `magic-rl train`. Every setting stands here at its default, which is the paper's where the
# paper has one and an adapter can learn with it. A line that begins with `#` and no space is a setting: take the `#`
# away to change it. What you leave alone follows the preset. Before you rely on a number, set these:
#   attacker.model, defender.model   the chat model to harden; the default is a small one for trying things out
#   judge.kind, judge.endpoint       a guard model that labels; the default, rules, is made for the demo
#   data.seeds                       your own seeds; the default is a small demo set
#   attacker.pool                    what the attacker learns first; empty, templates write it

"""


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("magic.toml"),
) -> None:
    """Write a commented starter config. An existing file is left alone.

    Example:

      magic-rl init my.toml
    """
    text = starter()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError(f"{path}: already exists; choose another name") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    typer.echo(f"config: {path}")


def starter() -> str:
    """The starter config, made from the descriptions and defaults of the config's own models."""
    return _HEADER + "".join(_table(Config(), ""))


def _table(node: BaseModel, path: str) -> Iterator[str]:
    """One table: what it is for, its own settings, then the tables under it."""
    if path:
        yield f"\n# {(inspect.getdoc(type(node)) or '').splitlines()[0]}\n[{path}]\n"
    written = node.model_dump(mode="json")  # JSON scalars and lists are TOML too, on one line
    for name, field in type(node).model_fields.items():
        value = getattr(node, name)
        if not isinstance(value, BaseModel):
            yield f"# {field.description}\n" if field.description else ""
            yield f"#{name} = {json.dumps(written[name], ensure_ascii=False)}\n"
    for name in type(node).model_fields:
        value = getattr(node, name)
        if isinstance(value, BaseModel):
            yield from _table(value, f"{path}.{name}" if path else name)
