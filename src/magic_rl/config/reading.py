"""Read settings from a file and overrides, and write them back.

A file wins over the preset that it names, and that preset over a file that this one extends. A preset chosen beside a
file wins over it, and overrides win over all by default. The resolved tree is written into the run, so a run directory
alone says what was done.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w
from pydantic import ValidationError

from magic_rl.config.tree import LENIENT, PRESETS, Config, PresetName, Tree, without_effect
from magic_rl.errors import ConfigError
from magic_rl.files import NO_UNICODE, read_text
from magic_rl.settings import Node, paths, section_of

ShippedName = Literal["demo", "paper", "paper-qwen2.5-7b", "paper-llama-3.1-8b", "paper-qwen3-8b", "one-gpu", "node"]
SHIPPED = get_args(ShippedName)  # the configs that come with the package, in its folder `configs`

_Keys = tuple[str, ...]
# What to write in place of a value of the wrong kind, by how pydantic's name for the error begins.
_EXPECTED = {
    "tuple": 'a list, such as ["a", "b"]',
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string_type": "text in quotes",
    "model": "a table of settings",
    "dict": "a table, such as { key = true }",
    "date": "a day, such as 2026-01-01",
}


def load_config(
    file: Path | None = None,
    overrides: Sequence[str] = (),
    preset: PresetName | None = None,
    *,
    wins: Literal["overrides", "preset"] = "overrides",
) -> Config:
    """Read a config file, a preset over it, and `key=value` overrides.

    Args:
        file: TOML file, or the name of a shipped one if no such file exists; None starts from the defaults.
        overrides: `a.b.c=value` items; the value is TOML, or a bare string. A table replaces the whole table at its
            key. A `judge.kind` other than the file's drops the file's endpoint, members, rule, threshold and options;
            so does the `judge.kind` of a file that extends another.
        preset: Wins over the file.
        wins: Which of the two wins if a preset and overrides disagree.

    Returns:
        The settings, without those of the file that a preset or overrides leave without an effect, and without
        overrides that a preset leaves without one where it wins.

    Raises:
        ConfigError: If the file is missing or not TOML, a key is unknown or a value impossible, or a setting would have
            no effect; names the key's path and says whether an override is to blame (`facts["override"]`).
    """
    named = file is not None and str(file) in SHIPPED and not file.is_file()
    tree = _read(shipped(str(file)) if named else file) if file else {}
    given = [_parse(item) for item in overrides]
    chosen = next((value for keys, value in reversed(given) if keys == ("preset",)), preset)
    alone = _merge(_preset(tree.get("preset", "magic"), file), tree)
    above: Tree = {"preset": chosen, **_preset(chosen, file, override=True)} if chosen else {}
    whole = _merge(tree, above) if chosen else alone
    for keys, value in given:
        whole = _for_judge(whole, value) if keys == ("judge", "kind") else whole
    for keys, value in given:
        whole = whole if keys == ("preset",) else _put(whole, keys, value)
    if wins == "preset":
        whole = _merge(whole, above)
    try:
        kept = [*_idle(alone), *(keys for keys, _ in given if wins == "overrides")]
        for keys in _idle(whole):
            if not any(keys[: len(mine)] == mine for mine in kept):
                whole = _drop(whole, keys)
        return Config.model_validate(whole)
    except ValidationError as error:
        keys, text = _explained(error.errors())
        raise _wrong(text, _blamed(keys, given, alone), file) from error


def _idle(tree: Tree) -> list[_Keys]:
    """Settings that have no effect in a tree; none if the tree is invalid for another reason."""
    try:
        config = Config.model_validate(tree, context=LENIENT)
    except ValidationError:
        return []
    return [tuple(key.split(".")) for key, _ in without_effect(config)]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings in which two dumped configs differ, by path, with both values; None where one has no such setting."""

    def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, Mapping) and key not in ("chat_template_kwargs", "options"):  # keys of the user
                yield from flat(value, f"{prefix}{key}.")
            elif value is not None:
                yield f"{prefix}{key}", value

    before, after = dict(flat(one)), dict(flat(other))
    both = {key: (before.get(key), after.get(key)) for key in (*before, *after)}
    return {key: (old, new) for key, (old, new) in both.items() if old != new}


