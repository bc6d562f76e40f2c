"""Which tokens of a packed row belong to which sequence, and attention over such a row.

A prompt attends to itself; a completion attends to a copy of its prompt's keys and values and to itself. Each prompt is
computed once for its group. Padding is small: prompts are padded to the longest prompt of the row, and completions,
which are computed in blocks of similar length, to the longest completion of their block.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rule:
    """How scores (products of queries and keys) become attention weights."""

    scale: float  # scores are multiplied by it
    window: int | None = None  # how many tokens a token attends to, itself included; None: no limit
    cap: float | None = None  # scores are squashed into ±cap, as in Gemma 2; None: no cap
    # Score of attending to nothing, shape (H,), as in gpt-oss; None: no sinks.
    sinks: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether PyTorch's own attention kernels support it."""
        return self.cap is None and self.sinks is None

    def weights(
        self, scores: Float32[Tensor, "*rows Lk"], hidden: Bool[Tensor, "*#rows Lk"] | None, sinks: Tensor | None
    ) -> Float32[Tensor, "*rows Lk"]:
        """Softmax. Args: scores: Overwritten. hidden: What gets no weight. sinks: Broadcasts to (*rows, 1)."""
        scores = scores.mul_(self.scale)
        if self.cap is not None:
            scores = torch.tanh(scores / self.cap) * self.cap
        if hidden is not None:
            scores = scores.masked_fill_(hidden, float("-inf"))
        if sinks is None:
            return scores.softmax(-1)
        column = sinks.float().expand(*scores.shape[:-1], 1)
        return torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]


class Layout:
    """Where the T prompts and N completions of a packed row are, and which tokens attend to which.

    One token of the row may belong to several of them, as the row holds common beginnings once; see `packing`.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[tuple[int, Sequence[int]]], known: int = 0
    ) -> None:
        """
        Args:
            prompts: For each prompt, the places of its tokens, that is, their indices in the row.
            completions: For each completion, the index of its prompt and the places of its tokens, if any.
            known: Number of tokens, first in the row and in each prompt, that have keys and values but no queries.
        """
        self._prompts = _padded(prompts)  # (T, Sp)
        self._asking = _among_queries(self._prompts[:, known:], known)
        self._blocks = [_Block(prompts, alike, known) for alike in _of_similar_length(completions)]
        slots = [
            ([prompt[known:] for prompt in prompts], self._asking.shape[1]),
            *((block.parts, block.places.shape[1]) for block in self._blocks),
        ]
        first: dict[int, int] = {}  # place -> the first slot, among those of prompts and blocks, that holds the token
        start = 0
        for parts, width in slots:
            for part in parts:
                for slot, place in enumerate(part, start):
                    first.setdefault(place, slot)
                start += width
        self._slots = torch.tensor([first[place] for place in range(known, known + len(first))])  # (Lq,)

    def to(self, device: torch.device) -> Layout:
        """A copy on a device."""
        moved = copy(self)
        for name in ("_prompts", "_asking", "_slots"):
            setattr(moved, name, getattr(self, name).to(device))
        moved._blocks = [block.to(device) for block in self._blocks]
        return moved

    def prompts(self, row: Float[Tensor, "1 H L d"]) -> Float[Tensor, "T H Sp d"]:
        """The prompts of a row, padded to the longest."""
        return _select(row, self._prompts)

    def attend(
        self,
        query: Float[Tensor, "1 H Lq d"],
        key: Float[Tensor, "1 Hkv L d"],
        value: Float[Tensor, "1 Hkv L d"],
        rule: Rule,
    ) -> Float[Tensor, "1 Lq H d"]:
        """Attention over a row. All tokens have queries, except the known ones at its start."""
        dtype = query.dtype
        if query.device.type == "cpu":
            # The CPU kernel's backward pass takes two to three times as long in bfloat16.
            query, key, value = query.float(), key.float(), value.float()
        keys, values = self.prompts(key), self.prompts(value)
        asking = _select(query, self._asking)
        parts = [_attention(asking, keys, values, _causal(asking, keys, rule), rule)]
        for block in self._blocks:
            seen_keys = torch.cat([keys.index_select(0, block.owners), _select(key, block.places)], dim=2)
            seen_values = torch.cat([values.index_select(0, block.owners), _select(value, block.places)], dim=2)
            mask = block.mask(self._prompts.shape[1], rule.window)
            parts.append(_attention(_select(query, block.asking), seen_keys, seen_values, mask, rule))
        flat = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts])
        return flat.index_select(0, self._slots)[None].to(dtype)


class _Block:
    """Completions of similar length, each with its prompt before it."""

    def __init__(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[tuple[int, Sequence[int]]], known: int
    ) -> None:
        self.parts = [places for _, places in completions]  # places of each of N completions
        self.places = _padded(self.parts)  # (N, Sc)
        self.asking = _among_queries(self.places, known)  # the same as indices of queries; known tokens have none
        self.owners = torch.tensor([owner for owner, _ in completions])  # index of each one's prompt, (N,)
        self.lengths = torch.tensor([len(prompts[owner]) for owner, _ in completions])  # of prompts, (N,)
        self._masks: dict[int | None, Tensor] = {}

    def to(self, device: torch.device) -> _Block:
        """A copy on a device."""
        moved = copy(self)
        moved._masks = {}
        for name in ("places", "asking", "owners", "lengths"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def mask(self, width: int, window: int | None) -> Bool[Tensor, "N 1 Sc {width}+Sc"]:
        """Which tokens of its prompt, padded to `width`, and of its completion each token attends to."""
        if window not in self._masks:
            own, before = (torch.arange(n, device=self.places.device) for n in (self.places.shape[1], width))
            lengths = self.lengths[:, None, None]
            back = torch.cat(  # how many tokens each key lies behind its query; negative if ahead
                [lengths + own[:, None] - before, (own[:, None] - own).expand(len(lengths), -1, -1)], dim=2
            )
            real = torch.cat([before < lengths, torch.ones_like(lengths, dtype=torch.bool).expand(-1, 1, len(own))], 2)
            near = back >= 0 if window is None else (back >= 0) & (back < window)
            self._masks[window] = (real & near)[:, None]
        return self._masks[window]


def _of_similar_length(completions: Sequence[tuple[int, Sequence[int]]]) -> list[list[tuple[int, Sequence[int]]]]:
    """Blocks in which each completion is at least three quarters as long as the longest; without empty completions."""
    blocks: list[list[tuple[int, Sequence[int]]]] = []
    for completion in sorted(completions, key=lambda completion: -len(completion[1])):
        length = len(completion[1])
        if blocks and length >= 0.75 * len(blocks[-1][0][1]):
            blocks[-1].append(completion)
        elif length:
            blocks.append([completion])
    return blocks


def _causal(
    queries: Float[Tensor, "B H Lq d"], keys: Float[Tensor, "B Hkv Lk d"], rule: Rule
) -> Bool[Tensor, "Lq Lk"] | None:
    """Causal mask within the window for queries of the last tokens; None if the kernel's own causal mask will do."""
    count, size = queries.shape[2], keys.shape[2]
    if rule.plain and count == size and (rule.window is None or rule.window >= size):
        return None
    places = torch.arange(size, device=keys.device)
    back = places[size - count :, None] - places
    return back >= 0 if rule.window is None else (back >= 0) & (back < rule.window)


