"""The attacks of kept items put to other models, and what each reply costs in tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from magic_rl.chat.base import Chat, ChatRequest, Completion
from magic_rl.chat.memory import Memory, ask
from magic_rl.evidence.items import Item, hash_of
from magic_rl.types import Message

_AT_ONCE = 64  # attacks between two times that replies are remembered


def attacks_of(items: Sequence[Item]) -> list[Item]:
    """Items that differ in their attack, as the first model met them: further models met the same."""
    first: dict[tuple[str, str, str], Item] = {}
    for item in items:
        first.setdefault((item.set, item.method, item.id), item)
    return list(first.values())


def put_to(
    chat: Chat, items: Sequence[Item], *, max_tokens: int, memory: Memory | None = None
) -> tuple[list[Item], float]:
    """Ask a model, or a defended one, all attacks at temperature 0.

    Args:
        items: With the attacks.
        max_tokens: Where replies are cut.
        memory: Where replies are remembered, so that an interrupted command goes on.

    Returns:
        The items with its replies and no verdicts; and tokens per attack that got a reply, its prompts and replies
        together, 0 if nobody counts them.
    """
    out: list[Item] = []
    spent: list[int] = []
    for start in range(0, len(items), _AT_ONCE):
        some = items[start : start + _AT_ONCE]
        requests = [ChatRequest((Message("user", item.attack),), max_tokens, beginning=True) for item in some]
        told: dict[int, Completion] = {}
        ask(chat, requests, lambda _, text: text, memory, told.__setitem__)
        for place, item in enumerate(some):
            said = told[place]
            sent = hash_of(json.dumps([item.attack]))
            new = replace(item, model=chat.name, request=sent, reply=said.text, failed=said.failed, verdicts=())
            out.append(replace(new, cut_off=said.cause == "cut_off"))
            spent += [said.tokens] if said.failed is None else []
    return out, fmean(spent) if spent else 0.0
