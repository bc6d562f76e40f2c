"""Reading `<think>…</think><answer>…</answer>` (METHOD §4, R_fmt), strictly for the reward and safely for the game.

For an output of any shape, the answer taken from it never contains its thoughts. Models that reason without being asked
mark their thoughts in their own ways; these marks are found by the model's template or tokenizer and replaced by
`<think>…</think>`. Answers in JSON are read here as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from magic_rl.files import without_doubles

# A fence may be named json, JSON, json5.
_FENCE = re.compile(r"(?P<fence>`{3,}|~{3,}) *\w*\s*(?P<inside>\{.*\})\s*(?P=fence)", re.DOTALL)
THINK, END = "<think>", "</think>"
_TAG = re.compile(r"(</?(?:think|answer)>)", re.IGNORECASE)
_FORMAT = [THINK, END, "<answer>", "</answer>"]


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """An output taken apart."""

    thinking: str  # the reasoning; "" if none was found
    answer: str  # what may be shown to the other player, tags removed
    well_formed: bool  # exactly one thinking block, then exactly one answer block, and nothing else


def parse_attack(text: str) -> ParsedOutput:
    """Take an output apart.

    A malformed output still has an answer, so that the game can continue: the first answer block outside of any
    thinking, closed or not; else what is left once thinking and tags are removed; possibly "". A `</think>` that
    nothing opened makes everything before it thinking. Tags count in upper and lower case, but are well-formed only
    in lower case.
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


class Spoken(NamedTuple):
    """What a model said, with its reasoning separated."""

    thinking: str  # its reasoning; "" if there was none
    reply: str  # what a user would see
    ended: bool  # whether the reasoning ended; if not, there is no reply


class Marks(NamedTuple):
    """How a model marks its thoughts."""

    name: str  # text that begins a thought, by which models that use these marks are recognised
    opens: str  # pattern of the mark that opens a thought
    ends: str  # pattern of the mark before the reply

    def holds(self, token: str) -> bool:
        """Whether a token is part of a mark."""
        return token in f"{self.opens} {self.ends}".replace("\\", "")

    def spelled(self, text: str) -> str:
        """The text with `<think>` and `</think>` instead of the model's own marks."""
        text = re.sub(self.opens, THINK, text)
        # A reply without a thought may begin with the mark of replies, which then ends nothing.
        return text if self.name == THINK else re.sub(self.ends, END, text).removeprefix(END)


_MARKS = (
    Marks(THINK, "<think>", "</think>"),  # DeepSeek, Qwen, SmolLM, OLMo, Granite 3.3, Phi-4, GLM
    Marks("[THINK]", r"\[THINK\]", r"\[/THINK\]"),  # Mistral
    Marks(
        "<|channel|>analysis",  # gpt-oss
        r"<\|channel\|>(?:analysis|commentary)<\|message\|>",
        r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>|<\|end\|>(?:<\|start\|>assistant)?",
    ),
    Marks("<|channel>", r"<\|channel>thought\n?", r"<channel\|>"),  # Gemma 4
    Marks("<|START_THINKING|>", r"<\|START_THINKING\|>", r"<\|END_THINKING\|>(?:<\|START_RESPONSE\|>)?"),  # Cohere
    Marks("<seed:think>", "<seed:think>", "</seed:think>"),  # Seed-OSS
    Marks("<thinking>", "<thinking>", "</thinking>"),  # Reflection
    Marks(
        "Here is my thought process:", "Here(?: is|'s) my thought process:", "Here(?: is|'s) my response:"
    ),  # Granite 3.2
)


def marks_of(template: str, tokens: Collection[str]) -> Marks | None:
    """The marks that occur in a chat template or among the tokens added to a vocabulary; None if there are none."""
    return next((marks for marks in _MARKS if marks.name in template or marks.name in tokens), None)


def split_thoughts(text: str) -> Spoken:
    """Separate a reasoning model's thoughts, which come first, from its reply.

    A later block is part of the reply, as a user would see it. Only `<think>` begins a thought, so that nobody can talk
    a model into hiding what it has said by adding a `</think>`.
    """
    thoughts: list[str] = []
    rest = text
    while rest.lstrip().startswith(THINK):
        thought, end, rest = rest.partition(END)
        thoughts.append(thought.lstrip().removeprefix(THINK))
        if not end:
            return Spoken(_join(thoughts), "", ended=False)
    return Spoken(_join(thoughts), rest.strip() if thoughts else rest, ended=True)


def _join(pieces: list[str]) -> str:
    """Join pieces of text, with a space between them so that halves of a tag do not become one."""
    return " ".join(stripped for piece in pieces if (stripped := piece.strip()))


def without_thought(text: str) -> str:
    """An answer without the thought, possibly empty, that it begins with, in the marks of any model.

    The opening mark is required: otherwise text that an answer quotes could end a thought that never began.
    """
    marks = next((marks for marks in _MARKS if re.match(rf"\s*(?:{marks.opens})", text)), None)
    spoken = split_thoughts(marks.spelled(text)) if marks else None
    return spoken.reply if spoken and spoken.ended else text


def with_opening(text: str) -> str:
    """What a server's model said, with the `<think>` that its chat template opened and the server left out.

    Not for texts that may quote others: a first `</think>` that nothing opened is taken for the model's own.
    """
    before, end, _ = text.partition(END)
    return f"{THINK}{text}" if end and THINK not in before else text


def json_answer(text: str) -> object:
    """The value of an answer that is one JSON value; a thought before it and a fence around it are allowed.

    Raises:
        ValueError: If it is not, or if an object has a field twice, which may contradict each other.
    """
    answer = without_thought(text).strip()
    fenced = _FENCE.fullmatch(answer)
    try:
        return json.loads(fenced["inside"] if fenced else answer, object_pairs_hook=without_doubles)
    except RecursionError as error:  # nested too deeply to read
        raise ValueError("no JSON object") from error
