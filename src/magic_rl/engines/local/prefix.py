"""The common prefix of a batch's rows, computed once for all of them.

Rows read the prefix's keys and values instead of its tokens. Each row's backward pass adds to the gradients of those
keys and values, and one backward pass through the prefix then propagates the sums. This gives the gradients of one long
row in the memory of the prefix and one short row. A cache class of transformers would keep what each row appends, and
append it twice where a layer's activations are recomputed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from magic_rl.engines.local.layout import Layout
from magic_rl.types import Tokens

_Memory = list[tuple[Tensor, Tensor]]  # per layer: keys and values, (1, Hkv, S, d) each


class Prefix:
    """Keys and values that come before those of a row. Implements what models call of a transformers cache."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Put one layer's keys and values of a row, (1, Hkv, L, d), behind those of the prefix: (1, Hkv, S + L, d)."""
        own_keys, own_values = self._memory[layer_idx]
        keys = torch.cat([own_keys.to(keys.dtype), keys], dim=2)
        return keys, torch.cat([own_values.to(values.dtype), values], dim=2)

    def get_seq_length(self, *_: Any) -> int:
        """Length of the prefix, S."""
        return self._memory[0][0].shape[2]


class _Recorder:
    """Records what the layers store, until it is taken."""

    def __init__(self) -> None:
        self._memory: _Memory | None = []

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self._memory is not None:  # a layer whose activations are recomputed calls this a second time
            self._memory.append((keys, values))
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        return 0

    def take(self) -> _Memory:
        """Return what was recorded and let go of it: recomputation keeps this object, and must not keep the tensors."""
        taken, self._memory = self._memory or [], None
        return taken


@contextlib.contextmanager
def continuing(model: Any, tokens: Tokens) -> Iterator[Prefix | None]:
    """Compute a prefix. Rows computed in this context read it; on exit, their gradients are propagated through it.

    Args:
        model: The model without its head, with the attention function of `attention`.
        tokens: The prefix; if it is empty, nothing is computed and the context gives None.
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
    # In float32, so that the rows' contributions to the gradients are not rounded one by one.
    leaves = [part.detach().float().requires_grad_(part.requires_grad) for part in computed]
    yield Prefix(list(zip(leaves[::2], leaves[1::2], strict=True)))
    learned = [
        (part, leaf.grad.to(part.dtype)) for part, leaf in zip(computed, leaves, strict=True) if leaf.grad is not None
    ]
    if learned:
        torch.autograd.backward([part for part, _ in learned], [gradient for _, gradient in learned])
