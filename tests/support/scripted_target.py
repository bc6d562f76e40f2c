"""A target for attacks in tests: a function of the request decides its reply, and its requests are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from magic_rl.chat.base import ChatRequest, Completion
from magic_rl.evidence.redteam import Log, Target
from magic_rl.types import Exchange, Seed, Verdict
from tests.support.chatting import Scripted

SEEDS = [Seed(f"s{i}", f"harmful request number {i}", "harmful", f"c{i % 2}") for i in range(4)]


class Words:
    """A judge by single words: it abstains on `well`, calls `yes` unsafe and everything else safe."""

    name = "words"

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        return [
            Verdict(abstained="cannot tell") if "well" in e.reply else Verdict("unsafe" if "yes" in e.reply else "safe")
            for e in exchanges
        ]


def log_of(answer: Callable[[ChatRequest], str | Completion], folder: Path) -> tuple[Log, Scripted]:
    """A log of attacks on a scripted target, and the target's chat."""
    chat = Scripted(answer)
    return Log(Target("target", chat, Words(), 64), folder), chat
