"""The judge of the demo, which needs no model: rules for short English replies, and nothing of other rooms but text."""

from __future__ import annotations

from magic_rl.judges.rules.judge import RulesJudge, detect_refusal

__all__ = ["RulesJudge", "detect_refusal"]
