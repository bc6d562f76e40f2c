"""Arguments that several commands share, and how settings are given among them."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from magic_rl.config import SHIPPED, Config, load_config
from magic_rl.errors import UserError
from magic_rl.settings import section_of

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.", show_default=False)]
ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        help=f"Config file (TOML), or one that comes with magic-rl: {', '.join(SHIPPED)}.",
        show_default=False,
    ),
]
Results = Annotated[
    Path, typer.Argument(metavar="RESULTS", help="Items file, or the folder that holds it.", show_default=False)
]
A_MODEL = "a folder, a hub id, a URL ending in /v1, or a .toml file with url, model and api_key_env."
Target = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|RUN|URL",
        help=f"A run, whose defender it is; {A_MODEL}",
        show_default=False,
    ),
]
JudgeFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Config file that names the judge; by default the run's own.")
]
Round = Annotated[
    int | None, typer.Option("--round", metavar="N", min=0, help="Round of the policy; by default the last.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting, for example learning.group_size=8; the short form is --learning.group_size 8. May be "
        "given many times.",
    ),
]

_PLAIN = "|".join(name.replace("_", "[_-]") for name, field in Config.model_fields.items() if not section_of(field))
_SETTING = re.compile(rf"--([a-z]\w*(?:\.[a-z][\w-]*)+|{_PLAIN})(?:=(.*))?", re.IGNORECASE | re.DOTALL)


def measuring(file: Path | None, overrides: Sequence[str] | None) -> Config:
    """Settings to measure a judge by: abstentions are shown, so no share of them stops the command."""
    return load_config(file, (*(overrides or ()), "judge.max_abstained=1"))


def typed(arguments: Sequence[str]) -> dict[str, str]:
    """How settings that are options of their own are spelled, by path."""
    return {found[1].replace("-", "_"): f"--{found[1]}" for each in arguments if (found := _SETTING.fullmatch(each))}


def spelled_out(arguments: Sequence[str], own: Container[str] = ()) -> Iterator[str]:
    """Arguments with `--set key=value` in place of `--key value` and `--key=value`, where the key is a setting's path.

    Args:
        own: Options of the command itself, which a setting's name does not hide.

    Raises:
        UserError: For a key without a value.
    """
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            yield from (argument, *rest)
        elif (found := _SETTING.fullmatch(argument)) and f"--{found[1]}" not in own:
            value = found[2] if found[2] is not None else next(rest, "--")
            if value.startswith("--"):
                raise UserError(f"{argument}: expected a value, as in {argument} VALUE")
            yield from ("--set", f"{found[1]}={value}")
        else:
            yield argument