def dump_config(config: Config) -> str:
    """The resolved tree as TOML that `load_config` reads back to an equal tree."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def shipped(name: str) -> Path:
    """The file of one of the `SHIPPED` configs."""
    return Path(str(resources.files("magic_rl") / "configs" / f"{name}.toml"))


def _read(file: Path, above: tuple[Path, ...] = ()) -> Tree:
    """The settings of a file over those of the one that it extends. Args: above: Files that extend this one."""
    if file.resolve() in above:
        raise ConfigError(f"{file}: extends: leads back to this file; name one that does not")
    try:
        if not file.exists() and (near := get_close_matches(file.name.lower(), SHIPPED, 1)):
            raise ConfigError(f"{file}: no such file; did you mean {near[0]}?")
        own = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    name = own.pop("extends", None)
    if name is None:
        return own
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{file}: extends: must be another file, or one of {', '.join(SHIPPED)}, in quotes")
    beside = file.parent / name
    extended = shipped(name) if name in SHIPPED and not beside.is_file() else beside
    judge = own.get("judge")
    under = _read(extended, (*above, file.resolve()))
    if isinstance(judge, Mapping) and "kind" in judge:
        under = _for_judge(under, judge["kind"])
    chosen = _preset(own["preset"], file) if "preset" in own else {}  # wins over the extended file
    whole = _merge(_merge(under, chosen), own)
    for keys in _idle(_merge(_preset(whole.get("preset", "magic"), file), whole)):
        if not _holds(own, keys):  # a setting of the extended file that is left without an effect
            whole = _drop(whole, keys)
    return whole


def _for_judge(tree: Tree, kind: object) -> Tree:
    """The tree without settings that only fit a judge of another kind; the limits on abstentions stay."""
    judge = tree.get("judge")
    if not isinstance(judge, Mapping) or judge.get("kind", "rules") == kind:
        return tree
    return {**tree, "judge": {key: value for key, value in judge.items() if key in ("retries", "max_abstained")}}


def _preset(name: object, file: Path | None, *, override: bool = False) -> Tree:
    found = next((tree for known, tree in PRESETS.items() if known == name), None)
    if found is None:
        raise _wrong(f"preset: {name!r} is none of {', '.join(PRESETS)}", override, file)
    return found


def _wrong(text: str, override: bool, file: Path | None) -> ConfigError:
    return ConfigError(text if override or file is None else f"{file}: {text}", override=override)


def _blamed(keys: _Keys, given: Sequence[tuple[_Keys, Any]], alone: Tree) -> bool:
    """Whether an override caused an error: it set that very key, or without overrides the tree would be valid."""
    if any(keys[: len(mine)] == mine for mine, _ in given):
        return True
    try:
        Config.model_validate(alone)
    except ValidationError:
        return False
    return bool(given)


def _explained(errors: Sequence[Mapping[str, Any]]) -> tuple[_Keys, str]:
    """The first error's key and what is wrong with it, in one line."""
    first = errors[0]
    keys = _keys(first["loc"])
    path = ".".join(keys)
    if first["type"] == "extra_forbidden":
        return keys, f"{path}: unknown key; {_suggestion(path)}"
    if first["type"] == "missing":
        return keys, f"{path}: must be given"
    if first["type"] == "value_error":
        return keys, (f"{path}: " if path else "") + first["msg"].removeprefix("Value error, ")
    # pydantic reports one error for each kind that a setting may be of.
    said = [_says(error) for error in errors if _keys(error["loc"]) == keys]
    wrong = "" if first["type"] == "string_pattern_mismatch" else f"{first['input']!r}: "  # it may be an API key
    return keys, f"{path}: {wrong}must {' or '.join(dict.fromkeys(said))}"


def _keys(location: Sequence[int | str]) -> _Keys:
    """The part of pydantic's location that a user wrote; the rest says which of several kinds was tried."""
    out: list[str] = []
    node: type[Node] | None = Config
    for part in location:
        if isinstance(part, str) and node is None:
            break
        out.append(str(part))
        if isinstance(part, str) and node is not None:
            field = node.model_fields.get(part)
            node = section_of(field, listed=True) if field else None
    return tuple(out)


def _says(error: Mapping[str, Any]) -> str:
    if error["type"] == "tuple_type" and isinstance(error["input"], str):
        return f"be a list, such as [{json.dumps(error['input'])}]"
    kinds = (f"be {text}" for begin, text in _EXPECTED.items() if error["type"].startswith(begin))
    return next(kinds, re.sub(r"^\w+ should ", "", error["msg"]))


def _suggestion(path: str) -> str:
    """Settings of the whole tree that may be meant: of a similar name, preferably in a similar section."""
    section, _, name = path.rpartition(".")

    def likeness(known: str) -> float:
        its_section, _, its_name = known.rpartition(".")
        ratios = [SequenceMatcher(None, *pair).ratio() for pair in ((name, its_name), (section, its_section))]
        return ratios[0] + ratios[1] / 2

    settings = list(paths(Config))
    sections = {known.rpartition(".")[0] for known in settings}
    scores = {known: likeness(known) for known in (*settings, *get_close_matches(path, sections, 1, 0.8))}
    best = sorted(scores, key=lambda known: -scores[known])[:3]
    if near := [known for known in best if scores[known] >= max(0.95, scores[best[0]] - 0.3)]:
        return f"did you mean {' or '.join(near)}?"
    inside = f"{section}." if section else ""
    known = {path.removeprefix(inside).partition(".")[0]: None for path in settings if path.startswith(inside)}
    return f"known here: {', '.join(known or Config.model_fields)}"


def _parse(item: str) -> tuple[_Keys, Any]:
    try:
        item.encode()
    except UnicodeEncodeError as error:  # bytes of a command line that are not in its encoding
        raise ConfigError(f"{item!a}: {NO_UNICODE}; type it in UTF-8", override=True) from error
    key, equals, value = item.partition("=")
    keys = tuple(key.strip().replace("-", "_").split("."))
    if not equals or not all(part.isidentifier() for part in keys):
        raise ConfigError(f"{item}: expected key=value, for example learning.group_size=8", override=True)
    try:
        return keys, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, None if value.strip() == "none" else value.strip()


def _put(tree: Mapping[str, Any], keys: _Keys, value: Any) -> Tree:
    """The tree with another value, or table, at a path."""
    under = tree.get(keys[0])
    inner = _put(under if isinstance(under, Mapping) else {}, keys[1:], value) if keys[1:] else value
    return {**tree, keys[0]: inner}


def _holds(tree: Any, keys: _Keys) -> bool:
    """Whether there is a value at a path."""
    return not keys or (isinstance(tree, Mapping) and keys[0] in tree and _holds(tree[keys[0]], keys[1:]))


def _drop(tree: Mapping[str, Any], keys: _Keys) -> Tree:
    """The tree without what is at a path."""
    if keys[1:]:
        return {**tree, keys[0]: _drop(tree.get(keys[0]) or {}, keys[1:])}
    return {key: value for key, value in tree.items() if key != keys[0]}


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> Tree:
    """`high` over `low`, table by table."""
    out = dict(low)
    for key, value in high.items():
        under = out.get(key)
        out[key] = _merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return out
