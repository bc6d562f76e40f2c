"""Reading `<think>…</think><answer>…</answer>` (METHOD §4, R_fmt), strictly for the reward and safely for the game.

Whatever the shape of an output, what is returned as its answer never contains what it thought.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TAG = re.compile(r"(</?(?:think|answer)>)", re.IGNORECASE)
_FORMAT = ["<think>", "</think>", "<answer>", "</answer>"]


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """An output taken apart.

    Attributes:
        thinking: The reasoning; "" if none was found.
        answer: What may be shown to the other player, tags removed.
        well_formed: Exactly one thinking block, then exactly one answer block, and nothing else.
    """

    thinking: str
    answer: str
    well_formed: bool


def parse_attack(text: str) -> ParsedOutput:
    """Take an output apart.

    A malformed one still yields an answer, so that the game can go on: the first answer block outside of any
    thinking, closed or not; else whatever is left once thinking and tags are removed; possibly "". A `</think>`
    that nothing opened makes everything before it thinking. Tags count in any case but are well-formed only in
    lower case.
    """
    pieces = _TAG.split(text)  # text, tag, text, tag, …, text
    texts, tags = pieces[::2], pieces[1::2]
    if tags == _FORMAT and not (texts[0] + texts[2] + texts[4]).strip():
        return ParsedOutput(texts[1].strip(), texts[3].strip(), well_formed=True)

    thinking: list[str] = []
    answer: list[str] = []
    spoken: list[str] = []
    thinks, answers, answered = False, False, False
    for tag, piece in zip(["", *map(str.lower, tags)], texts, strict=True):
        if tag == "<think>":
            thinks = True
        elif tag == "</think>":
            if not thinks:
                thinking += spoken
                spoken, answer, answers, answered = [], [], False, False
            thinks = False
        elif tag == "<answer>" and not thinks:
            answers, answered = answers or not answered, True
        elif tag == "</answer>" and not thinks:
            answers = False
        if thinks:
            thinking.append(piece)
            continue
        spoken.append(piece)
        if answers:
            answer.append(piece)
    return ParsedOutput(_join(thinking), _join(answer if answered else spoken), well_formed=False)


def _join(pieces: list[str]) -> str:
    """Pieces of text as one; the blank between them keeps halves of a tag from joining into one."""
    return " ".join(stripped for piece in pieces if (stripped := piece.strip()))


# As models write it that a server does not take apart, Seed-OSS and Magistral in marks of their own.
THOUGHT = re.compile(
    r"\s*(?:<(?:seed:)?think(?:ing)?>.*?</(?:seed:)?think(?:ing)?>|\[THINK\].*?\[/THINK\])\s*", re.DOTALL
)


def without_thought(text: str) -> str:
    """An answer without the thought that it begins with, if any; an empty one is a thought too.

    Only one whose opening mark is there: else what an answer repeats of a text could end a thought that never began.
    """
    return THOUGHT.sub("", text, count=1) if THOUGHT.match(text) else text
