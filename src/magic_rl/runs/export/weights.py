"""Adds an adapter to a base's weight files: the adapted tensors change, all others stay as they were stored.

A sum that the stored precision cannot hold lies between two numbers that it can. It is rounded to one of them at
random, with the probability that keeps the mean. Rounding to the nearest would drop every update smaller than half of
a weight's last digit, and with it what was learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from magic_rl.engines.local.models import WEIGHT_INDEX, stored_name, stored_shapes, weight_files
from magic_rl.errors import ModelError
from magic_rl.rng import derive

_Update = tuple[Tensor, Tensor]  # A (r, I) and B with its scale (O, r)


def merge(base: Path, adapter: Path, out: Path, dtype: torch.dtype | None = None) -> float:
    """Write a base's weight files, and the index of several, with an adapter added.

    Args:
        adapter: Folder that `LocalPolicy.save` wrote.
        dtype: Of all floating-point weights written; None keeps each tensor's own.

    Returns:
        Share of the update that is in the written weights: the projection of their change onto it. Rounding the
        base itself to a `dtype` narrower than its own counts as a loss.

    Raises:
        UserError: If an adapted layer is not stored as a weight of its own.
    """
    files, size, kept, whole = weight_files(base), 0, 0.0, 0.0
    updates = _updates(adapter, stored_shapes(base), base)
    generator = torch.Generator().manual_seed(derive(0, 0, "rounding"))
    for file in files:
        tensors = {}
        with safe_open(file, "pt") as stored:
            for name in stored.keys():
                tensor = stored.get_tensor(name)
                target = dtype if dtype and tensor.is_floating_point() else tensor.dtype
                tensors[name] = tensor.to(target)
                if name in updates:
                    down, up = updates[name]
                    change = up @ down
                    tensors[name] = rounded(tensor.float() + change, target, generator)
                    kept += ((tensors[name].float() - tensor.float()) * change).sum(dtype=torch.float64).item()
                    whole += change.square().sum(dtype=torch.float64).item()
            size += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            save_file(tensors, out / file.name, metadata=stored.metadata() or {"format": "pt"})
    if len(files) > 1 or not (base / "model.safetensors").exists():
        index = json.loads((base / WEIGHT_INDEX).read_text(encoding="utf-8"))
        index["metadata"] = {**index.get("metadata", {}), "total_size": size}
        (out / WEIGHT_INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return kept / whole if whole else 1.0


def rounded(exact: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Float32 numbers in `dtype`, each rounded at random to one of its two neighbours so that the mean is kept."""
    near = exact.to(dtype)
    rest = exact - near.float()
    if dtype not in (torch.bfloat16, torch.float16):
        return near
    # Bits of numbers of one sign are ordered by magnitude, so the neighbour away from zero is one more.
    away = (rest > 0) == (near > 0)
    other = (near.view(torch.int16) + away.to(torch.int16) * 2 - 1).view(dtype)
    chance = rest / (other.float() - near.float())
    flips = torch.rand(exact.shape, generator=generator) < chance.where((near != 0) & (rest != 0), 0.0)
    return torch.where(flips, other, near)


def _updates(adapter: Path, stored: Mapping[str, list[int]], base: Path) -> dict[str, _Update]:
    """Updates by name of the tensor that each changes; those that are zero are left out."""
    settings: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(adapter / "adapter_model.safetensors")
    found = {}
    for name in [name for name in tensors if ".lora_A." in name]:
        down = tensors[name]
        up = tensors[name.replace(".lora_A.", ".lora_B.")] * (settings["lora_alpha"] / settings["r"])
        if up.any():
            module = name.removeprefix("base_model.model.").partition(".lora_A.")[0]
            weight = stored_name(module, stored)
            if weight is None or stored[weight] != [len(up), down.shape[1]]:
                raise ModelError(f"{base}: stores no weight of its own for {module}", "export the adapter")
            found[weight] = down.float(), up.float()
    return found
