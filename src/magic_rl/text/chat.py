"""Token-safe chat rendering: what a message says is data and can never become control.

A chat template mixes control tokens with the players' words, and a tokenizer turns the text of a control token into its
id wherever it occurs. Here the template's own text is distinguished from the contents of messages, and the ids of the
whole are kept only if the control ids are exactly where the template puts them. If a content forges, moves or hides a
control token, template and contents are encoded separately, and the contents as ordinary text. On ordinary text the ids
are those of `apply_chat_template`.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
import hashlib
import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Self

from jinja2 import TemplateError
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from magic_rl.errors import UserError
from magic_rl.text.template import DAY, fitted, folded
from magic_rl.text.think import END, THINK, Spoken, marks_of, split_thoughts
from magic_rl.types import Message, Speaker, Tokens

_log = logging.getLogger(__name__)

# Markers are framed by private-use characters, so that no template trims, splits or rewrites them.
_MARKER = "\ue000{}\ue001"
_FIND_MARKER = re.compile("\ue000([0-9]+)\ue001")
_FORMAT_TAG = re.compile("(</?(?:think|answer)>)")
_OURS = ("messages", "add_generation_prompt", "strftime_now")
_SPEAKERS: tuple[Speaker, ...] = ("user", "assistant", "user")
_FORMATS = ([THINK, END], [THINK, END, "<answer>", "</answer>"])


class _Piece(NamedTuple):
    """A part of rendered text: a message's content, or the template's own words."""

    text: str
    is_content: bool


class _Turn(NamedTuple):
    """What a template prints around an assistant's words."""

    thinks: bool  # whether the generation prompt opens a thought
    lead: str  # text between the generation prompt and the words, such as an empty thought


