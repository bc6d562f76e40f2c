"""Token-safe chat rendering: what a message says is data and can never become control.

A chat template mixes control tokens with the players' words, and a tokenizer turns the text of a control token
into its id wherever it stands. Here the template's own text is told apart from the contents, and the ids of the
whole are kept only if every control id stands exactly where the template alone puts one. If a content forges,
moves or hides a control token, template and contents are encoded apart and the contents as ordinary text only.
On ordinary text the ids are those of `apply_chat_template`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from jinja2 import TemplateError
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from magic_rl.errors import UserError
from magic_rl.types import Message, Tokens

# Private-use characters frame a marker that no template trims, splits or rewrites.
_MARKER = "\ue000{}\ue001"
_FIND_MARKER = re.compile("\ue000([0-9]+)\ue001")


class _Piece(NamedTuple):
    """A run of rendered text: a message's content, or the template's own words."""

    text: str
    is_content: bool


class ChatRenderer:
    """Renders conversations for one tokenizer with a chat template.

    Implements `text.renderer.Renderer` and `text.renderer.TextRenderer`.

    Control ids are all added tokens, flagged special or not, but those of mere white space, which some
    tokenizers add for indentation.

    Attributes:
        stop_ids: The tokenizer's end-of-text id and the template's end-of-turn id.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        default_system: str = "",
        *,
        template_kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Look at the tokenizer's template.

        Args:
            tokenizer: A tokenizer of transformers, backed by `tokenizers`, with a chat template.
            default_system: System prompt of conversations without one; "" leaves that to the template.
            template_kwargs: Extra variables of the template, such as `enable_thinking`. A template that prints
                today's date is only reproducible with its `date_string` given here.

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
        self._live, self._plain, self._control = _backends(backend)
        first = self._live.encode("").tokens[:1]
        self._beginning = str(tokenizer.bos_token) if first == [tokenizer.bos_token] else ""
        self._in_parts = False
        self._in_parts = self._wants_parts()
        self._end_of_turn = self._find_end_of_turn()
        eos = tokenizer.eos_token_id
        self.stop_ids: frozenset[int] = frozenset({self._end_of_turn} if eos is None else {self._end_of_turn, int(eos)})

    def prompt(self, messages: Sequence[Message]) -> Tokens:
        """Ids of the conversation, ending where the assistant is to speak.

        Raises:
            UserError: If the template refuses the conversation, for example its system message.
        """
        return self._encode(self._layout(messages))

    def text(self, messages: Sequence[Message]) -> str:
        """The conversation as text, for a server with the same tokenizer, which encodes it anew.

        What would become a control token of a content gets a space behind its first character. The beginning of the
        text is left to the server if the tokenizer puts it before any text: it would be there twice.

        Raises:
            UserError: If the template refuses the conversation, for example its system message, or the tokenizer has
                no other spelling for what a content says.
        """
        apart = [Message(message.role, self._take_apart(message.content)) for message in messages]
        text = "".join(piece.text for piece in self._layout(apart))
        return text.removeprefix(self._beginning)

    def given(self, variables: Mapping[str, object]) -> Self:
        """This renderer with other variables of the template; all else is shared."""
        other = copy.copy(self)
        other._kwargs = dict(variables)
        return other

    @property
    def identity(self) -> str:
        """A digest of the template and of the tokens that it may print."""
        words = (self._tokenizer.chat_template, self._tokenizer.special_tokens_map, self._beginning)
        return hashlib.sha256(repr(words).encode()).hexdigest()[:16]

    def completion(self, text: str) -> Tokens:
        """Ids of an assistant message and its end-of-turn id."""
        return (*self._encode([_Piece(text, is_content=True)]), self._end_of_turn)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of sampled ids up to the first stop id, without special tokens."""
        end = next((i for i, token in enumerate(tokens) if token in self.stop_ids), len(tokens))
        return str(self._tokenizer.decode(list(tokens[:end]), skip_special_tokens=True))

    def _render(self, messages: Sequence[Message], *, generate: bool = True) -> str:
        rows = [
            {"role": m.role, "content": [{"type": "text", "text": m.content}] if self._in_parts else m.content}
            for m in messages
        ]
        try:
            rendered = self._tokenizer.apply_chat_template(
                rows, tokenize=False, add_generation_prompt=generate, **self._kwargs
            )
        except TemplateError as error:
            raise UserError(f"{self._name}: the chat template refuses the conversation: {error}") from error
        return str(rendered)

    def _wants_parts(self) -> bool:
        """Whether the template prints contents only as lists of typed parts, as those of multimodal models may."""
        marker = _MARKER.format(0)
        try:
            return marker not in self._render([Message("user", marker)])
        except UserError:  # it wants more than one message
            return False

    def _layout(self, messages: Sequence[Message]) -> list[_Piece]:
        """The rendered conversation, template and contents told apart by rendering markers in the contents' place.

        A template may trim contents; then the trimmed ones are laid out. A template may also be steered by what a
        content says (Qwen3 looks for `</think>`); then it is not asked, and the contents stand where the markers did.
        """
        if self._default_system and not any(message.role == "system" for message in messages):
            messages = [Message("system", self._default_system), *messages]
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
        """Each control id and where its text begins, white space aside that the token swallowed (`lstrip`)."""
        found = []
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self._control:
                swallowed = end - start - len(text[start:end].lstrip())
                found.append((token, offset + start + swallowed))
        return found

    def _take_apart(self, text: str) -> str:
        """The text with a space in every control token that it would be encoded to."""
        for _ in range(8):  # parting one may leave another that it overlapped
            starts = {start for _, start in self._controls(text, self._live.encode(text, add_special_tokens=False))}
            if not starts:
                return text
            text = "".join(f"{letter} " if i in starts else letter for i, letter in enumerate(text))
        raise UserError(f"{self._name}: the tokenizer cannot spell {text[:40]!r} without a control token")

    def _spell(self, text: str) -> list[int]:
        """Ids of a text as ordinary text, whatever it says."""
        for parts in ([text], text):
            ids = [i for part in parts for i in self._plain.encode(part, add_special_tokens=False).ids]
            if self._control.isdisjoint(ids):
                return ids
        raise UserError(f"{self._name}: the tokenizer cannot spell {text[:40]!r} without a control token")

    def _find_end_of_turn(self) -> int:
        marker = _MARKER.format(0)
        rendered = self._render([Message("user", "?"), Message("assistant", marker)], generate=False)
        after = rendered.partition(marker)[2]
        ids = self._live.encode(after, add_special_tokens=False).ids
        end = next((i for i in ids if i in self._control), self._tokenizer.eos_token_id)
        if end is None:
            raise UserError(f"{self._name}: the chat template ends an assistant message with no control token")
        return int(end)


def _printed(rendered: str, texts: Sequence[str], contents: Sequence[str]) -> list[str] | None:
    """Contents as the template printed them, trimmed or not; None if it did anything else to them."""
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
    """Private copies of a tokenizer, with control tokens live and with all of them plain text, and the control ids.

    `split_special_tokens` of transformers leaves added tokens live that are not flagged special, so the plain copy
    flags them all.
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
