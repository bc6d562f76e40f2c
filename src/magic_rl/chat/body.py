"""The body sent for a request, with the features that a server accepts, and what its answer says.

Servers and models differ: small servers do not enforce a schema, newer hosted models want `max_completion_tokens`
instead of `max_tokens` and accept no temperature, some templates have no system role. A feature that a server has
refused is left out, sent under its other name, or moved into the user message.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, Field

from magic_rl.chat.base import ChatRequest
from magic_rl.chat.harmless import harmless
from magic_rl.text.renderer import TextRenderer
from magic_rl.types import Message

# How servers name what they refuse.
_COMPLAINTS = {
    # Not complaints about the value: a server that ignored the other name would then have no limit.
    "max_tokens": re.compile(r"(?is)(?=.*\bmax_tokens\b)(?=.*(?:\bmax_completion_tokens\b|support))"),
    "temperature": re.compile(r"\btemperature\b"),
    "response_format": re.compile(r"response_format|json_schema"),
    "system": re.compile(
        r"(?i)\bsystem\W+(?:role|message|prompt|instruction)|developer instruction|roles must alternate"
    ),
}
_UNNAMED = ("response_format", "system")  # some servers refuse these without naming them; suspected until accepted once
_REFUSING = (400, 422, 500, 501)  # statuses that may refuse a feature, or just this request


def make_body(
    model: str, request: ChatRequest, renderer: TextRenderer | None, refused: Collection[str] = ()
) -> tuple[str, dict[str, Any]]:
    """Path and JSON of a request, without text that the server's tokenizer could take for control tokens.

    Args:
        model: The model's name on the server.
        renderer: Renders the conversation as plain text; without one the server renders it.
        refused: Features that the server does not accept.
    """
    body: dict[str, Any] = {"model": model}
    body["max_completion_tokens" if "max_tokens" in refused else "max_tokens"] = request.max_tokens
    if "temperature" not in refused:
        body["temperature"] = request.temperature
    if request.schema is not None and "response_format" not in refused:
        schema = {"name": "answer", "schema": dict(request.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    messages = [Message(m.role, harmless(m.content)) for m in request.messages]
    if "system" in refused and [m.role for m in messages[:2]] == ["system", "user"]:
        messages[:2] = [Message("user", f"{messages[0].content}\n\n{messages[1].content}")]
    if renderer is not None:
        prompt = renderer.given(request.template_kwargs).text(messages)
        return "/completions", {**body, "prompt": prompt + harmless(request.prefill)}
    rows = [{"role": m.role, "content": m.content} for m in messages]
    if request.template is not None:
        return "/completions", {**body, "prompt": _template(request.template).render(messages=rows)}
    if request.template_kwargs:
        body["chat_template_kwargs"] = dict(request.template_kwargs)
    if request.prefill:  # vLLM's and SGLang's names; others refuse it, or their answer shows it
        rows.append({"role": "assistant", "content": harmless(request.prefill)})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return "/chat/completions", {**body, "messages": rows}


@functools.lru_cache(maxsize=8)
def _template(source: str) -> Template:
    """A chat template, with the white space rules of transformers."""
    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(source)


def features(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The features of a body that some servers do not accept."""
    with_system = any(message["role"] == "system" for message in body.get("messages", ()))
    return tuple(name for name in _COMPLAINTS if name in body or (name == "system" and with_system))


def refused_feature(
    status: int, complaint: str, body: Mapping[str, Any], taken: Collection[str]
) -> tuple[str, bool] | None:
    """The feature for which a server may have refused a body: one that it names, else one never accepted so far.

    Returns:
        The feature, and whether the server names it; None if the refusal is about something else.
    """
    has = features(body) if status in _REFUSING else ()
    named = [name for name in has if _COMPLAINTS[name].search(complaint)]
    doubted = [name for name in _UNNAMED if name in has and name not in taken]
    return next(((name, name in named) for name in named + doubted), None)


class _Message(BaseModel):
    content: str | None = None


class _Usage(BaseModel):
    total_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Choice(BaseModel):
    """One answer of a completion, in either of its forms: a message or plain text."""

    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    error: dict[str, Any] | str = ""

    @property
    def said(self) -> str | None:
        """Text of the answer."""
        return self.message.content if self.message else self.text


class Answer(BaseModel):
    """The fields of a completion's body that are read."""

    choices: list[Choice] = Field(min_length=1)
    usage: _Usage = _Usage()

    @property
    def tokens(self) -> int:
        """Tokens of prompt and answer; 0 if the server does not count them."""
        usage = self.usage
        return max(0, usage.total_tokens or (usage.prompt_tokens or 0) + (usage.completion_tokens or 0))


def error_of(status: int, content: bytes) -> tuple[int, str]:
    """The status that a response should have had, and its error message; "" if there is none.

    Some servers answer 200 with an error instead of choices.
    """
    text = content.decode(errors="replace")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return status, text
    error = body.get("error") or (body if body.get("object") == "error" else None)
    if status == 200 and error and not body.get("choices"):
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return status, message_of(error or body)


def message_of(error: object) -> str:
    """The message of an error, from any of the fields that servers use for it."""
    if isinstance(error, dict):
        error = next((error[key] for key in ("message", "detail", "error") if error.get(key)), "")
    return error if isinstance(error, str) else json.dumps(error)
