"""What a server loads: a model as it is, or a player of a run, from a folder inside the run that is made once.

A player's folder has what training used: template, system prompt, words around a request, date, stops. A trained
attacker is served from inside its run directory and never leaves it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from magic_rl.engines.settings import EngineConfig
from magic_rl.files import user_path
from magic_rl.runs.export.defender import write_adapter
from magic_rl.runs.export.player import saved_player, write_beside_weights, write_model
from magic_rl.store import manifest
from magic_rl.store.atomic import new_directory
from magic_rl.store.run import RunDirectory
from magic_rl.types import Role

ServerName = Literal["transformers", "vllm"]

_MADE_OF, _ENGINE = "made-of.json", EngineConfig()


@dataclass(frozen=True, slots=True)
class Model:
    """What is served."""

    name: str  # what clients call it
    folder: Path  # its files, or those of the base that the adapter is added to
    # For a server that adds the adapter to the base: its folder, with the player's tokenizer, template and stops.
    adapter: Path | None = None
    engine: EngineConfig = _ENGINE  # how it is computed in this process


def served_model(name: str) -> Model:
    """A model that is not a player of a run, such as a base model to compare with.

    Args:
        name: "default", a hub id or a folder. Clients call it by the last part of that.

    Raises:
        UserError: If there is no such model.
    """
    from magic_rl.engines.local.models import resolve_model

    folder = resolve_model(name)
    is_path = user_path(name).is_dir() or name == "default"
    return Model(folder.resolve().name if is_path else name.rpartition("/")[2], folder)


def served_player(run: RunDirectory, role: Role, number: int | None, server: ServerName) -> Model:
    """A saved player. Its folder is written into the run unless it is already there.

    Args:
        number: Its round; None is the last.
        server: vLLM adds the adapter to the base; transformers loads the two merged, as an export has them.

    Raises:
        UserError: See `export_defender`.
    """
    from magic_rl.engines.local.models import fingerprint

    player = saved_player(run, role, number)
    kind = "adapter" if server == "vllm" else "merged"
    name = f"served/{role}-round-{player.number:02d}-{kind}"
    folder = run.path / name
    made_of = [fingerprint(player.base), manifest.fingerprint(player.adapter), player.template]
    if run.read_json(f"{name}/{_MADE_OF}") != made_of:
        with new_directory(folder, replace=True) as aside:
            if server == "vllm":
                write_beside_weights(player, aside)
                write_adapter(player, aside)
            else:
                write_model(player, aside)
            (aside / _MADE_OF).write_text(json.dumps(made_of), encoding="utf-8")
    engine = player.config.engine
    return Model(role, player.base, folder, engine) if server == "vllm" else Model(role, folder, engine=engine)
