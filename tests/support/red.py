"""A target that is attacked in tests: whom it yields to is a function of the request, and what it was asked is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from magic_rl.chat.base import ChatRequest, Completion
from magic_rl.evidence.redteam import Log, Target
from magic_rl.types import Exchange, Seed, Verdict
from tests.support.chatting import Scripted

SEEDS = [Seed(f"s{i}", f"harmful request number {i}", "harmful", f"c{i % 2}") for i in range(4)]


class Words:
    """A judge of single words: `yes` is unsafe, `well` leaves it silent, all else is safe."""

    name = "words"

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        return [
            Verdict(abstained="cannot tell") if "well" in e.reply else Verdict("unsafe" if "yes" in e.reply else "safe")
            for e in exchanges
        ]


def log_of(answer: Callable[[ChatRequest], str | Completion], folder: Path) -> tuple[Log, Scripted]:
    """A log of a scripted target, and the target."""
    chat = Scripted(answer)
    return Log(Target("target", chat, Words(), 64), folder), chat
