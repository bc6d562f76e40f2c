"""Makes engines from settings, one for each base model and shape of adapter, and the servers that sample for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magic_rl.engines.base import Engine
from magic_rl.engines.settings import KINDS, EngineConfig, LoraConfig
from magic_rl.plugins import find
from magic_rl.types import Role


def make_engines(
    models: Mapping[Role, tuple[str | Path, LoraConfig]], config: EngineConfig, rng_seed: int
) -> dict[Role, Engine]:
    """The engine of each role.

    Args:
        models: Folder of each role's base model, or its name on a server, and the shape of its adapter; roles for
            which both are equal share an engine.
        config: Which kind of engine, where it computes, and what samples.
        rng_seed: Random seed for the initialisation of adapters.

    Raises:
        UserError: If a model cannot be loaded, or a server cannot be reached or serves another model.
    """
    if config.sampler == "vllm":
        from magic_rl.engines.vllm.engine import served
        from magic_rl.engines.vllm.process import require_program

        require_program(config.vllm)  # before anything is loaded
    made = find("engines", KINDS.get(config.kind, config.kind))
    loaded: dict[tuple[str | Path, LoraConfig], Any] = {}
    for folder, lora in models.values():
        if (folder, lora) not in loaded:
            loaded[folder, lora] = made(folder, lora, config, rng_seed=rng_seed)
    if config.sampler == "vllm":
        loaded = served(loaded, config)
    return {role: loaded[key] for role, key in models.items()}