class ChatRenderer:
    """Renders conversations for one tokenizer with a chat template.

    Implements `text.renderer.Renderer` and `text.renderer.TextRenderer`.

    Control ids are those of all added tokens, flagged special or not, except tokens of white space alone, which some
    tokenizers add for indentation.

    Attributes:
        control_ids: Ids of control tokens.
        stop_ids: The tokenizer's end-of-text id, the template's end-of-turn id, and those that the model's files name.
        folds_system: Whether the template has no role for a system prompt, which then begins the first user message.
        own_template: The tokenizer's own template.
        marks: How the model marks its thoughts, by its template or its added tokens; None if they have no marks.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        default_system: str = "",
        *,
        template_kwargs: Mapping[str, object] | None = None,
        stop_ids: Collection[int] = (),
        date: datetime.date = DAY,
    ) -> None:
        """Examine the tokenizer and its template.

        Args:
            tokenizer: A tokenizer of transformers, backed by `tokenizers`, with a chat template.
            default_system: System prompt of conversations without one; "" leaves that to the template.
            template_kwargs: Extra variables of the template, such as `enable_thinking`.
            stop_ids: Ids that end a reply according to the model's files.
            date: What a template prints as today's date.

        Raises:
            UserError: If the tokenizer has no chat template, no `tokenizers` backend, or no end of turn.
        """
        self._name = tokenizer.name_or_path or "the model"
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(f"{self._name}: the tokenizer has no chat template; use an instruction-tuned model")
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise UserError(f"{self._name}: the tokenizer has no fast backend; use a model with a tokenizer.json")
        self._tokenizer = tokenizer
        self._default_system = default_system
        self._kwargs = dict(template_kwargs or {})
        try:
            self.own_template = str(tokenizer.get_chat_template())
        except ValueError as error:
            raise UserError(f"{self._name}: has several chat templates and none is called 'default'") from error
        self._date = date
        self._live, self._plain, self.control_ids = _backends(backend)
        added = backend.get_added_tokens_decoder()
        self.marks = marks_of(self.own_template, {token.content for token in added.values()})
        # Marks of thoughts may be flagged special, but must stay in decoded text to be found there.
        self._unsaid = {
            i for i, token in added.items() if token.special and not (self.marks and self.marks.holds(token.content))
        }
        first = self._live.encode("").tokens[:1]
        self._beginning = str(tokenizer.bos_token) if first == [tokenizer.bos_token] else ""
        self._in_parts = False
        self._in_parts = self._wants_parts()
        self.folds_system = not self._prints_system()
        eos = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
        self._before_end, self._end_of_turn = self._find_end_of_turn(stop_ids)
        self.stop_ids: frozenset[int] = frozenset({self._end_of_turn, *eos, *stop_ids})

    def prompt(self, messages: Sequence[Message]) -> Tokens:
        """Ids of the conversation, ending where the assistant speaks.

        Raises:
            UserError: If the template refuses the conversation, for example its system message.
        """
        return self._encode(self._layout(messages))

    def text(self, messages: Sequence[Message]) -> str:
        """The conversation as text, for a server with the same tokenizer, which encodes it again.

        Text of a content that would become a control token gets a space after its first character. The
        beginning-of-text token is left out if the tokenizer adds it to any text; the server would add it again.

        Raises:
            UserError: If the template refuses the conversation, for example its system message, or the tokenizer
                cannot spell a content without control tokens.
        """
        apart = [Message(message.role, self._take_apart(message.content)) for message in messages]
        text = "".join(piece.text for piece in self._layout(apart))
        return text.removeprefix(self._beginning)

    def given(self, variables: Mapping[str, object]) -> Self:
        """This renderer with other template variables; everything else is shared."""
        other = copy.copy(self)
        other._kwargs = dict(variables)
        other.__dict__.pop("_turn", None)
        return other

    def require(self, variables: Collection[str], where: str) -> None:
        """Raise UserError, naming the setting, for a variable that the template never reads."""
        for name in variables:
            if name in _OURS or not re.search(rf"\b{re.escape(name)}\b", self.own_template):
                raise UserError(f"{where}.{name}: the chat template of {self._name} has no such variable; leave it out")

    @property
    def chat_template(self) -> str:
        """A template that prints the same by itself: date, variables and system prompts are written into it."""
        return fitted(self.own_template, self._kwargs, self._date, folds=self.folds_system)

    @property
    def opening(self) -> str:
        """What the prompt opens and the reply must close: `<think>` or nothing."""
        return THINK if self._turn.thinks else ""

    @property
    def identity(self) -> str:
        """A hash of the template and of the tokens that it may print."""
        words = (self.chat_template, self._tokenizer.special_tokens_map, self._beginning)
        return hashlib.sha256(repr(words).encode()).hexdigest()[:16]

    def completion(self, text: str, *, tagged: bool = False) -> Tokens:
        """Ids that follow the prompt: an assistant message as the template prints it, up to its end-of-turn id.

        A thought that the prompt has opened is not opened again; text without a thought follows an empty one if the
        template prints that.

        Args:
            tagged: See `Renderer.completion`; text that is not in the format is plain throughout.
        """
        parts = _FORMAT_TAG.split(text)
        pieces = [_Piece(text, is_content=True)]
        lead = self._turn.lead
        if tagged and parts[1::2] in _FORMATS and not parts[0]:
            pieces = [_Piece(part, is_content=i % 2 == 0) for i, part in enumerate(parts)]
            if self._turn.thinks:
                pieces = pieces[2:]
            if self._turn.thinks or THINK in lead:
                lead = ""
        framed = [_Piece(lead, is_content=False), *pieces, _Piece(self._before_end, is_content=False)]
        return (*self._encode(framed), self._end_of_turn)

    def prefill(self, text: str) -> Tokens:
        """Ids that an assistant message begins with; see `Renderer`. A thought that the prompt opens is empty."""
        return self._encode([_Piece(self._turn.lead, is_content=False), _Piece(text, is_content=True)])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of sampled ids up to the first stop id, without special tokens; see `PromptRenderer.decode`."""
        end = next((i for i, token in enumerate(tokens) if token in self.stop_ids), len(tokens))
        text = str(self._tokenizer.decode([token for token in tokens[:end] if token not in self._unsaid]))
        text = self.marks.spelled(text) if self.marks else text
        return self.opening + text

    def spelled(self, tokens: Sequence[int]) -> str:
        """The text of ids, control tokens included."""
        return str(self._tokenizer.decode(list(tokens)))

    def spoken(self, tokens: Sequence[int]) -> Spoken:
        """The text of sampled ids, split into thoughts and reply by this model's marks, if it has any."""
        text = self.decode(tokens)
        return split_thoughts(text) if self.marks else Spoken("", text, ended=True)

    def _render(self, messages: Sequence[Message], *, generate: bool = True) -> str:
        rows = [
            {"role": m.role, "content": [{"type": "text", "text": m.content}] if self._in_parts else m.content}
            for m in messages
        ]
        try:
            rendered = self._tokenizer.apply_chat_template(
                rows,
                tokenize=False,
                add_generation_prompt=generate,
                **{"strftime_now": self._date.strftime, **self._kwargs},
            )
        except TemplateError as error:
            raise UserError(f"{self._name}: the chat template refuses the conversation: {error}") from error
        return str(rendered)

    def _wants_parts(self) -> bool:
        """Whether the template prints contents only if they are lists of typed parts, as in some multimodal models."""
        marker = _MARKER.format(0)
        try:
            return marker not in self._render([Message("user", marker)])
        except UserError:  # it wants more than one message
            return False

    def _prints_system(self) -> bool:
        """Whether the template has a role for a system prompt; some drop such a message, others refuse it."""
        try:
            return _MARKER.format(0) in self._render([Message("system", _MARKER.format(0)), Message("user", "?")])
        except UserError:
            return False

    @functools.cached_property
    def _turn(self) -> _Turn:
        user, said = Message("user", _MARKER.format(0)), Message("assistant", _MARKER.format(1))
        try:
            prompt = self._render([user])
            whole = self._render([user, said], generate=False).partition(said.content)[0]
        except UserError:  # such as a guard's, which wants more than one message
            return _Turn(thinks=False, lead="")
        after = prompt.rpartition(user.content)[2]
        after = self.marks.spelled(after) if self.marks else after
        thinks = after.rfind(THINK) > after.rfind(END)
        if whole.startswith(prompt):
            return _Turn(thinks, whole.removeprefix(prompt))
        return _Turn(thinks, lead=f"\n{END}\n\n" if thinks else "")

    def _layout(self, messages: Sequence[Message]) -> list[_Piece]:
        """The rendered conversation in pieces, found by rendering it with markers instead of the contents.

        A template may trim contents; then the pieces hold the trimmed ones. A template may also react to what a content
        says (Qwen3 looks for `</think>`); then the contents simply replace the markers.
        """
        if self._default_system and not any(message.role == "system" for message in messages):
            messages = [Message("system", self._default_system), *messages]
        if self.folds_system and messages and messages[0].role == "system":
            _say_folded(self._name)
            messages = folded(messages)
        marked = self._render([Message(m.role, _MARKER.format(i)) for i, m in enumerate(messages)])
        template = _FIND_MARKER.split(marked)  # text, message number, text, message number, …, text
        silent = set(range(len(messages))) - {int(number) for number in template[1::2]}
        if silent:
            raise UserError(f"{self._name}: the chat template leaves out what the {messages[min(silent)].role} says")
        texts, contents = template[::2], [messages[int(number)].content for number in template[1::2]]
        printed = _printed(self._render(messages), texts, contents) or contents
        pieces = [_Piece(texts[0], is_content=False)]
        for content, text in zip(printed, texts[1:], strict=True):
            pieces += [_Piece(content, is_content=True), _Piece(text, is_content=False)]
        return pieces

    def _encode(self, pieces: Sequence[_Piece]) -> Tokens:
        text = "".join(piece.text for piece in pieces)
        whole = self._live.encode(text, add_special_tokens=False)
        wanted: list[tuple[int, int]] = []
        apart: list[Encoding | str] = []
        start = 0
        for piece in pieces:
            if piece.is_content:
                apart.append(piece.text)
            else:
                encoding = self._live.encode(piece.text, add_special_tokens=False)
                wanted += self._controls(piece.text, encoding, start)
                apart.append(encoding)
            start += len(piece.text)
        if self._controls(text, whole) == wanted:
            return tuple(whole.ids)
        return tuple(i for part in apart for i in (self._spell(part) if isinstance(part, str) else part.ids))

    def _controls(self, text: str, encoding: Encoding, offset: int = 0) -> list[tuple[int, int]]:
        """Each control id and where its text begins, after any white space that the token swallowed (`lstrip`)."""
        found = []
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self.control_ids:
                swallowed = end - start - len(text[start:end].lstrip())
                found.append((token, offset + start + swallowed))
        return found

    def _take_apart(self, text: str) -> str:
        """The text with a space in each part that would be encoded as a control token."""
        for _ in range(8):  # splitting one may leave another that overlapped it
            starts = {start for _, start in self._controls(text, self._live.encode(text, add_special_tokens=False))}
            if not starts:
                return text
            text = "".join(f"{letter} " if i in starts else letter for i, letter in enumerate(text))
        raise UserError(f"{self._name}: the tokenizer cannot spell {text[:40]!r} without a control token")

    def _spell(self, text: str) -> list[int]:
        """Ids of a text as ordinary text, even if it looks like a control token."""
        for parts in ([text], text):
            ids = [i for part in parts for i in self._plain.encode(part, add_special_tokens=False).ids]
            if self.control_ids.isdisjoint(ids):
                return ids
        raise UserError(f"{self._name}: the tokenizer cannot spell {text[:40]!r} without a control token")

    def _find_end_of_turn(self, listed: Collection[int]) -> tuple[str, int]:
        """Text between an assistant's words and the control token that ends its turn, and that token's id.

        The mark of the next turn may end one (GLM-4), but only if the model's files list it as an end.
        """
        user, said, then = (Message(r, _MARKER.format(i)) for i, r in enumerate(_SPEAKERS))
        after = self._render([user, said], generate=False).partition(said.content)[2]
        for token, start in self._controls(after, self._live.encode(after, add_special_tokens=False)):
            return after[:start], token
        with contextlib.suppress(UserError):
            after = self._render([user, said, then], generate=False).partition(said.content)[2]
            for token, start in self._controls(after, self._live.encode(after, add_special_tokens=False)):
                if token in {*listed, self._tokenizer.eos_token_id}:
                    return after[:start], token
        if self._tokenizer.eos_token_id is None:
            raise UserError(f"{self._name}: the chat template ends an assistant message with no control token")
        return "", int(self._tokenizer.eos_token_id)


