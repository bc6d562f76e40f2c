"""Which path a model takes, with shared prompts or without: decided by trying both on chat text.

A chat exchange and the model's own greedy reply are scored and decoded with our attention and with the model's own, and
both are compared with its eager attention in a wider precision. The distance of ours may be at most a certain multiple
of the best of the model's own. A constant limit would reject right paths and accept wrong ones, as the effect of
rounding depends on the model and the text, and is whole nats if the text is noise. The wider pass widens one module at
a time, so that a model which just fits into memory still does.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from magic_rl.engines.base import ComputePath
from magic_rl.engines.local.attention import SHARED_PREFIX, CannotShareError
from magic_rl.engines.local.decoding import Decoder, PlainDecoder, SharedDecoder
from magic_rl.engines.local.packing import Batch, Pack, pack, padded
from magic_rl.engines.local.sampling import common_prefix
from magic_rl.engines.local.scoring import packed_logprobs, plain_logprobs, scales_with_length
from magic_rl.types import Tokens

# Put into the model's chat template. Plain prose, so that every chat model finds most of it likely.
QUESTIONS = ("Why does bread rise, and what can go wrong?", "What is yeast?")
ANSWER = (
    "Bread rises because yeast eats the sugar in the dough and gives off gas, which the gluten holds in small bubbles. "
    "If the water is too hot, the yeast dies; if the dough rests too long, it falls in."
)

_GREEDY = 8  # tokens of the greedy reply, and of each reply that is decoded again
_FACTOR = 2.0  # limit, as a multiple of the model's own best distance; no right path was seen beyond 1.3
_NOISY = 0.1  # nats; a larger effect of rounding could hide a wrong path
_SHRINKS = 0.1  # the factor in a wider precision, which shrinks the effect of rounding by this much at least
_NEGLIGIBLE = 1e-3  # nats; a smaller difference has no visible effect on samples or gradients
_WIDER = {torch.float32: torch.float64, torch.bfloat16: torch.float32, torch.float16: torch.float32}
# Errors seen in forward passes of models that do not support a path: lookups of what they lack, shapes and dtypes that
# do not fit, operations that a device lacks (RuntimeError), and our own.
_CANNOT = (CannotShareError, LookupError, TypeError, AttributeError, RuntimeError, ValueError)

_Logprobs = Callable[[Any, Batch], Iterator[tuple[Pack, Tensor]]]


@torch.inference_mode()
def choose_path(model: Any, prompts: Sequence[Tokens], answer: Tokens) -> ComputePath:
    """Switch a model to our attention if that is as exact as its own, else to its own: as loaded if exact, or eager.

    Args:
        model: As transformers loaded it.
        prompts: Two of different length, as the model will see them.
        answer: A reply to the first.
    """
    return _Trial(model, prompts, answer).path()


class _Trial:
    """A model and the text that it is tried on."""

    def __init__(self, model: Any, prompts: Sequence[Tokens], answer: Tokens) -> None:
        self._model, self._prompts = model, prompts
        self._loaded = model.config._attn_implementation
        one, two = prompts
        third = max(2, len(answer) // 3)
        replies = (answer, _greedy(model, one), answer[:third], answer[-third:])
        self._sequences = list(zip((one, one, two, two), replies, strict=True))
        self._batches = list(padded(self._sequences, 10**6, pads=not scales_with_length(model)))

    def path(self) -> ComputePath:
        """See `choose_path`."""
        with _short_sighted(self._model, max(8, len(self._sequences[0][1]) // 3)):
            right, own = self._yardstick()
            reason, parity = unfit(self._model), float("nan")
            if not reason:
                reason, parity = _exceeds(self._model, lambda: self._shared(right), own)
            if not reason:
                return ComputePath("shared", "", parity, own)
            self._model.set_attn_implementation(self._loaded)
            if _exceeds(self._model, lambda: self._alone(right), own)[0]:
                self._model.set_attn_implementation("eager")
            pads = (
                not scales_with_length(self._model) and not _exceeds(self._model, lambda: self._padded(right), own)[0]
            )
        return ComputePath("padded" if pads else "equal lengths", reason, parity, own)

    def _yardstick(self) -> tuple[list[Tensor], float]:
        """The reference log-probabilities, and the smallest distance of the model's own attentions from them."""
        self._model.set_attn_implementation("eager")  # applies caps and sinks in every family; "sdpa" leaves them out
        try:
            with _widened(self._model):
                right = self._scores(plain_logprobs, self._batches)
        except _CANNOT:  # a module that reads another's weights, or a device without float64
            right = self._scores(plain_logprobs, self._batches)
        found = []
        for name in dict.fromkeys((self._loaded, "eager", "sdpa")):
            with contextlib.suppress(*_CANNOT):
                self._model.set_attn_implementation(name)
                found.append(self._alone(right))
        # Without a wider pass the distance of eager attention is 0; the next one shows the effect of rounding.
        return right, min((gap for gap in found if gap > 0), default=0.0)

    def _shared(self, right: list[Tensor]) -> float:
        """The largest distance of shared prompts from the reference: in one row, in several, and in decoding."""
        self._model.set_attn_implementation(SHARED_PREFIX)
        found = [self._scores(packed_logprobs, pack(self._sequences, budget)) for budget in (1, 10**6)]
        decoder = SharedDecoder(self._model, 2, common_prefix(self._prompts))
        found.append(self._decoded(decoder, together=False))
        if "sliding_attention" in _layers(self._model) and not any(decoder.windows):
            raise CannotShareError("its layers do not say how far they see")
        return torch.tensor([_distance(scores, right) for scores in found]).max().item()  # NaN if any is

    def _alone(self, right: list[Tensor]) -> float:
        """Distance of the model's own attention, as it is set now, from the reference."""
        return _distance(self._scores(plain_logprobs, self._batches), right)

    def _padded(self, right: list[Tensor]) -> float:
        """Distance of decoding with prompts padded on the left from the reference."""
        return _distance(self._decoded(PlainDecoder(self._model, 2, pads=True), together=True), right)

    def _scores(self, logprobs: _Logprobs, batches: Iterable[Batch]) -> list[Tensor]:
        """Log-probabilities of the completion tokens of each sequence."""
        found: dict[int, Tensor] = {}
        for batch in batches:
            for row, scores in logprobs(self._model, batch):
                found.update(zip(row.sequences, torch.split(scores, row.lengths), strict=True))
        return [found[index] for index in range(len(self._sequences))]

    def _decoded(self, decoder: Decoder, *, together: bool) -> list[Tensor]:
        """The same of the first tokens of each completion, by decoding; prompts arrive together or one by one."""
        arriving = [self._prompts] if together else [[prompt] for prompt in self._prompts]
        logits = torch.cat([decoder.admit(prompts) for prompts in arriving])
        replies = [reply[:_GREEDY] for _, reply in self._sequences]
        found: list[list[Tensor]] = [[] for _ in replies]
        running = list(range(len(replies)))
        step = 0
        while running:
            tokens = torch.tensor([replies[row][step] for row in running], device=logits.device)
            scores = logits.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
            for row, score in zip(running, scores, strict=True):
                found[row].append(score)
            ended = torch.tensor([step + 1 == len(replies[row]) for row in running])
            running = [row for row, end in zip(running, ended.tolist(), strict=True) if not end]
            step += 1
            if running:
                decoder.drop(ended, more=False)
                logits = decoder.go_on(tokens[~ended.to(tokens.device)])
        return [torch.stack(scores) for scores in found]


