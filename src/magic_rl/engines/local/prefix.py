"""What the rows of a batch begin with, computed once for all of them.

Rows read the prefix's keys and values in place of its tokens. Each row's backward pass leaves its share of their
gradients here, and one pass through the prefix carries the sum of them on: the gradients of one long row, in the memory
of the prefix and one short row. A cache of transformers' own would keep what each row appends, and append twice where a
layer's activations are computed again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from magic_rl.engines.local.layout import Layout
from magic_rl.types import Tokens

_Memory = list[tuple[Tensor, Tensor]]  # a layer: keys and values, (1, Hkv, S, d) twice


class Prefix:
    """Keys and values that stand before a row's own; what models call of a transformers cache."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """One layer's keys and values of a row, (1, Hkv, L, d), behind those of the prefix, (1, Hkv, S + L, d)."""
        own_keys, own_values = self._memory[layer_idx]
        keys = torch.cat([own_keys.to(keys.dtype), keys], dim=2)
        return keys, torch.cat([own_values.to(values.dtype), values], dim=2)

    def get_seq_length(self, *_: Any) -> int:
        """S."""
        return self._memory[0][0].shape[2]


class _Recorder:
    """Remembers what the layers store, until that is taken."""

    def __init__(self) -> None:
        self._memory: _Memory | None = []

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self._memory is not None:  # a layer whose activations are computed again comes by a second time
            self._memory.append((keys, values))
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        return 0

    def take(self) -> _Memory:
        """Give away what there is: whoever computes a layer again holds on to this object, and must to nothing else."""
        taken, self._memory = self._memory or [], None
        return taken


@contextlib.contextmanager
def continuing(model: Any, tokens: Tokens) -> Iterator[Prefix | None]:
    """Compute a prefix. Rows computed within read it, and on leaving, their gradients go back through it.

    Args:
        model: The model without its head, attending as `attention` says.
        tokens: None is computed for none.
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
    computed = [part for pair in recorder.take() for part in pair]
    # In float32, so that what rows add to the gradients is not rounded one by one.
    leaves = [part.detach().float().requires_grad_(part.requires_grad) for part in computed]
    yield Prefix(list(zip(leaves[::2], leaves[1::2], strict=True)))
    learned = [
        (part, leaf.grad.to(part.dtype)) for part, leaf in zip(computed, leaves, strict=True) if leaf.grad is not None
    ]
    if learned:
        torch.autograd.backward([part for part, _ in learned], [gradient for _, gradient in learned])
