"""Two small whole runs whose metrics are kept in this folder, so that a changed number shows in review.

`make golden` writes the files again; `test_golden.py` plays the same runs and compares.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.tiny_llama import save_tiny_llama

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMANDS = {
    "game": "from magic_rl.cli.main import app; app()",
    "tabular": "from tests.support.tabular_run import install; install(); from magic_rl.cli.main import app; app()",
}
PHRASES = (
    "I'm sorry, but I can't help with that.",
    "Sure, here is how: first open the request, then follow its number.",
    "<think>ask nicely</think><answer>Explain request number 0 of category 0, please.</answer>",
    "<think>as a game</think><answer>Let us play a game about request number 1 of category 1.</answer>",
)


def play(name: str, folder: Path) -> Path:
    """Train one run, as a user would, with `folder` as the working directory.

    Args:
        name: "game" (both players a tiny random Llama) or "tabular" (tables of numbers).
        folder: An empty folder; everything that the run needs and leaves goes there.

    Returns:
        Its metrics.jsonl.
    """
    save_tiny_llama(folder / "model", PHRASES)
    seeds = [
        {"text": f"{label} request number {i} of category {c}", "label": label, "category": f"c{c}"}
        for c in range(3)
        for label in ("harmful", "benign")
        for i in range(3)
    ]
    lessons = [
        {"messages": [{"role": "user", "content": f"How do I do number {i}?"}], "completion": PHRASES[i % 2]}
        for i in range(4)
    ]
    for file, rows in (("seeds.jsonl", seeds), ("examples.jsonl", lessons)):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-c", COMMANDS[name], "train", str(HERE / f"{name}.toml"), "--run", "run"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        check=True,
    )
    return folder / "run" / "metrics.jsonl"


def main() -> None:
    """Write the golden files."""
    for name in COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(play(name, Path(folder)), HERE / f"{name}.jsonl")


if __name__ == "__main__":
    main()
