"""What the rows of a batch begin with, computed once for all of them.

Rows read the stem's keys and values in place of its tokens. Each row's backward pass leaves its share of their
gradients here, and one pass through the stem carries the sum of them on: the gradients of one long row, in the memory
of the stem and one short row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from magic_rl.engines.local.layout import Layout
from magic_rl.types import Tokens

_Memory = dict[int, tuple[Tensor, Tensor]]  # a layer: keys and values, (1, Hkv, S, d) twice


class Stem:
    """Keys and values that stand before a row's own; what models call of a transformers cache."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """One layer's keys and values of a row, (1, Hkv, L, d), behind those of the stem, (1, Hkv, S + L, d)."""
        before = self._memory[layer_idx]
        return torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)

    def get_seq_length(self, *_: Any) -> int:
        """S."""
        return self._memory[0][0].shape[2]


class _Recorder:
    """Remembers what the layers store."""

    def __init__(self) -> None:
        self.memory: _Memory = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        # A layer whose activations are computed again comes by a second time.
        self.memory.setdefault(layer_idx, (keys, values))
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        return 0


@contextlib.contextmanager
def continuing(model: Any, tokens: Tokens) -> Iterator[Stem | None]:
    """Compute a stem for the rows that are computed, forwards and backwards, within; None if there is none.

    Args:
        model: The model without its head, attending as `attention` says.
    """
    if not tokens:
        yield None
        return
    recorder = _Recorder()
    places = torch.arange(len(tokens), device=model.device)
    model(
        input_ids=torch.tensor([tokens], device=model.device),
        position_ids=places[None],
        layout=Layout([range(len(tokens))], []).to(model.device),
        past_key_values=recorder,
        use_cache=False,
    )
    computed = recorder.memory
    detached = {
        layer: (keys.detach().requires_grad_(keys.requires_grad), values.detach().requires_grad_(values.requires_grad))
        for layer, (keys, values) in computed.items()
    }
    yield Stem(detached)
    learned = [
        (tensor, leaf.grad)
        for layer in computed
        for tensor, leaf in zip(computed[layer], detached[layer], strict=True)
        if leaf.grad is not None
    ]
    if learned:
        torch.autograd.backward([tensor for tensor, _ in learned], [gradient for _, gradient in learned])
