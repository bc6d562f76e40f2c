"""A study's results as files: `study.json`, a table in Markdown, a figure per preset, and one self-contained HTML page.

All are made from the runs' small result files alone, without the clock or paths, so the same result files give
the same bytes at any time and place.
"""

from __future__ import annotations

from pathlib import Path

from magic_rl.evaluation.result import StudyResult
from magic_rl.report.curves import attack_curve
from magic_rl.report.figures import changes
from magic_rl.report.page import render, resource
from magic_rl.report.svg import standalone
from magic_rl.report.tables import study_about, study_head, study_markdown, study_notes, study_rows
from magic_rl.store import atomic

STUDY_FILE, TABLE_FILE, PAGE_FILE = "study.json", "study.md", "study.html"


def write_study(study: StudyResult, out: Path) -> None:
    """Write the files into a folder.

    Raises:
        UserError: If they cannot be written.
    """
    page = render(
        "study.html.j2",
        runs=sum(len(preset.rng_seeds) for preset in study.presets.values()),
        presets={
            name: {
                "about": study_about(preset),
                "head": study_head(preset, "measure"),
                "rows": list(study_rows(preset)),
                "notes": list(study_notes(preset)),
                "figures": [figure for figure in (changes(preset), attack_curve(preset.attack)) if figure],
            }
            for name, preset in study.presets.items()
        },
    )
    atomic.make_folder(out)
    atomic.write_file(out / STUDY_FILE, study.model_dump_json(indent=1, exclude_none=True).encode() + b"\n")
    atomic.write_file(out / TABLE_FILE, study_markdown(study).encode())
    atomic.write_file(out / PAGE_FILE, page.encode())
    for name, preset in study.presets.items():
        if figure := changes(preset):
            atomic.write_file(out / f"{name}.svg", standalone(figure.svg, resource("figure.css")).encode())