def _padded(parts: Sequence[Sequence[int]]) -> Int[Tensor, "B S"]:
    """Places as a rectangle, padded with place 0; what is computed there is masked or never read."""
    longest = max(map(len, parts))
    return torch.tensor([[*part, *[0] * (longest - len(part))] for part in parts])


def _among_queries(places: Tensor, known: int) -> Tensor:
    """The same places as indices of queries, which known tokens do not have; padding stays 0."""
    return (places - known).clamp(min=0)


def _select(row: Float[Tensor, "1 H L d"], places: Int[Tensor, "B S"]) -> Float[Tensor, "B H S d"]:
    """The tokens of a row at the given places."""
    _, heads, _, dim = row.shape
    return row[0].index_select(1, places.flatten()).view(heads, *places.shape, dim).transpose(0, 1)


def _attention(
    query: Float[Tensor, "B H Lq d"],
    key: Float[Tensor, "B Hkv Lk d"],
    value: Float[Tensor, "B Hkv Lk d"],
    mask: Bool[Tensor, "*#BH Lq Lk"] | None,
    rule: Rule,
) -> Float[Tensor, "B H Lq d"]:
    """Attention under a mask, or causal attention if there is none."""
    shared = query.shape[1] != key.shape[1]
    if mask is not None and shared and (query.device.type != "cpu" or not rule.plain):
        # The explicit product below needs this. Off the CPU, so does PyTorch's kernel: with a mask and shared heads it
        # falls back to one that stores all scores.
        key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
        shared = False
    with torch.autocast(query.device.type, enabled=False):  # autocast would return to bfloat16
        if mask is None or rule.plain:
            return torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=shared, scale=rule.scale
            )
        # Without compilation, no kernel of PyTorch supports caps or sinks. Like transformers' eager attention, this
        # stores all scores.
        sinks = None if rule.sinks is None else rule.sinks[:, None, None]
        weights = rule.weights(query.float() @ key.float().transpose(2, 3), ~mask, sinks)
        return weights.to(value.dtype) @ value
