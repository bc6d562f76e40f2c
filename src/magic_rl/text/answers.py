"""Reading the JSON object that a model was asked for, as models write it: after a thought, in a code fence."""

from __future__ import annotations

import json
import re
from typing import Any

from magic_rl.text.think import without_thought

_FENCE = re.compile(r"(?P<fence>`{3,}|~{3,}) *\w*\s*(?P<inside>\{.*\})\s*(?P=fence)", re.DOTALL)  # json, JSON, json5


def json_answer(text: str) -> object:
    """What an answer says that is one JSON value, with nothing but a thought before and a fence around it.

    Raises:
        ValueError: If it is none, or an object has a field twice: it contradicts itself, or would if nobody looked.
    """
    answer = without_thought(text).strip()
    fenced = _FENCE.fullmatch(answer)
    try:
        return json.loads(fenced["inside"] if fenced else answer, object_pairs_hook=_once)
    except RecursionError as error:  # nesting beyond what is read
        raise ValueError("no JSON object") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field twice")
    return fields
