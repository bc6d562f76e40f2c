"""Attention over ids that are stored once and read by every sequence that begins with them.

A packed row attends as its `Layout` says. Decoding keeps two memories (`GroupCache`): the prompt's keys and values, one
copy a group, and each row's own completion. Scores against both are joined under one softmax, so the result is that
of ordinary causal attention. Registered with transformers under `SHARED_PREFIX`, so any model built on its attention
interface can use it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from magic_rl.engines.local.layout import Layout

SHARED_PREFIX = "magic_shared_prefix"


class GroupCache:
    """Keys and values of P prompts and of their P × G completions.

    The first forward pass (a row with the prompts) fills the prompt memory; every later one appends one token to
    each row. Implements the one method of a transformers cache that models call: `update`.
    """

    def __init__(self, layout: Layout, prompt_lengths: Tensor, group: int, max_new: int) -> None:
        """Args: layout: of the prompts' row. prompt_lengths: shape (P,). group: G. max_new: longest completion."""
        self.groups, self.group = int(prompt_lengths.shape[0]), group
        self._layout = layout
        self.windows: set[int | None] = set()  # that layers have asked for
        self._max_new = max_new
        self._written = 0
        self._prompt: list[tuple[Tensor, Tensor]] = []  # a layer: (P, Hkv, Lp, d) twice
        self._completion: list[tuple[Tensor, Tensor]] = []  # a layer: (P*G, Hkv, max_new, d) twice
        longest = int(prompt_lengths.max())
        self._lengths = prompt_lengths[:, None, None, None]  # (P, 1, 1, 1)
        self._places = torch.arange(longest, device=prompt_lengths.device)  # (Lp,)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values, shape (rows, Hkv, new, d), and return what the rows own.

        At first these are the prompts', shape (1, Hkv, L, d), which come back as they are.
        """
        if len(self._prompt) <= layer_idx:
            self._prompt.append((self._layout.prompts(keys), self._layout.prompts(values)))
            room = (self.groups * self.group, keys.shape[1], self._max_new, keys.shape[3])
            self._completion.append((keys.new_zeros(room), values.new_zeros(room)))
            return keys, values
        own_keys, own_values = self._completion[layer_idx]
        own_keys[:, :, self._written : self._written + 1] = keys
        own_values[:, :, self._written : self._written + 1] = values
        return own_keys[:, :, : self._written + 1], own_values[:, :, : self._written + 1]

    def advance(self) -> None:
        """Count the token that every layer has just stored."""
        self._written += 1

    def get_seq_length(self, *_: Any) -> int:
        """Tokens appended to each row so far; takes and ignores a layer, as the cache interface has it."""
        return self._written

    def prompt(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Keys and values (P, Hkv, Lp, d) of the prompts at one layer."""
        return self._prompt[layer_idx]

    def visible(self, window: int | None) -> Tensor:
        """Which of its prompt's tokens the newest token of a row may attend to, shape (P, 1, 1, Lp)."""
        self.windows.add(window)
        visible = self._places < self._lengths
        if window is not None:
            visible = visible & (self._lengths + self._written - self._places < window)
        return visible

    def keep(self, groups: Tensor, rows: Tensor) -> None:
        """Keep only some groups and, in each, the same number of rows.

        Args:
            groups: Indices of the P' groups to keep.
            rows: Shape (P', G'): flat row indices (into P*G) to keep, group by group.
        """
        flat = rows.reshape(-1)
        self._prompt = [(k[groups], v[groups]) for k, v in self._prompt]
        self._completion = [(k[flat], v[flat]) for k, v in self._completion]
        self._lengths = self._lengths[groups]
        self.groups, self.group = int(rows.shape[0]), int(rows.shape[1])


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    group_cache: GroupCache | None = None,
    layout: Layout | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention function in the transformers convention: query (B, H, Lq, d) in, (B, Lq, H, d) out.

    With `layout` this is a packed row (B = 1), otherwise one decoding step on a `group_cache` (Lq = 1). There queries
    that share a key/value head are stacked as extra query rows, so keys and values are not repeated.

    Raises:
        NotImplementedError: If a model asks for anything else.
    """
    if softcap is not None or s_aux is not None or attention_mask is not None:
        raise NotImplementedError("attention with capped scores, sinks or a mask of the model's own")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layout is None:
        if group_cache is None or query.shape[2] != 1 or query.shape[0] != group_cache.groups * group_cache.group:
            raise NotImplementedError("attention over anything but packed rows and decoding steps")
        if sliding_window is not None:
            key, value = key[:, :, -sliding_window:], value[:, :, -sliding_window:]
        prompt = group_cache.prompt(module.layer_idx)
        return _decode_step(query, key, value, scale, *prompt, group_cache.visible(sliding_window)), None
    return layout.attend(query, key, value, sliding_window, scale=scale, dropout_p=dropout), None


def _decode_step(
    query: Tensor, key: Tensor, value: Tensor, scale: float, prompt_key: Tensor, prompt_value: Tensor, visible: Tensor
) -> Tensor:
    """One new token a row. query (P*G, H, 1, d); key, value (P*G, Hkv, t, d); prompt_* (P, Hkv, Lp, d)."""
    rows, heads, _, dim = query.shape
    groups, kv_heads, prompt_length, _ = prompt_key.shape
    group, share = rows // groups, heads // kv_heads
    own_query = query.view(rows, kv_heads, share, dim)
    # All queries that read one prompt's key/value head stand in one matrix: (P, Hkv, G*share, d).
    shared_query = own_query.view(groups, group, kv_heads, share, dim).transpose(1, 2)
    shared_query = shared_query.reshape(groups, kv_heads, group * share, dim)

    prompt_scores = (shared_query @ prompt_key.transpose(2, 3)).float().mul_(scale)
    prompt_scores = prompt_scores.masked_fill_(~visible, float("-inf"))
    prompt_scores = prompt_scores.view(groups, kv_heads, group, share, prompt_length).transpose(1, 2)
    prompt_scores = prompt_scores.reshape(rows, kv_heads, share, prompt_length)
    own_scores = (own_query @ key.transpose(2, 3)).float().mul_(scale)
    weights = torch.cat([prompt_scores, own_scores], dim=-1).softmax(-1).to(query.dtype)

    prompt_weights = weights[..., :prompt_length].view(groups, group, kv_heads, share, prompt_length).transpose(1, 2)
    prompt_weights = prompt_weights.reshape(groups, kv_heads, group * share, prompt_length)
    from_prompt = (prompt_weights @ prompt_value).view(groups, kv_heads, group, share, dim).transpose(1, 2)
    from_own = weights[..., prompt_length:] @ value
    out = from_prompt.reshape(rows, kv_heads, share, dim) + from_own
    return out.reshape(rows, 1, heads, dim)


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
