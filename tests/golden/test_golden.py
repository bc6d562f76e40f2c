"""Claims about numbers that should not change unnoticed: small whole runs give the metrics kept in this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.make import COMMANDS, HERE, play

# CPUs and numbers of threads round differently: 5e-5 was the most seen on the Llama, 1e-16 on the tables.
TOLERANCE = {"game": 1e-4, "tabular": 1e-9}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_small_run_gives_the_metrics_that_are_kept(name: str, tmp_path: Path) -> None:
    kept, rel = _rows(HERE / f"{name}.jsonl"), TOLERANCE[name]
    close = [
        {k: pytest.approx(v, rel, rel / 100) if isinstance(v, float) else v for k, v in row.items()} for row in kept
    ]
    assert _rows(play(name, tmp_path)) == close


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
