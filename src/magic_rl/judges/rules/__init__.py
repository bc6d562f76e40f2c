"""The judge of the demo: rules for English replies, without a model. Of other rooms it imports only `text`."""

from __future__ import annotations

from magic_rl.judges.rules.judge import RulesJudge, detect_refusal

__all__ = ["RulesJudge", "detect_refusal"]
