"""Attention over tokens that are stored once and read by every sequence that begins with them.

A packed row attends as its `Layout` says. Decoding keeps two KV caches (`GroupCache`): one of the prompts, once per
group, and one of each row's own completion. One softmax in float32 covers the scores against both, so the result is
that of ordinary causal attention. The function is registered with transformers under `SHARED_PREFIX`, so any model
built on transformers' attention interface can use it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from transformers import AttentionInterface

from magic_rl.engines.local.layout import Layout, Rule

SHARED_PREFIX = "magic_shared_prefix"


class CannotShareError(Exception):
    """A model asks its attention for something that shared prompts do not support; it takes the plain path."""


class GroupCache:
    """Keys and values of P prompts and of their P × G completions.

    A forward pass over a row of prompts adds their groups; every other pass appends one token to each of the R rows
    that still run. Groups that come later begin in a later column of the completions' cache. Implements the methods of
    a transformers cache that models call: `update` and `get_seq_length`.
    """

    def __init__(self, group: int, prefix: int = 0) -> None:
        """
        Args:
            group: G.
            prefix: How many tokens all prompts ever to arrive share at the start; only the first forward pass has them.
        """
        self.running = torch.zeros(0, group, dtype=torch.bool)  # (P, G), on the CPU: which rows still run
        self._places: Tensor | None = None  # indices of the running rows among P * G, shape (R,); None if all run
        self.known = 0  # first tokens of arriving prompts that are not fed again
        self._prefix: list[tuple[Tensor, Tensor]] = []  # per layer: keys and values, (1, Hkv, length, d) each
        self._length = prefix
        self.windows: set[int | None] = set()  # sliding windows that layers have asked for
        self._written = 0  # columns in use of the completions' cache
        self._prompt: list[tuple[Tensor, Tensor]] = []  # per layer: (P, Hkv, Lp, d) each
        self._completion: list[tuple[Tensor, Tensor]] = []  # per layer: (P, Hkv, G, columns, d) each
        self._lengths = self._starts = torch.zeros(0, 1, 1, 1, dtype=torch.long)  # (P, 1, 1, 1)
        self._hidden: dict[int | None, Tensor | None] = {}  # by window: masks of the current decoding step
        self._arriving: Layout | None = None

    @property
    def groups(self) -> int:
        """P."""
        return len(self.running)

    @property
    def group(self) -> int:
        """G."""
        return self.running.shape[1]

    @contextlib.contextmanager
    def admitting(self, layout: Layout, lengths: Tensor) -> Iterator[None]:
        """Let the forward pass in this context add prompts. Args: layout: of their row. lengths: of each, (P',)."""
        unused = int(self._starts.min()) if self.groups else self._written
        if unused:
            # Layer by layer, so that a second copy of all layers never exists.
            for layer, (keys, values) in enumerate(self._completion):
                self._completion[layer] = keys[..., unused:, :].clone(), values[..., unused:, :].clone()
        self._written -= unused
        self._arriving = layout
        yield
        self._arriving, self.known = None, self._length
        lengths = lengths[:, None, None, None]
        self._lengths = torch.cat([self._lengths.to(lengths.device), lengths])
        self._starts = torch.cat([self._starts.to(lengths.device) - unused, torch.full_like(lengths, self._written)])
        self.run(torch.cat([self.running, self.running.new_ones(len(lengths), self.group)]))

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values.

        Args:
            keys, values: Of one token per running row, shape (R, Hkv, 1, d), or of arriving prompts, (1, Hkv, L, d).

        Returns:
            Keys and values of all completions, shape (P, Hkv, G, columns, d); or of the arriving prompts' whole row,
            with the prefix if it was left out.
        """
        if self._arriving is not None:
            keys, values = self._with_prefix(keys, values, layer_idx)
            # Contiguous, or each decoding step would copy them first.
            prompts = [_kept(self._arriving.prompts(part)).contiguous() for part in (keys, values)]
            empty = [part.new_empty(*part.shape[:2], self.group, 0, part.shape[3]) for part in prompts]
            for memory, (new_keys, new_values) in ((self._prompt, prompts), (self._completion, empty)):
                if len(memory) <= layer_idx:
                    memory.append((new_keys, new_values))
                else:
                    keys_so_far, values_so_far = memory[layer_idx]
                    memory[layer_idx] = _stacked(keys_so_far, new_keys), _stacked(values_so_far, new_values)
            return keys, values
        if self._written >= self._completion[layer_idx][0].shape[-2]:
            self._completion[layer_idx] = _grown(self._completion[layer_idx][0]), _grown(self._completion[layer_idx][1])
        own_keys, own_values = self._completion[layer_idx]
        own_keys[..., self._written, :] = self._by_group(keys)
        own_values[..., self._written, :] = self._by_group(values)
        return own_keys[..., : self._written + 1, :], own_values[..., : self._written + 1, :]

    def _with_prefix(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """The whole row of arriving prompts, prefix included: (1, Hkv, L, d)."""
        if self.known:
            before = self._prefix[layer_idx]
            return torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)
        if self._length:
            self._prefix.append((keys[:, :, : self._length].clone(), values[:, :, : self._length].clone()))
        return keys, values

    def _by_group(self, new: Tensor) -> Tensor:
        """From (R, Hkv, 1, d) to (P, Hkv, G, d)."""
        return self.in_place(new).view(self.groups, self.group, *new.shape[1::2]).transpose(1, 2)

    def advance(self) -> None:
        """Count the token that every layer has just stored."""
        self._written += 1
        self._hidden = {}

    def get_seq_length(self, *_: Any) -> int:
        """Columns in use. Ignores the layer index, which the cache interface allows."""
        return self._written

    def prompt(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Keys and values (P, Hkv, Lp, d) of the prompts at one layer."""
        return self._prompt[layer_idx]

    def hidden(self, layer_idx: int, window: int | None) -> Tensor | None:
        """What the newest token of a row may not attend to. The same in all layers, so only the first computes it.

        Returns:
            Mask of the prompt's tokens and then of the row's newest columns, shape (P, 1, 1, Lp + columns); None if
            nothing is hidden, which only a CPU checks.
        """
        self.windows.add(window)
        if window not in self._hidden:
            device = self._lengths.device
            places = torch.arange(self._prompt[layer_idx][0].shape[2], device=device)
            hidden = places >= self._lengths
            if window is not None:
                hidden = hidden | (self._lengths + self._written - self._starts - places >= window)
            columns = torch.arange(self._written + 1, device=device)[-(window or 0) :]
            hidden = torch.cat([hidden, columns < self._starts], dim=-1)
            # Off the CPU, this check would wait for all queued work; a mask that hides nothing costs less.
            self._hidden[window] = hidden if device.type != "cpu" or hidden.any() else None
        return self._hidden[window]

    def in_place(self, rows: Tensor) -> Tensor:
        """From one entry per running row, shape (R, ...), to one per row, (P*G, ...), zero where a row does not run."""
        if self._places is None:
            return rows
        return rows.new_zeros(self.running.numel(), *rows.shape[1:]).index_copy_(0, self._places, rows)

    def of_running(self, places: Tensor) -> Tensor:
        """The opposite of `in_place`: the entries of the running rows, shape (R, ...)."""
        return places if self._places is None else places.index_select(0, self._places)

    def run(self, running: Tensor) -> None:
        """Set which rows run from now on, shape (P, G)."""
        self.running = running
        places = running.flatten().nonzero()[:, 0]
        self._places = None if len(places) == running.numel() else places.to(self._lengths.device)
        self._hidden = {}

    def keep(self, groups: Tensor, rows: Tensor) -> None:
        """Keep only some groups, and only some rows of each; the memory of the others is freed.

        Args:
            groups: Indices of the P' groups to keep, on the CPU; may be empty.
            rows: Indices of the rows to keep of each of these groups, shape (P', G').
        """
        self.run(self.running[groups[:, None], rows])
        groups, rows = groups.to(self._lengths.device), rows.to(self._lengths.device)
        for layer, (keys, values) in enumerate(self._prompt):
            self._prompt[layer] = keys[groups], values[groups]
        for layer, memory in enumerate(self._completion):
            keys, values = (part[groups[:, None], :, rows].transpose(1, 2).contiguous() for part in memory)
            self._completion[layer] = keys, values
        self._lengths, self._starts = self._lengths[groups], self._starts[groups]


def _kept(memory: Tensor) -> Tensor:
    """Keys, values or queries in the precision that decoding uses.

    A score of two bfloat16 vectors must not be rounded to bfloat16: some families have scores in the thousands. CUDA
    can return the product in float32; elsewhere the vectors themselves must be in float32.
    """
    return memory if memory.device.type == "cuda" else memory.float()


def _scores(queries: Float[Tensor, "*b Lq d"], keys: Float[Tensor, "*b Lk d"]) -> Float32[Tensor, "*b Lq Lk"]:
    """Products of queries and keys, in float32."""
    if queries.dtype == torch.float32:
        return queries @ keys.transpose(-1, -2)
    flat = torch.bmm(queries.flatten(0, -3), keys.flatten(0, -3).transpose(1, 2), out_dtype=torch.float32)
    return flat.view(*queries.shape[:-1], -1)


def _grown(memory: Tensor) -> Tensor:
    """A cache (..., columns, d) with as many empty columns added, at least 32."""
    return torch.nn.functional.pad(memory, (0, 0, 0, max(32, memory.shape[-2])))


def _stacked(one: Tensor, two: Tensor) -> Tensor:
    """Two caches (P, ..., columns, d) joined along P, the narrower one padded with empty columns."""
    wide = max(one.shape[-2], two.shape[-2])
    return torch.cat([torch.nn.functional.pad(part, (0, 0, 0, wide - part.shape[-2])) for part in (one, two)])


def shared_prefix_attention(
    module: Any,
    query: Float[Tensor, "B H Lq d"],
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    group_cache: GroupCache | None = None,
    layout: Layout | None = None,
    softcap: float | None = None,
    s_aux: Float[Tensor, " H"] | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "B Lq H d"], None]:
    """Attention function in the transformers convention.

    With `layout` this is a packed row (B = 1), whose first tokens may have keys and values but no queries. Otherwise it
    is one decoding step on a `group_cache` (Lq = 1), where queries that share a key/value head are stacked as extra
    query rows, so that keys and values are not repeated.

    Raises:
        CannotShareError: If a model asks for anything else.
    """
    if attention_mask is not None:
        raise CannotShareError("attention with a mask of the model's own")
    rule = Rule(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap, s_aux)
    if layout is None:
        if group_cache is None or query.shape[2] != 1 or query.shape[0] != group_cache.running.sum():
            raise CannotShareError("attention over anything but packed rows and decoding steps")
        if sliding_window is not None:
            key, value = key[..., -sliding_window:, :], value[..., -sliding_window:, :]
        hidden = group_cache.hidden(module.layer_idx, sliding_window)
        prompt = group_cache.prompt(module.layer_idx)
        out = _decode_step(_kept(group_cache.in_place(query)), (key, value), prompt, hidden, rule)
        return group_cache.of_running(out).to(query.dtype), None
    return layout.attend(query, key, value, rule), None


