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
    """Rows of P prompts, n each, that are decoded together. Rows are numbered p * n + i."""

    def begin(self) -> Tensor:
        """Logits for the first token of every row, shape (P * n, V)."""
        ...

    def go_on(self, tokens: Tensor) -> Tensor:
        """Feed one token to each row still decoded, shape (rows,); logits for the next, (rows, V)."""
        ...

    def drop(self, finished: Sequence[bool]) -> Tensor | None:
        """Leave finished rows out from now on where that pays.

        Args:
            finished: For each row still decoded.

        Returns:
            Which of them stay, in order; None if all do.
        """
        ...


class SharedDecoder:
    """Each prompt is encoded once; its rows read the same memory. See `attention`."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Tokens], n: int, max_tokens: int) -> None:
        """Args: prompts: encoded in one row, where what they begin with alike stands once."""
        self._model = model
        self._row = side_by_side(prompts)
        self._layout = self._row.layout.to(model.device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        self._cache = GroupCache(self._layout, lengths, n, max_tokens)
        self._positions = lengths.repeat_interleave(n)

    @property
    def windows(self) -> set[int | None]:
        """Sliding windows that the model's layers have asked for so far."""
        return self._cache.windows

    def begin(self) -> Tensor:
        """See `Decoder.begin`."""
        row, device = self._row, self._model.device
        logits = self._forward(
            row.ids.to(device), row.positions.to(device), layout=self._layout, logits_to_keep=row.predict.to(device)
        )
        return logits[0].repeat_interleave(self._cache.group, dim=0)

    def go_on(self, tokens: Tensor) -> Tensor:
        """See `Decoder.go_on`."""
        logits = self._forward(tokens[:, None], self._positions[:, None])[:, -1]
        self._cache.advance()
        self._positions = self._positions + 1
        return logits

    def drop(self, finished: Sequence[bool]) -> Tensor | None:
        """See `Decoder.drop`. Rows leave once a quarter has finished.

        The rows stay a rectangle: groups without a running row leave, the others keep as many rows as the
        group with most running ones needs.
        """
        cache = self._cache
        running = ~torch.tensor(finished).view(cache.groups, cache.group)
        width = int(running.sum(1).max())
        groups = running.any(1).nonzero()[:, 0]
        if len(groups) * width > 0.75 * running.numel():
            return None
        order = running[groups].int().argsort(dim=1, descending=True, stable=True)[:, :width]
        rows = groups[:, None] * cache.group + order
        device = self._positions.device
        cache.keep(groups.to(device), rows.to(device))
        kept = rows.reshape(-1)
        self._positions = self._positions[kept.to(device)]
        return kept

    def _forward(self, ids: Tensor, positions: Tensor, **more: Any) -> Tensor:
        cache = self._cache
        out = self._model(
            input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, group_cache=cache, **more
        )
        logits: Tensor = out.logits
        return logits


class PlainDecoder:
    """The rows of one prompt, all of one length, with the model's own cache, or without if it keeps none."""

    def __init__(self, model: PreTrainedModel, prompt: Tokens, n: int) -> None:
        """Args: prompt: of all n rows."""
        self._model = model
        self._ids = torch.tensor([prompt] * n, device=model.device)
        self._memory: Any = None

    def begin(self) -> Tensor:
        """See `Decoder.begin`."""
        return self._forward()

    def go_on(self, tokens: Tensor) -> Tensor:
        """See `Decoder.go_on`."""
        self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)
        return self._forward()

    def drop(self, finished: Sequence[bool]) -> Tensor | None:
        """See `Decoder.drop`. All rows stay."""
        del finished
        return None

    def _forward(self) -> Tensor:
        new = self._ids if self._memory is None else self._ids[:, -1:]
        out = self._model(input_ids=new, past_key_values=self._memory, use_cache=True)
        self._memory = getattr(out, "past_key_values", None)
        logits: Tensor = out.logits[:, -1]
        return logits