def _exceeds(model: nn.Module, measure: Callable[[], float], own: float) -> tuple[str, float]:
    """Why a path is not as exact as the model's own attention, "" if it is; and the path's distance in nats.

    Args:
        measure: Measures that distance.
        own: Distance of the model's own attention. If it is large, the path's must be small in a wider precision too.
    """
    distance = float("nan")
    trials: list[tuple[contextlib.AbstractContextManager[None], float]] = [
        (contextlib.nullcontext(), _FACTOR),
        (_widened(model), _SHRINKS),
    ]
    try:
        for precision, factor in trials if own > _NOISY else trials[:1]:
            with precision:
                gap = measure()
            distance = gap if math.isnan(distance) else distance
            if not gap <= (limit := factor * own + _NEGLIGIBLE):
                return (
                    f"log-probabilities would be off by {gap:.2g} nats, where up to {limit:.2g} is rounding",
                    distance,
                )
    except torch.OutOfMemoryError:
        raise  # says nothing about the path
    except _CANNOT as error:
        return f"its forward pass does not allow it ({error})", distance
    return "", distance


def _distance(ours: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Root mean square in nats over the tokens of `ours`, in which a few wrong ones among many right ones count."""
    gaps = [one.double() - two[: len(one)].double() for one, two in zip(ours, right, strict=True)]
    return torch.cat(gaps).square().mean().sqrt().item()


def _greedy(model: Any, prompt: Tokens) -> Tokens:
    """The model's own greedy continuation, of `_GREEDY` tokens."""
    decoder = PlainDecoder(model, 1, pads=False)
    tokens = [decoder.admit([prompt]).argmax(-1)]
    while len(tokens) < _GREEDY:
        tokens.append(decoder.go_on(tokens[-1]).argmax(-1))
    return tuple(torch.cat(tokens).tolist())


@contextlib.contextmanager
def _widened(model: nn.Module) -> Iterator[None]:
    """Let every module compute in a wider dtype; the wide copy of its parameters exists only while it does."""
    dtype = _WIDER[next(model.parameters()).dtype]

    def widen(module: nn.Module, _: Any) -> None:
        module.__dict__["_narrow"] = dict(module._parameters)
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                module._parameters[name] = nn.Parameter(parameter.to(dtype), requires_grad=False)

    def narrow(module: nn.Module, *_: Any) -> None:
        module._parameters.update(module.__dict__.pop("_narrow"))

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if module._parameters:
                stack.callback(module.register_forward_pre_hook(widen).remove)
                stack.callback(module.register_forward_hook(narrow, always_call=True).remove)
        yield


@contextlib.contextmanager
def _short_sighted(model: Any, window: int) -> Iterator[None]:
    """Make sliding windows shorter than the text for a while, so that an ignored window shows."""
    holders = [holder for holder in (model.config.get_text_config(), *model.modules()) if _window(holder) > window]
    before = [holder.sliding_window for holder in holders]
    try:
        for holder in holders:
            holder.sliding_window = window
        yield
    finally:
        for holder, width in zip(holders, before, strict=True):
            holder.sliding_window = width


def _window(holder: Any) -> int:
    width = getattr(holder, "sliding_window", None)
    return width if isinstance(width, int) else 0


def unfit(model: Any) -> str:
    """Why the model cannot share prompts, as far as its config tells; "" if nothing there forbids it."""
    layers = _layers(model)
    if not layers <= {"full_attention", "sliding_attention"}:
        return f"it has layers of {', '.join(sorted(layers))}"
    if scales_with_length(model):
        return "its positions depend on the longest sequence of a pass"
    return ""


def _layers(model: Any) -> set[str]:
    """Kinds of attention in a model's layers."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds:
        return kinds
    slides = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return {"sliding_attention" if slides else "full_attention"}
