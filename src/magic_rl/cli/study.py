"""`magic-rl study`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magic_rl.cli.options import Overrides
from magic_rl.cli.shown import columns
from magic_rl.config import PRESETS, load_config
from magic_rl.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magic_rl.config import Config, PresetName
    from magic_rl.runs.study.plan import PlannedRun, Stage
    from magic_rl.runs.study.runner import StudyOutcome

_CHILD = "magic_rl.cli.child"


def study(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Config file (TOML) of all runs.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the study, one run per subdirectory.")
    ] = None,
    rng_seeds: Annotated[
        str, typer.Option(metavar="N,N,…", help="Random seeds: a run of each preset for each.")
    ] = "0,1,2,3,4",
    presets: Annotated[str, typer.Option(metavar="NAME,…", help=f"Of {', '.join(PRESETS)}.")] = "magic",
    attack_steps: Annotated[
        int, typer.Option(min=0, help="Steps of a fresh attacker against every run's defenders; 0: none.")
    ] = 0,
    jobs: Annotated[int, typer.Option(min=0, help="Runs side by side; 0: as many as this machine has room for.")] = 0,
    overrides: Overrides = None,
    export: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy the small result files there, and the tables.")
    ] = None,
    rebuild: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Train nothing: tabulate the runs or result files in DIR.")
    ] = None,
) -> None:
    """Train and evaluate many runs; print means, the spread between runs, and intervals that cover both kinds of noise.

    Every run is a preset with a random seed, in a directory and a process of its own. After Ctrl-C or a crash the same
    command continues and skips finished runs. A run that fails is named, the others continue; the exit status is 1.
    Writes study.json, study.md, study.html and a figure per preset, for example magic.svg.

    Examples:

      magic-rl study demo --out studies/demo

      magic-rl study demo --out studies/presets --rng-seeds 0,1,2 --presets magic,no-game,defender-only

      magic-rl study --rebuild studies/demo --export results/demo
    """
    if (config is None) == (rebuild is None):
        raise UserError("give either CONFIG, to train, or --rebuild DIR, to tabulate what was trained")
    if rebuild and (overrides or attack_steps or jobs):
        raise UserError("--rebuild trains nothing: leave out --set, --attack-steps and --jobs")
    folder = rebuild or out
    if folder is None:
        raise UserError("--out: name a directory for the study")
    for place in filter(None, (folder, out, export)):
        if (place / "config.toml").is_file():
            raise UserError(f"{place}: is a run, not a study; name a directory that holds one run per subdirectory")
    ended = (
        None if rebuild else _train(folder, _configs(config, presets, rng_seeds, overrides or []), attack_steps, jobs)
    )
    if ended and ended.stopped:
        typer.echo("stopped; the same command continues from here", err=True)
        raise typer.Exit(130)
    failed = ended.failed if ended else {}
    _tabulate(folder, out if rebuild else None, export, even_none=bool(failed))
    for name, why in failed.items():
        typer.echo(f"failed: {name}: {why}", err=True)
    if failed:
        typer.echo(f"{len(failed)} failed and are not in the table; the same command tries them again", err=True)
        raise typer.Exit(1)


def _configs(path: Path | None, presets: str, seeds: str, overrides: list[str]) -> dict[tuple[PresetName, int], Config]:
    """Settings of every run; all are read before any begins."""
    names = [name.strip() for name in presets.split(",")]
    if unknown := [name for name in names if name not in PRESETS]:
        raise UserError(f"--presets: {unknown[0]!r} is none of {', '.join(PRESETS)}")
    numbers = [seed.strip() for seed in seeds.split(",")]
    if not all(map(str.isdecimal, numbers)) or len(set(map(int, numbers))) < len(numbers):
        raise UserError(f"--rng-seeds {seeds!r}: expected different whole numbers, 0 or more, for example 0,1,2")
    for key in ("preset", "rng_seed"):
        if any(item.partition("=")[0].strip().replace("-", "_") == key for item in overrides):
            raise UserError(f"--set {key}: a study has several; use --{key.replace('_', '-')}s")
    load_config(path, overrides)  # what has an effect with none of the presets is refused
    return {
        (preset, int(seed)): load_config(path, [*overrides, f"rng_seed={int(seed)}"], preset, wins="preset")
        for preset in (preset for name in names for preset in PRESETS if preset == name)
        for seed in numbers
    }


def _train(out: Path, configs: dict[tuple[PresetName, int], Config], attack_steps: int, jobs: int) -> StudyOutcome:
    from magic_rl.cli.study_view import StudyView
    from magic_rl.runs.study.plan import next_stage, write_plan
    from magic_rl.runs.study.runner import Work, run_all
    from magic_rl.runs.study.slots import slots
    from magic_rl.store import atomic
    from magic_rl.store.lock import locked

    atomic.make_folder(out)
    with locked(out):
        runs = write_plan(out, configs, attack_steps)
        work = Work(
            next_stage=lambda run: next_stage(run, attack_steps),
            command=lambda run, stage: [sys.executable, "-m", _CHILD, *arguments(run, stage, attack_steps)],
            logs=out / "logs",
            slots=slots(next(iter(configs.values())), jobs),
        )
        side_by_side = min(len(work.slots), len(runs))
        typer.echo(f"runs: {len(runs)}, {side_by_side} at a time; what they write is in {work.logs}", err=True)
        with StudyView(len(runs)) as view:
            return run_all(runs, work, view)


def _tabulate(folder: Path, out: Path | None, export: Path | None, *, even_none: bool) -> None:
    """Print and write the table of a study's runs. Args: even_none: Whether it may have no finished run."""
    from magic_rl.evaluation.aggregate import aggregate
    from magic_rl.report.study import PAGE_FILE, write_study
    from magic_rl.report.tables import study_table
    from magic_rl.runs.study.finished import export_results, finished_runs, read_results

    if even_none and not finished_runs(folder):
        return
    found = aggregate(read_results(folder))
    write_study(found, out or folder)
    typer.echo(study_table(found, columns(120)))
    typer.echo(f"page: {(out or folder) / PAGE_FILE}", err=True)
    if export is not None:
        export_results(folder, export)
        write_study(aggregate(read_results(export)), export)
        typer.echo(f"exported: {export}", err=True)


def arguments(run: PlannedRun, stage: Stage, attack_steps: int = 0) -> Sequence[str]:
    """The `magic-rl` command of a stage, without its first word."""
    if stage == "train":
        return ("train", str(run.config), "--run", str(run.path))
    if stage == "attack":
        borrowed = ("--attacker-from", str(run.attackers)) if run.attackers else ()
        return ("attack", str(run.path), "--steps", str(attack_steps), *borrowed)
    return (stage, str(run.path))
