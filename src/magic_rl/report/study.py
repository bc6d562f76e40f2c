"""A study's results as files: `study.json`, a table in Markdown, a figure per preset, and one self-contained HTML page.

All are made of the runs' small result files and of nothing else, no clock and no path among it, so that they
come out byte for byte the same wherever and whenever those files are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magic_rl.evaluation.aggregate import aggregate, dump
from magic_rl.evaluation.results import read_results
from magic_rl.report.exploitability import attack_curve
from magic_rl.report.html import digest, environment, resource
from magic_rl.report.study_figures import changes
from magic_rl.report.study_table import Table, markdown, tables
from magic_rl.report.svg import standalone
from magic_rl.store import atomic

STUDY_FILE, TABLE_FILE, PAGE_FILE = "study.json", "study.md", "study.html"


def write_study(folder: Path, out: Path | None = None) -> list[Table]:
    """Tabulate the finished runs in a folder.

    Args:
        folder: Holds a run, or the small files of one, per subdirectory.
        out: Where the files go; by default the folder itself.

    Returns:
        The table of each preset.

    Raises:
        UserError: If there is no finished run, runs cannot be compared, or the files cannot be written.
    """
    study = aggregate(read_results(folder))
    found = tables(study)
    target = out or folder
    with atomic.writing(target):
        target.mkdir(parents=True, exist_ok=True)
    atomic.write_file(target / STUDY_FILE, dump(study))
    atomic.write_file(target / TABLE_FILE, markdown(found).encode())
    atomic.write_file(target / PAGE_FILE, _page(study, found).encode())
    for name, preset in study["presets"].items():
        if figure := changes(preset):
            atomic.write_file(target / f"{name}.svg", standalone(figure.svg, resource("figure.css")).encode())
    return found


def _page(study: Mapping[str, Any], found: list[Table]) -> str:
    style = resource("figure.css") + resource("style.css")
    return (
        environment()
        .from_string(resource("parts.html.j2") + resource("study.html.j2"))
        .render(
            runs=sum(len(preset["rng_seeds"]) for preset in study["presets"].values()),
            presets=[
                (table, list(filter(None, (changes(preset), attack_curve(preset.get("attack"))))))
                for table, preset in zip(found, study["presets"].values(), strict=True)
            ],
            style=style,
            style_hash=digest(style),
        )
    )