def _decode_step(
    query: Float[Tensor, "R H 1 d"],
    own: tuple[Float[Tensor, "P Hkv G t d"], Float[Tensor, "P Hkv G t d"]],
    prompt: tuple[Float[Tensor, "P Hkv Lp d"], Float[Tensor, "P Hkv Lp d"]],
    hidden: Bool[Tensor, "P 1 1 Lp+t"] | None,
    rule: Rule,
) -> Float[Tensor, "R 1 H d"]:
    """One new token for each of P*G rows, given the keys and values of their completions and of the prompts."""
    rows, heads, _, dim = query.shape
    groups, kv_heads, group, _, _ = own[0].shape
    share, prompt_length = heads // kv_heads, prompt[0].shape[2]
    # All queries that read one prompt's key/value head form one matrix, (P, Hkv, G*share, d).
    queries = query.view(groups, group, kv_heads, share, dim).transpose(1, 2)
    queries = queries.reshape(groups, kv_heads, group * share, dim)

    to_own = _scores(queries.view(groups, kv_heads, group, share, dim), own[0])
    scores = torch.cat([_scores(queries, prompt[0]), to_own.view(groups, kv_heads, group * share, -1)], dim=-1)
    sinks = (
        None if rule.sinks is None else rule.sinks.view(kv_heads, 1, share).repeat(1, group, 1).flatten(1)[..., None]
    )
    weights = rule.weights(scores, hidden, sinks).to(query.dtype)

    out = weights[..., :prompt_length] @ prompt[1]
    from_own = weights[..., prompt_length:].view(groups, kv_heads, group, share, -1) @ own[1]
    out = out.view(groups, kv_heads, group, share, dim) + from_own
    return out.transpose(1, 2).reshape(rows, 1, heads, dim)


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
