"""Export of a hardened defender: a model folder that says, to the last prompt id, what was trained."""

from magic_rl.export.card import model_card
from magic_rl.export.defender import Form, export_defender

__all__ = ["Form", "export_defender", "model_card"]
