"""Decoding side by side: what comes after each row so far, one token at a time.

`SharedDecoder` encodes every prompt once for all rows of its group. `PlainDecoder` does what any causal model of
transformers can do, for models that cannot take the shared path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from magic_rl.engines.local.attention import GroupCache
from magic_rl.engines.local.packing import side_by_side
from magic_rl.types import Tokens


class Decoder(Protocol):
    """Rows that are decoded together, n for each prompt."""

    @property
    def groups(self) -> int:
        """Prompts that are being decoded for."""
        ...

    def admit(self, prompts: Sequence[Tokens]) -> Tensor:
        """Add n rows for each prompt behind those there are; logits for the first token of each, shape (P * n, V)."""
        ...

    def go_on(self, tokens: Tensor) -> Tensor:
        """Feed one token to each running row, shape (R,); logits for the next, (R, V)."""
        ...

    def drop(self, finished: Tensor, *, more: bool) -> None:
        """Leave finished rows out from now on; the others keep their order.

        Args:
            finished: For each running row, shape (R,), on the CPU.
            more: Whether prompts are waiting to take a group's place.
        """
        ...


class SharedDecoder:
    """Each prompt is encoded once, what all begin with once in all; rows read the same memory. See `attention`."""

    def __init__(self, model: PreTrainedModel, n: int, prefix: int = 0) -> None:
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
        row, device = side_by_side(prompts, self._cache.known), self._model.device
        layout, last = row.layout.to(device), row.predict.to(device)
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
    """The rows of one prompt at a time, with the model's own cache, or without if it keeps none.

    Not every such cache can part with a row, so finished ones are decoded on unseen until the last has finished.
    """

    def __init__(self, model: PreTrainedModel, n: int) -> None:
        self._model = model
        self._n = n
        self._ids = torch.zeros(0, 0, dtype=torch.long, device=model.device)
        self._running = torch.zeros(0, dtype=torch.long, device=model.device)  # which of the rows do
        self._memory: Any = None

    @property
    def groups(self) -> int:
        """See `Decoder.groups`."""
        return int(len(self._running) > 0)

    def admit(self, prompts: Sequence[Tokens]) -> Tensor:
        """See `Decoder.admit`."""
        (prompt,) = prompts
        self._ids, self._memory = torch.tensor([prompt] * self._n, device=self._model.device), None
        self._running = torch.arange(self._n, device=self._model.device)
        return self._forward()

    def go_on(self, tokens: Tensor) -> Tensor:
        """See `Decoder.go_on`."""
        newest = self._ids[:, -1].index_copy(0, self._running, tokens)
        self._ids = torch.cat([self._ids, newest[:, None]], dim=1)
        return self._forward()

    def drop(self, finished: Tensor, *, more: bool) -> None:
        """See `Decoder.drop`."""
        del more
        self._running = self._running[~finished.to(self._running.device)]

    def _forward(self) -> Tensor:
        new = self._ids if self._memory is None else self._ids[:, -1:]
        out = self._model(input_ids=new, past_key_values=self._memory, use_cache=True)
        self._memory = getattr(out, "past_key_values", None)
        logits: Tensor = out.logits[:, -1]
        return logits[self._running]
