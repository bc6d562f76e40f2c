"""Settings from TOML and `--set`, and back.

The preset is applied first, then the file, then `--set key=value`. The resolved tree is written into the
run, so a run directory alone says what was done.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from magic_rl.config.tree import PRESETS, Config, Tree
from magic_rl.errors import UserError
from magic_rl.files import NO_UNICODE, read_text

_PATHS = frozenset(
    (
        "data.seeds",
        "game.prompts",
        "judge.cache",
        "attacker.pool",
        *(f"{role}.{key}" for role in ("attacker", "defender") for key in ("model", "sft.examples")),
        *(f"{role}.{key}" for role in ("judge.endpoint", "attacker.writer") for key in ("model", "tokenizer")),
    )
)
_WORDS = ("", "default", "demo", "brief", "paper", "off")  # which are no paths, though a folder may have such a name


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a config file and `key=value` overrides.

    Args:
        path: TOML file; None starts from the defaults.
        overrides: `a.b.c=value` items; the value is TOML, or a bare string.

    Raises:
        UserError: If the file is missing or no TOML, a key is unknown or a value impossible; names the key's path.
    """
    where = str(path) if path else "--set"
    tree: Tree = {}
    if path is not None:
        try:
            tree = tomllib.loads(read_text(path))
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{path}: not valid TOML: {error}") from error
    for item in overrides:
        tree = _merge(tree, _parse_override(item))
    return _validate(tree, where)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings in which two dumped configs differ, by path, with both values; of those that both have."""

    def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, Mapping) and key != "chat_template_kwargs":  # whose keys are the user's
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    before, after = dict(flat(one)), dict(flat(other))
    return {key: (before[key], after[key]) for key in before.keys() & after.keys() if before[key] != after[key]}


def dump_config(config: Config) -> str:
    """The resolved tree as TOML that `load_config` reads back to an equal tree."""
    return tomli_w.dumps(config.model_dump(mode="json"))


def _validate(tree: Tree, where: str) -> Config:
    preset = tree.get("preset", "magic")
    if preset not in PRESETS:
        raise UserError(f"{where}: preset: {preset!r} is none of {', '.join(PRESETS)}")
    try:
        return Config.model_validate(_absolute(_merge(PRESETS[preset], tree)))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "config"
        if first["type"] == "extra_forbidden":
            raise UserError(f"{where}: {key}: unknown key{_suggestion(first['loc'])}") from error
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {key}: {message}") from error


def _absolute(tree: Mapping[str, Any], path: str = "") -> Tree:
    """The tree with whole paths to the files and folders it names, so that a run can go on from any directory."""
    out: Tree = {}
    for key, value in tree.items():
        where = f"{path}{key}"
        if isinstance(value, Mapping):
            out[key] = _absolute(value, f"{where}.")
        elif where == "judge.members" and isinstance(value, list | tuple):
            out[key] = [_absolute(each, "judge.") if isinstance(each, Mapping) else each for each in value]
        elif not isinstance(value, str) or value in _WORDS or (key == "model" and tree.get("url")):
            out[key] = value
        elif where == "data.seeds" and not Path(value).is_file():
            out[key] = ",".join(map(_absolute_source, value.split(",")))
        else:
            out[key] = _whole(value) if where in _PATHS else value
    return out


def _absolute_source(source: str) -> str:
    """A source of seeds: a file, NAME:FILE, or a name, which has no suffix."""
    name, colon, place = source.strip().rpartition(":")
    return f"{name}{colon}{_whole(place)}" if Path(place).suffix else source


def _whole(name: str) -> str:
    """The whole path of what exists under a name; else the name."""
    try:
        return str(Path(name).absolute()) if Path(name).exists() else name
    except OSError:  # too long for a path
        return name


def _suggestion(location: tuple[int | str, ...]) -> str:
    node: type[BaseModel] = Config
    for part in location[:-1]:
        field = node.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return ""
        node = field.annotation
    return f" (known here: {', '.join(node.model_fields)})"


def _parse_override(item: str) -> Tree:
    try:
        item.encode()
    except UnicodeEncodeError as error:  # bytes of a command line that are not in its encoding
        raise UserError(f"--set {item!a}: {NO_UNICODE}; type it in UTF-8") from error
    key, equals, value = item.partition("=")
    if not equals or not all(part.isidentifier() for part in key.strip().split(".")):
        raise UserError(f"--set {item}: expected key=value, for example --set learning.group=8")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    result: Tree = parsed
    return result


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> Tree:
    """`high` over `low`, table by table."""
    out = dict(low)
    for key, value in high.items():
        under = out.get(key)
        out[key] = _merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return out
