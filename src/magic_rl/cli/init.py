"""`magic-rl init`: a starter config in which every setting is explained."""

from __future__ import annotations

import inspect
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from magic_rl.cli.options import Overrides
from magic_rl.config import Config, ShippedName, load_config, shipped
from magic_rl.errors import UserError
from magic_rl.settings import Node, section_of
from magic_rl.store.atomic import make_folder

_HEADER = """\
# A config of magic-rl, for `magic-rl train`. Every setting is here. Those of `{source}` are set; a line that begins
# with `#` and no space holds one at its default or, if it has none, an example. Remove the `#` to set it. Before you
# rely on a number, set these:
#   attacker.model, defender.model   the chat model to harden; the default is a small one for trying things out
#   judge.kind, judge.endpoint       a guard model that labels; the default, rules, is made for the demo
#   data.seeds                       your own seeds; the default is a small demo set
#   attacker.pool                    what the attacker learns first; without one, templates write it

"""


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")] = Path("magic.toml"),
    source: Annotated[
        ShippedName,
        typer.Option("--from", help="Settings to begin with: for a small model on a laptop, the paper's, or for GPUs."),
    ] = "demo",
    overrides: Overrides = None,
) -> None:
    """Write a commented starter config, in a new folder if need be. An existing file is left alone.

    Examples:

      magic-rl init my.toml

      magic-rl init my.toml --from paper-qwen3-8b --set data.seeds=seeds.jsonl
    """
    text = starter(source, load_config(Path(source), overrides or ()))
    make_folder(path.parent)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError(f"{path}: already exists; choose another name") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    typer.echo(f"config: {path}")
    typer.echo(f"next: magic-rl train {path} --run runs/{path.stem}", err=True)


def starter(source: str, config: Config) -> str:
    """A starter config with the settings of `config`, made from what the sections say of themselves."""
    notes = "\n#\n".join(_notes(source))
    return f"{notes}\n#\n{_HEADER.format(source=source)}" + "".join(_table(Config, config, ""))


def _notes(source: str) -> Iterator[str]:
    """What a shipped config says of itself, and then the one that it extends."""
    text = shipped(source).read_text(encoding="utf-8")
    yield text.partition("\n\n")[0]
    if extended := tomllib.loads(text).get("extends"):
        yield from _notes(extended)


def _table(section: type[Node], node: Node | None, path: str) -> Iterator[str]:
    """One table: what it is for, its own settings, then the tables under it. `node` is None where it is not set."""
    written: Mapping[str, Any] = {} if node is None else node.model_dump(mode="json", exclude_none=True)
    default = section.model_construct().model_dump(mode="json", warnings=False)
    if path:
        yield f"\n# {(inspect.getdoc(section) or '').splitlines()[0]}\n{'#' if node is None else ''}[{path}]\n"
    for name, field in section.model_fields.items():
        if section_of(field) is None:
            yield f"# {field.description}\n" if field.description else ""
            value = written.get(name)
            off = "#" if node is None or value == default.get(name) else ""
            shown = (field.examples or [default.get(name)])[0] if value is None else value
            yield f"{off}{name} = {_toml(shown)}\n"
    for name, field in section.model_fields.items():
        if inner := section_of(field):
            yield from _table(inner, getattr(node, name, None), f"{path}.{name}" if path else name)


def _toml(value: Any) -> str:
    """A value on one line. JSON's texts, numbers and truth values are TOML's too."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_toml(each)}' for key, each in value.items())} }}"
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)
