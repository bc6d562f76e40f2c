"""The prompts of the roles (METHOD §6), one text file each, which a user can replace file by file.

A placeholder in braces is filled in one pass, so braces inside a seed or a reply are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from magic_rl.errors import UserError
from magic_rl.files import read_text
from magic_rl.types import Seed

_HERE = Path(__file__).parent
_BUILT_IN = ("brief", "paper")
_PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "attacker_harmful": ("seed",),
    "attacker_benign": ("seed",),
    "attacker_continue": ("reply",),
    "defender_user": ("attack",),
    "writer_rewrite_harmful": ("seed", "instruction"),
    "writer_rewrite_benign": ("seed", "instruction"),
    "writer_reasoning": ("seed", "attack"),
}


@dataclass(frozen=True, slots=True)
class Prompts:
    """Text of every prompt, by file name without `.txt`."""

    attacker_system: str
    attacker_system_multi_turn: str
    attacker_harmful: str  # the attacker's task for a harmful seed, with `{seed}`
    attacker_benign: str  # the attacker's task for a benign seed, with `{seed}`
    attacker_continue: str  # shows the attacker the defender's last `{reply}` and asks for the next prompt
    defender_user: str  # the user message that the defender reads: just the `{attack}`, unless a user's file adds words
    defender_system_thinks: str  # asks the defender to think first (defender-cot)
    refusals: str  # refusals for the defender's warm-up, one per line
    writer_rewrite_harmful: str  # asks a model to rewrite a harmful `{seed}` by a strategy's `{instruction}`
    writer_rewrite_benign: str  # the same for a benign `{seed}`
    writer_reasoning: str  # asks a model for the thoughts that lead from a `{seed}` to an `{attack}`

    def attacker(self, seed: Seed) -> str:
        """The attacker's task for a seed."""
        template = self.attacker_harmful if seed.label == "harmful" else self.attacker_benign
        return _fill(template, seed=seed.text)

    def next_attack(self, reply: str) -> str:
        """The attacker's task after a reply."""
        return _fill(self.attacker_continue, reply=reply)

    def defender(self, attack: str) -> str:
        """The user message that the defender reads."""
        return _fill(self.defender_user, attack=attack)

    def defender_system(self, own: str | None, thinks: bool) -> str:
        """The defender's system prompt: its own, if it has one, and how to think if it is to think."""
        return "\n".join(filter(None, [own, self.defender_system_thinks if thinks else ""]))

    def rewrite(self, seed: Seed, instruction: str) -> str:
        """What the writer of the attack pool is asked in order to rewrite a seed."""
        template = self.writer_rewrite_harmful if seed.label == "harmful" else self.writer_rewrite_benign
        return _fill(template, seed=seed.text, instruction=instruction)

    def reasoning(self, seed: Seed, attack: str) -> str:
        """What the writer is asked in order to explain how a seed became an attack."""
        return _fill(self.writer_reasoning, seed=seed.text, attack=attack)


def load_prompts(folder: str | None = None) -> Prompts:
    """Read the prompts.

    Args:
        folder: None for the built-in ones, "brief" for shorter ones for small models, "paper" for those with the
            paper's words around an attack, or a folder whose `.txt` files replace the built-in ones of the same name.

    Returns:
        The prompts of both roles and of the writer.

    Raises:
        UserError: For a folder that does not exist, a file with an unknown name, a prompt without its placeholder or
            with an unknown one, or a list of refusals with an empty line.
    """
    names = [field.name for field in fields(Prompts)]
    texts = {name: _read(_HERE / f"{name}.txt") for name in names}
    if folder:
        own = _HERE / folder if folder in _BUILT_IN else Path(folder)
        if not own.is_dir():
            known = ", ".join(map(repr, _BUILT_IN))
            raise UserError(f"prompts {folder}: no such folder; give {known} or a folder of .txt files")
        for path in sorted(own.glob("*.txt")):
            if path.stem not in names:
                raise UserError(f"{path}: unknown prompt; known are {', '.join(names)}")
            texts[path.stem] = _read(path)
    return Prompts(**texts)


def _read(path: Path) -> str:
    text = re.sub(r"\r\n?", "\n", read_text(path)).rstrip("\n")
    wanted = _PLACEHOLDERS.get(path.stem, ())
    found = set(re.findall(r"\{(\w+)\}", text))
    for name in wanted:
        if name not in found:
            raise UserError(f"{path}: lacks its placeholder {{{name}}}; put it where the text belongs")
    if unknown := found.difference(wanted):
        known = "known here: " + " and ".join(f"{{{name}}}" for name in wanted) if wanted else "there are none here"
        raise UserError(f"{path}: unknown placeholder {{{min(unknown)}}}; {known}")
    if path.stem == "refusals" and not all(line.strip() for line in text.split("\n")):
        raise UserError(f"{path}: has an empty line; write one refusal per line")
    return text


def _fill(template: str, **values: str) -> str:
    """Fill placeholders in one pass, so that text in a value that looks like one is left alone."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)
