"""Writes what the renderer does into the chat template itself, for use of the model elsewhere.

The renderer gives a template its variables and the run's date, and folds a system prompt into the first user message if
the template has no role for it. `fitted` makes a template that does all this by itself.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence

from magic_rl.types import Message

DAY = datetime.date(2026, 1, 1)  # any day works, as long as it is the same in all runs
_CLOCK = "strftime_now"
_FOLD = (
    "{%- if messages and messages[0].role == 'system' -%}"
    "{%- if messages | length > 1 and messages[1].role == 'user' -%}"
    "{%- set messages = [{'role': 'user', 'content': messages[0].content + '\\n\\n' + messages[1].content}]"
    " + messages[2:] -%}"
    "{%- else -%}{%- set messages = [{'role': 'user', 'content': messages[0].content}] + messages[1:] -%}{%- endif -%}"
    "{%- endif -%}"
)

_SYSTEM = (
    "{{%- if messages and messages[0].role != 'system' -%}}"
    "{{%- set parts = [{{'type': 'text', 'text': {system}}}] -%}}"
    "{{%- set said = {system} if messages[0].content is string else parts -%}}"
    "{{%- set messages = [{{'role': 'system', 'content': said}}] + messages -%}}"
    "{{%- endif -%}}"
)
_AROUND = (
    "{{%- set told = namespace(messages=[]) -%}}"
    "{{%- for message in messages -%}}"
    "{{%- set said = message.content -%}}"
    "{{%- if message.role == 'user' and said is string -%}}"
    "{{%- set message = {{'role': 'user', 'content': {around} | join(said)}} -%}}"
    "{{%- elif message.role == 'user' and said and said[0].type == 'text' -%}}"
    "{{%- set parts = [{{'type': 'text', 'text': {around} | join(said[0].text)}}] + said[1:] -%}}"
    "{{%- set message = {{'role': 'user', 'content': parts}} -%}}"
    "{{%- endif -%}}"
    "{{%- set told.messages = told.messages + [message] -%}}"
    "{{%- endfor -%}}"
    "{{%- set messages = told.messages -%}}"
)


def folded(messages: Sequence[Message]) -> list[Message]:
    """A conversation whose system prompt begins the first user message, as in Gemma's template."""
    if not messages or messages[0].role != "system":
        return list(messages)
    system, *rest = messages
    if rest and rest[0].role == "user":
        return [Message("user", f"{system.content}\n\n{rest[0].content}"), *rest[1:]]
    return [Message("user", system.content), *rest]


def fitted(template: str, variables: Mapping[str, object], date: datetime.date, *, folds: bool) -> str:
    """A template that prints, from the messages alone, what `template` prints here.

    Args:
        variables: Defaults for the template's variables; JSON scalars.
        date: What it prints as today's date.
        folds: Whether a system prompt is folded into the first user message.
    """
    parts = [
        f"{{%- if {name} is not defined -%}}{{%- set {name} = {_literal(value)} -%}}{{%- endif -%}}"
        for name, value in variables.items()
    ]
    if _CLOCK in template:
        # Formats may come from a variable, so each directive that occurs anywhere is replaced.
        found = sorted(set(re.findall("%-?[A-Za-z]", f"{template} {list(variables.values())}")))
        swaps = "".join(f".replace({_literal(each)}, {_literal(date.strftime(each))})" for each in found)
        parts.append(f"{{%- macro {_CLOCK}(format) -%}}{{{{- format{swaps} -}}}}{{%- endmacro -%}}")
    if folds:
        parts.append(_FOLD)
    # An expression comes last: after a block, environments with `trim_blocks` drop the template's first line break.
    return "".join(parts) + "{{- '' }}" + template if parts else template


def introduced(template: str, system: str, around: Sequence[str]) -> str:
    """A template that adds to a conversation what the model always saw in training.

    Args:
        system: System prompt for conversations without one; "" leaves that to the template.
        around: The words before and after the text of each user message.
    """
    parts = [_SYSTEM.format(system=_literal(system))] if system else []
    if any(around):
        parts.append(_AROUND.format(around=_literal(list(around))))
    return "".join(parts) + "{{- '' }}" + template if parts else template


def _literal(value: object) -> str:
    # Not in ASCII: Jinja would read the escape of a character beyond the first plane as two characters.
    return json.dumps(value, ensure_ascii=False)
