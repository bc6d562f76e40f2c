"""What helps against an error, in words of the command line: errors carry facts, commands and flags are added here."""

from __future__ import annotations

from magic_rl.errors import UserError

REMEDIES = {
    "attack again": "`magic-rl attack {run} --again` replaces them",
    "choose steps": "say with --steps how many it takes here",
    "take another's attacker": "take that of another run with --attacker-from OTHER_RUN",
    "resume": "`magic-rl resume {run}` goes on training",
    "resume or elsewhere": "go on with `magic-rl resume {run}`, or choose another directory",
    "raise limit": "raise it, as in `magic-rl resume RUN --set {role}.sampling.{limit}=N`",
    "smaller step size": "train again with a smaller {role}.optimiser.lr (or {role}.sft.lr), or with learning.kl above "
    "0",
    "write the pool again": "take them out, or write the pool again by `magic-rl pool build --config` with this config",
    "train a study": "`magic-rl study CONFIG --out {folder}` trains some",
    "export the adapter": "`magic-rl export --adapter` needs none",
    "add a teaching preset": "--attack-steps needs an attacker: add a preset that teaches one to --presets, such as "
    "magic, or attack it with one by `magic-rl attack {run} --attacker-from RUN`",
    "same study": "repeat the first command to go on, or choose another --out",
    "same attack steps": "use the same --attack-steps for both",
}


def in_words(error: UserError) -> str:
    """What was wrong, and what helps."""
    remedy = REMEDIES[error.remedy].format(**error.facts) if error.remedy else ""
    return f"{error}; {remedy}" if remedy else str(error)
