"""What a chat template is given here, written into the template itself, for those who use it elsewhere.

The renderer gives a template its variables and the run's date, and folds a system prompt that the template has no
role for into the first user message. `fitted` makes a template that does the same with no help from outside.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence

from magic_rl.types import Message

_CLOCK = "strftime_now"
_FORMAT = re.compile(_CLOCK + r"\(\s*(['\"])(.*?)\1")
_FOLD = (
    "{%- if messages and messages[0].role == 'system' -%}"
    "{%- if messages | length > 1 and messages[1].role == 'user' -%}"
    "{%- set messages = [{'role': 'user', 'content': messages[0].content + '\\n\\n' + messages[1].content}]"
    " + messages[2:] -%}"
    "{%- else -%}{%- set messages = [{'role': 'user', 'content': messages[0].content}] + messages[1:] -%}{%- endif -%}"
    "{%- endif -%}"
)


def folded(messages: Sequence[Message]) -> list[Message]:
    """A conversation whose system prompt stands at the beginning of the first user message, as in Gemma's template."""
    if not messages or messages[0].role != "system":
        return list(messages)
    system, *rest = messages
    if rest and rest[0].role == "user":
        return [Message("user", f"{system.content}\n\n{rest[0].content}"), *rest[1:]]
    return [Message("user", system.content), *rest]


def fitted(template: str, variables: Mapping[str, object], date: datetime.date, *, folds: bool) -> str:
    """A template that prints, given the messages alone, what `template` prints here.

    Args:
        variables: Defaults of the template's variables, JSON scalars.
        date: What it prints as today's.
        folds: Whether a system prompt is folded into the first user message.
    """
    parts = [
        f"{{%- if {name} is not defined -%}}{{%- set {name} = {json.dumps(value)} -%}}{{%- endif -%}}"
        for name, value in variables.items()
    ]
    if _CLOCK in template:
        days = {spelling: date.strftime(spelling) for _, spelling in _FORMAT.findall(template)}
        parts.append(f"{{%- macro {_CLOCK}(format) -%}}{{{{- {json.dumps(days)}[format] -}}}}{{%- endmacro -%}}")
    if folds:
        parts.append(_FOLD)
    # An expression last: behind a block, environments that trim would take the template's first line break.
    return "".join(parts) + "{{- '' }}" + template if parts else template
