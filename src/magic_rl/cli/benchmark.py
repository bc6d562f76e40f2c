"""`magic-rl benchmark`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from magic_rl.cli.options import JudgeFile, Overrides, Round, Target
from magic_rl.cli.shown import columns
from magic_rl.cli.stopping import stoppable
from magic_rl.config import Config, load_config
from magic_rl.errors import UserError

_MEASURES: tuple[Literal["asr", "refusal"], ...] = ("asr", "refusal")

_Files = Annotated[
    list[str] | None,
    typer.Option(metavar="SET=FILE", help="Your copy of a set; then only such sets are asked. May be repeated."),
]
_Limits = Annotated[
    list[str] | None,
    typer.Option(metavar="asr=PERCENT", help="Exit status 1 if a set's ASR is above; refusal=PERCENT for benign."),
]


def benchmark(
    target: Target,
    suite: Annotated[
        Literal["paper", "overrefusal", "capability"], typer.Option(help="What is asked; see docs/BENCHMARKS.md.")
    ] = "paper",
    data: _Files = None,
    judge: JudgeFile = None,
    overrides: Overrides = None,
    number: Round = None,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="Most rows of each set, drawn evenly; 0: all.")] = 0,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=0, help="Cut replies here; 0: as the paper (512, 2,048).")
    ] = 0,
    any_count: Annotated[
        bool, typer.Option("--any-count", help="Take sets with another number of rows than the published one.")
    ] = False,
    compare: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of another model's benchmark; compares item by item.")
    ] = None,
    fail_above: _Limits = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the results; by default benchmarks/TARGET-SUITE.")
    ] = None,
) -> None:
    """Ask a model the field's benchmarks through Inspect; print each set's rate by the release's rule and by ours.

    Every reply and verdict is kept in items.jsonl, to be judged again; `inspect view --log-dir DIR/logs` shows logs.
    Ctrl-C stops; the same command continues. Needs the extra `eval`: `pip install 'magic-rl[eval]'`.

    Examples:

      magic-rl benchmark runs/demo --suite overrefusal --limit 100

      magic-rl benchmark http://127.0.0.1:8000/v1 --data harmbench=harmbench_behaviors_text_test.csv --judge judge.toml

      magic-rl benchmark runs/demo --compare benchmarks/default-paper --fail-above asr=10
    """
    percents = _pairs("--fail-above", fail_above or (), _MEASURES)
    limits = {key: _percent(percents[key]) for key in _MEASURES if key in percents}
    folder = out or Path("benchmarks") / f"{re.sub(r'[^A-Za-z0-9.]+', '-', target).strip('-')}-{suite}"
    with stoppable((folder / "logs").is_dir):
        config = _config(target, judge, overrides or ())
        from magic_rl.runs.target import look_for

        look_for(target)
        if find_spec("inspect_ai") is None:
            raise UserError("Inspect is not installed", "install", extra="eval")
        from magic_rl.evidence.summary import exceeded
        from magic_rl.report.benchmarks import benchmark_table, write_figure
        from magic_rl.runs.benchmark import BenchmarkSpec
        from magic_rl.runs.benchmark import benchmark as ask_all

        spec = BenchmarkSpec(target, suite, config, _pairs("--data", data or ()), limit, max_tokens, any_count, number)
        result = ask_all(spec, folder, display="rich" if sys.stderr.isatty() else "none", other=compare)
    typer.echo(benchmark_table(result, columns(100)))
    typer.echo(f"\nresults: {folder}" + (f", {drawn.name}" if (drawn := write_figure(result, folder)) else ""))
    for said in (above := list(exceeded(result.lines, limits))):
        typer.echo(said, err=True)
    if above:
        raise typer.Exit(1)


def _config(target: str, judge: Path | None, overrides: Sequence[str]) -> Config:
    """The run's own settings, or the defaults, with the judge that was named."""
    own = Path(target) / "config.toml"
    named = load_config(judge or (own if own.is_file() else None), overrides)
    return load_config(own).model_copy(update={"judge": named.judge}) if judge and own.is_file() else named


def _pairs(flag: str, given: Sequence[str], known: Sequence[str] = ()) -> dict[str, str]:
    """Arguments of the form KEY=VALUE. Raises: UserError: For one of another form or with an unknown key."""
    out: dict[str, str] = {}
    for argument in given:
        key, _, value = argument.partition("=")
        if not value or (known and key not in known):
            raise UserError(f"{flag} {argument}: expected {'|'.join(known) or 'SET'}=VALUE")
        out[key] = value
    return out


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise UserError(f"--fail-above {text}: expected a percentage from 0 to 100")
    return value
