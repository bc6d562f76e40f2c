"""Export of a hardened defender: a model folder that says, to the last prompt id, what was trained."""

from magic_rl.runs.export.card import model_card
from magic_rl.runs.export.defender import Form, export_defender

__all__ = ["Form", "export_defender", "model_card"]