@functools.cache
def _say_folded(name: str) -> None:
    _log.info("%s: its chat template has no system role; a system prompt begins the first user message", name)


def _printed(rendered: str, texts: Sequence[str], contents: Sequence[str]) -> list[str] | None:
    """Contents as the template printed them, trimmed or not; None if it changed them in another way."""
    found = []
    rest = rendered.removeprefix(texts[0])
    for content, text in zip(contents, texts[1:], strict=True):
        trimmed = (content.strip(), content.lstrip(), content.rstrip(), content.strip("\n"), content.lstrip("\n"))
        variant = next((v for v in (content, *trimmed) if rest.startswith(v + text)), None)
        if variant is None:
            return None
        found.append(variant)
        rest = rest[len(variant) + len(text) :]
    return found if not rest and rendered.startswith(texts[0]) else None


def _backends(backend: Tokenizer) -> tuple[Tokenizer, Tokenizer, frozenset[int]]:
    """Private copies of a tokenizer, one with live control tokens and one for which they are plain text; control ids.

    In transformers, `split_special_tokens` leaves added tokens live if they are not flagged special, so here they all
    are.
    """
    spec = json.loads(backend.to_str())
    spec["truncation"] = spec["padding"] = None
    live = Tokenizer.from_str(json.dumps(spec))
    control = [token for token in spec["added_tokens"] if not token["content"].isspace()]
    for token in spec["added_tokens"]:
        token["special"] = token in control
    plain = Tokenizer.from_str(json.dumps(spec))
    plain.encode_special_tokens = True
    return live, plain, frozenset(token["id"] for token in control)
