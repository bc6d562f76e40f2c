"""Exports a run's defender to a folder: merged into the base's weights, or the adapter alone, with a model card.

Only a defender can be exported. A trained attacker is a tool for breaking models and stays in its run directory.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Literal

from magic_rl.errors import UserError
from magic_rl.evaluation.result import current_evaluation
from magic_rl.runs.export.card import model_card, public_name
from magic_rl.runs.export.player import SavedPlayer, saved_player, write_model
from magic_rl.runs.inputs import begun_with
from magic_rl.store.atomic import new_directory
from magic_rl.store.run import RunDirectory

Form = Literal["base", "float32", "adapter"]

_log = logging.getLogger(__name__)


def export_defender(run: RunDirectory, out: Path, *, number: int | None = None, form: Form = "base") -> Path:
    """Write a saved defender with all that is needed to use it, and a card. The folder appears whole or not at all.

    Args:
        out: New folder.
        number: Round whose defender is exported; None is the last.
        form: "base" and "float32" are merged models, stored in the precision of the base's weights or in float32;
            "adapter" is the adapter alone, as PEFT reads it.

    Returns:
        The folder.

    Raises:
        UserError: If `out` exists or cannot be written, the run has saved no such defender, its defender is an
            attacker too, or the written model is not the trained one.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: already exists; choose another folder")
    chosen = saved_player(run, "defender", number)
    with new_directory(out) as aside:
        stored = None
        if form == "adapter":
            write_adapter(chosen, aside)
        else:
            stored = write_model(chosen, aside, in_float32=form == "float32")
            _log.info("%s", stored)
        evaluation, checked = current_evaluation(run), begun_with(run)["checked"]
        card = model_card(chosen, evaluation, checked, stored=stored)
        (aside / "README.md").write_text(card, encoding="utf-8")
    return out


def write_adapter(chosen: SavedPlayer, out: Path) -> None:
    """Write the adapter as it was saved, and the chat template if it is not the base's own."""
    shutil.copyfile(chosen.adapter / "adapter_model.safetensors", out / "adapter_model.safetensors")
    settings = json.loads((chosen.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = public_name(chosen.settings, chosen.base)
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if chosen.template != chosen.renderer.own_template:
        (out / "chat_template.jinja").write_text(chosen.template, encoding="utf-8")
