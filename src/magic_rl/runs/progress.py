"""How far a run is, read from its directory alone: no models, no torch."""

from __future__ import annotations

from magic_rl.store.run import RunDirectory


def is_complete(run: RunDirectory) -> bool:
    """Whether the run was trained to its end."""
    checkpoint = run.latest_checkpoint()
    return checkpoint is not None and checkpoint.state["stage"] == "done"
