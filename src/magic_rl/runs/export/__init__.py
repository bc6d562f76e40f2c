"""Exports a hardened defender: a model folder whose prompts equal those of training, id by id."""

from magic_rl.runs.export.card import model_card
from magic_rl.runs.export.defender import Form, export_defender

__all__ = ["Form", "export_defender", "model_card"]
