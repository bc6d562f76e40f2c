"""Decoding many rows in parallel, one token of each at a time.

In `SharedDecoder` all rows of a group read one KV cache of their prompt. `PlainDecoder`, for models that cannot share
prompts, asks nothing of a causal model that transformers' own `generate` does not ask.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from magic_rl.engines.local.attention import GroupCache
from magic_rl.engines.local.packing import one_row
from magic_rl.types import Tokens

_CACHES = ("past_key_values", "cache_params")  # names that models have for their cache


@runtime_checkable
class Decoder(Protocol):
    """Rows that are decoded together, n for each prompt."""

    @property
    def groups(self) -> int:
        """Number of prompts whose rows are being decoded."""

    def admit(self, prompts: Sequence[Tokens]) -> Tensor:
        """Add n rows for each prompt after the existing ones; logits for the first token of each, shape (P * n, V)."""

    def go_on(self, tokens: Tensor) -> Tensor:
        """Feed one token to each running row, shape (R,); logits for the next, (R, V)."""

    def drop(self, finished: Tensor, *, more: bool) -> None:
        """Remove finished rows; the others keep their order.

        Args:
            finished: For each running row, shape (R,), on the CPU.
            more: Whether prompts are waiting to take the place of finished groups.
        """


class SharedDecoder:
    """Encodes each prompt once, and a prefix of all prompts only once; rows share the KV cache. See `attention`."""

    def __init__(self, model: PreTrainedModel | PeftModel, n: int, prefix: int = 0) -> None:
        """Args: prefix: How many tokens all prompts ever to be admitted begin with alike, fewer than any has."""
        self._model = model
        self._cache = GroupCache(n, prefix)
        self._positions = torch.zeros(0, dtype=torch.long, device=model.device)

    @property
    def groups(self) -> int:
        """See `Decoder.groups`."""
        return self._cache.groups

    @property
    def windows(self) -> set[int | None]:
        """Sliding windows that the model's layers have asked for so far."""
        return self._cache.windows

    def admit(self, prompts: Sequence[Tokens]) -> Tensor:
        """See `Decoder.admit`. Prompts are encoded in one row, which holds common beginnings once."""
        device = self._model.device
        # A row needs completions, which are not known yet: any one token will do.
        row = one_row([(prompt, [(0, prompt[-1:])]) for prompt in prompts], self._cache.known)
        layout, last = row.laid_out.to(device), row.predict.to(device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        with self._cache.admitting(layout, lengths):
            logits = self._forward(row.ids.to(device), row.positions.to(device), layout=layout, logits_to_keep=last)
        self._positions = torch.cat([self._positions, lengths.repeat_interleave(self._cache.group)])
        return logits[0].repeat_interleave(self._cache.group, dim=0)

    def go_on(self, tokens: Tensor) -> Tensor:
        """See `Decoder.go_on`."""
        logits = self._forward(tokens[:, None], self._positions[:, None])[:, -1]
        self._cache.advance()
        self._positions = self._positions + 1
        return logits

    def drop(self, finished: Tensor, *, more: bool) -> None:
        """See `Decoder.drop`. Memory is freed once at least a quarter of it is no longer needed.

        The cache stays a rectangle: groups without running rows are removed; the others keep as many rows as the group
        with the most running rows needs, or all n while prompts are waiting, since their groups will have n rows.
        """
        cache = self._cache
        running = cache.running.clone()
        running[cache.running] = ~finished
        cache.run(running)
        self._positions = self._positions[~finished.to(self._positions.device)]
        width = cache.group if more else int(running.sum(1).max())
        groups = running.any(1).nonzero()[:, 0]
        if len(groups) * width <= 0.75 * running.numel():
            order = running[groups].int().argsort(dim=1, descending=True, stable=True)[:, :width]
            cache.keep(groups, order)

    def _forward(self, ids: Tensor, positions: Tensor, **more: Any) -> Tensor:
        cache = self._cache
        out = self._model(
            input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, group_cache=cache, **more
        )
        logits: Tensor = out.logits
        return logits


class PlainDecoder:
    """Decodes with the model's own cache, of any kind. Prompts admitted together share one, padded to the longest."""

    def __init__(self, model: Any, n: int, *, pads: bool) -> None:
        """Args: pads: Whether prompts of different lengths may share a cache; if not, only those of equal length do."""
        self._model = model.get_base_model() if isinstance(model, PeftModel) else model
        self._n = n
        self._pads = pads
        self._parts: list[_Part] = []

    @property
    def groups(self) -> int:
        """See `Decoder.groups`."""
        return sum(part.groups for part in self._parts)

    def admit(self, prompts: Sequence[Tokens]) -> Tensor:
        """See `Decoder.admit`. New prompts get a cache of their own, as not every kind of cache can gain rows."""
        alike = [list(prompts)] if self._pads else [list(g) for _, g in itertools.groupby(prompts, key=len)]
        arriving = [_Part(self._model, group, self._n) for group in alike]
        self._parts += arriving
        return torch.cat([part.first() for part in arriving])

    def go_on(self, tokens: Tensor) -> Tensor:
        """See `Decoder.go_on`."""
        each = torch.split(tokens, [part.rows for part in self._parts])
        return torch.cat([part.go_on(own) for part, own in zip(self._parts, each, strict=True)])

    def drop(self, finished: Tensor, *, more: bool) -> None:
        """See `Decoder.drop`."""
        del more
        for part, own in zip(self._parts, torch.split(finished, [part.rows for part in self._parts]), strict=True):
            part.drop(own)
        self._parts = [part for part in self._parts if part.rows]


class _Part:
    """Rows in one cache. Prompts are padded on the left, so that all rows continue in the same column."""

    def __init__(self, model: Any, prompts: Sequence[Tokens], n: int) -> None:
        self._model, self._prompts, self._n = model, prompts, n
        self._takes = inspect.signature(model.forward).parameters
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        longest = int(max(map(len, prompts)))
        self._ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=model.device)
        # Without padding the model gets no mask: it may not support one.
        self._mask = None
        if longest > min(map(len, prompts)):
            self._mask = torch.arange(longest, device=model.device) >= longest - lengths[:, None]
        self._positions = lengths
        self._memory: Any = None
        self._groups = torch.arange(len(prompts)).repeat_interleave(n)  # index of each running row's prompt
        self._places: Tensor | None = None  # of running rows, in a cache that cannot drop rows; None: all run

    @property
    def rows(self) -> int:
        """Number of running rows."""
        return len(self._groups)

    @property
    def groups(self) -> int:
        """Number of prompts that they belong to."""
        return len(set(self._groups.tolist()))

    def first(self) -> Tensor:
        """Encode each prompt once, and copy its cache entries to each of its rows."""
        longest = self._ids.shape[1]
        positions = torch.arange(longest, device=self._ids.device) - (longest - self._positions[:, None])
        logits = self._forward(self._ids, positions.clamp(min=0))
        rows = torch.arange(len(logits), device=logits.device).repeat_interleave(self._n)
        if not self._moves_rows:  # nor copies them: each row is encoded by itself
            self._memory = None
            self._take(rows)
            self._forward(self._ids, positions.clamp(min=0)[rows])
        else:
            self._take(rows)
        return logits[rows]

    def go_on(self, tokens: Tensor) -> Tensor:
        """Feed one token to each running row."""
        if self._places is not None:
            tokens = self._ids[:, -1].index_copy(0, self._places, tokens)
        self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._positions = self._positions + 1
        if self._memory is None:
            last = torch.arange(self._ids.shape[1], device=self._ids.device) + 1 - self._ids.shape[1]
            logits = self._forward(self._ids, (self._positions[:, None] - 1 + last).clamp(min=0))
        else:
            logits = self._forward(self._ids[:, -1:], self._positions[:, None] - 1)
        return logits if self._places is None else logits[self._places]

    def drop(self, finished: Tensor) -> None:
        """Remove rows. In a cache that cannot drop them, their decoding continues and its results are ignored."""
        if not finished.any():
            return
        self._groups = self._groups[~finished]
        kept = (~finished).nonzero()[:, 0].to(self._ids.device)
        if self._moves_rows:
            self._take(kept)
        else:
            self._places = kept if self._places is None else self._places[kept]

    @property
    def _moves_rows(self) -> bool:
        return self._memory is None or hasattr(self._memory, "reorder_cache")

    def _take(self, rows: Tensor) -> None:
        self._ids, self._positions = self._ids[rows], self._positions[rows]
        self._mask = None if self._mask is None else self._mask[rows]
        if self._memory is not None:
            self._memory.reorder_cache(rows)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        cache = next((name for name in _CACHES if name in self._takes), None)
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": True}
        if cache:
            inputs[cache] = self._memory
        if self._mask is not None:
            inputs["attention_mask"] = self._mask.long()
            if "position_ids" in self._takes:
                inputs["position_ids"] = positions
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = 1
        out = self._model(**inputs)
        self._memory = getattr(out, cache, None) if cache else None
        logits: Tensor = out.logits[:, -1]
        return logits
