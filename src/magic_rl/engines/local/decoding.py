"""Decoding side by side: what comes after each row so far, one token at a time.

`SharedDecoder` lets all rows of a group read one memory of their prompt. `PlainDecoder` asks nothing of a causal model
but what transformers' own `generate` does, for models that cannot take the shared path.
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

_CACHES = ("past_key_values", "cache_params")  # what models call what they remember


@runtime_checkable
class Decoder(Protocol):
    """Rows that are decoded together, n for each prompt."""

    @property
    def groups(self) -> int:
        """Prompts that are being decoded for."""

    def admit(self, prompts: Sequence[Tokens]) -> Tensor:
        """Add n rows for each prompt behind those there are; logits for the first token of each, shape (P * n, V)."""

    def go_on(self, tokens: Tensor) -> Tensor:
        """Feed one token to each running row, shape (R,); logits for the next, (R, V)."""

    def drop(self, finished: Tensor, *, more: bool) -> None:
        """Leave finished rows out from now on; the others keep their order.

        Args:
            finished: For each running row, shape (R,), on the CPU.
            more: Whether prompts are waiting to take a group's place.
        """


class SharedDecoder:
    """Each prompt is encoded once, what all begin with once in all; rows read the same memory. See `attention`."""

    def __init__(self, model: PreTrainedModel | PeftModel, n: int, prefix: int = 0) -> None:
        """Args: prefix: Tokens that all prompts ever to be admitted begin with alike, fewer than any has."""
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
        """See `Decoder.admit`. Prompts are encoded in one row, where what they begin with alike stands once."""
        device = self._model.device
        # What follows a prompt is not known yet: any one token will do.
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
        """See `Decoder.drop`. Their memory goes once a quarter of it is of no more use.

        The memory stays a rectangle: groups without a running row leave, the others keep as many rows as the
        group with most running ones needs, or all n as long as groups of n rows are to join them.
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
    """The model's own cache, of any kind: prompts that are admitted together fill one up to the longest."""

    def __init__(self, model: Any, n: int, *, pads: bool) -> None:
        """Args: pads: Whether prompts of different lengths may be side by side; else those of equal length are."""
        self._model = model.get_base_model() if isinstance(model, PeftModel) else model
        self._n = n
        self._pads = pads
        self._parts: list[_Part] = []

    @property
    def groups(self) -> int:
        """See `Decoder.groups`."""
        return sum(part.groups for part in self._parts)

    def admit(self, prompts: Sequence[Tokens]) -> Tensor:
        """See `Decoder.admit`. They join no cache that is in use, as not every kind can grow by a row."""
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
    """Rows in one cache: prompts filled up on the left, so that all rows continue in the same column."""

    def __init__(self, model: Any, prompts: Sequence[Tokens], n: int) -> None:
        self._model, self._prompts, self._n = model, prompts, n
        self._takes = inspect.signature(model.forward).parameters
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        longest = int(max(map(len, prompts)))
        self._ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=model.device)
        # A model that was not asked to pad is not given a mask either: it may not know what to do with one.
        self._mask = None
        if longest > min(map(len, prompts)):
            self._mask = torch.arange(longest, device=model.device) >= longest - lengths[:, None]
        self._positions = lengths
        self._memory: Any = None
        self._groups = torch.arange(len(prompts)).repeat_interleave(n)  # of the running rows
        self._places: Tensor | None = None  # of the running rows in a cache that keeps all; None if it has no others

    @property
    def rows(self) -> int:
        """Rows that run."""
        return len(self._groups)

    @property
    def groups(self) -> int:
        """Prompts that they are for."""
        return len(set(self._groups.tolist()))

    def first(self) -> Tensor:
        """Encode each prompt once, and give each row its own copy of what is remembered."""
        longest = self._ids.shape[1]
        positions = torch.arange(longest, device=self._ids.device) - (longest - self._positions[:, None])
        logits = self._forward(self._ids, positions.clamp(min=0))
        rows = torch.arange(len(logits), device=logits.device).repeat_interleave(self._n)
        if not self._moves_rows:  # nor can it copy one: each row is encoded itself
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
        """Leave rows out; a cache that cannot part with them decodes them on, unseen."""
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
