"""How much arithmetic and memory traffic a step takes, and how long a device needs for it.

Learning and reading prompts are bound by arithmetic; sampling is bound by memory, because all weights are read for
every token of the longest sample. The figures are in hardware.toml; docs/scale.md explains the model.
"""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from magic_rl.errors import UserError
from magic_rl.files import user_path

_BYTES = 2  # per parameter of the base model, in bfloat16


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a dense decoder."""

    hidden: int  # width
    layers: int  # number of layers
    queries: int  # width of all queries
    keys: int  # width of all keys, and of all values
    inner: int  # width inside the feed-forward part
    vocabulary: int  # ids
    tied: bool  # whether the output head shares the embedding's weights

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From the fields of a config.json. Raises KeyError if one is missing."""
        heads = config["num_attention_heads"]
        size = config.get("head_dim") or config["hidden_size"] // heads
        return cls(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            queries=heads * size,
            keys=(config.get("num_key_value_heads") or heads) * size,
            inner=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings")),
        )

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each linear layer of one block."""
        h, q, k, i = self.hidden, self.queries, self.keys, self.inner
        names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        return dict(zip(names, ((h, q), (h, k), (h, k), (q, h), (h, i), (h, i), (i, h)), strict=True))

    @property
    def body(self) -> int:
        """Parameters of all blocks."""
        return self.layers * sum(a * b for a, b in self.linear.values())

    @property
    def head(self) -> int:
        """Parameters of the output head."""
        return self.hidden * self.vocabulary

    @property
    def weights(self) -> int:
        """Bytes of the model's weights."""
        return _BYTES * (self.body + self.head * (1 if self.tied else 2))

    @property
    def cached(self) -> int:
        """Bytes of the KV cache per token."""
        return _BYTES * 2 * self.layers * self.keys

    def forward(self, tokens: float, seen: float, predicted: float) -> float:
        """Floating-point operations of a forward pass.

        Args:
            tokens: Tokens that go through the model.
            seen: Positions that each token attends to, on average.
            predicted: Tokens whose logits are computed.
        """
        return 2 * self.body * tokens + 4 * self.layers * self.queries * tokens * seen + 2 * self.head * predicted


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device."""

    name: str
    flops: float  # per second, dense bfloat16
    bandwidth: float  # bytes per second
    memory: float  # bytes
    dollars: float  # per hour; 0 if it is not rented out
    learn: float  # share of `flops` that learning reaches
    prefill: float  # share of `flops` that reading prompts reaches
    reached: float  # share of `bandwidth` that sampling reaches
    layer: float  # seconds per layer and token, for any batch, with CUDA graphs
    eager: float  # the same without CUDA graphs


@dataclass(frozen=True, slots=True)
class Samples:
    """What one player samples in one step."""

    prompts: float  # prompts, each encoded once
    prompt: float  # tokens of a prompt
    rows: float  # samples in all
    mean: float  # tokens of a sample
    longest: float  # tokens of the longest
    rounds: int = 1  # parts that are sampled one after another

    @property
    def tokens(self) -> float:
        """Tokens of all samples."""
        return self.rows * self.mean


@dataclass(frozen=True, slots=True)
class Samplers:
    """The devices that sample."""

    gpu: Gpu  # what each device is
    count: int = 1  # engines side by side, each with all weights
    devices: int = 1  # devices of each engine
    at_once: int = 256  # samples that one engine decodes side by side
    eager: bool = False  # whether kernels are launched one by one, without CUDA graphs


def sampling_flops(samples: Samples, shape: Shape) -> float:
    """Floating-point operations of reading prompts and sampling."""
    read = shape.forward(samples.prompts * samples.prompt, samples.prompt / 2, samples.prompts)
    return read + shape.forward(samples.tokens, samples.prompt + samples.mean / 2, samples.tokens)


def sampling_seconds(samples: Samples, shape: Shape, samplers: Samplers) -> float:
    """Seconds to read prompts and take one pass per token of the longest sample, or more if not all fit at once.

    A pass reads all weights, and the KV cache of the samples that have not ended.
    """
    gpu, engines = samplers.gpu, samplers.count
    flops, bandwidth = gpu.flops * samplers.devices, gpu.bandwidth * gpu.reached * samplers.devices
    seconds = sampling_flops(samples, shape) / (engines * flops * gpu.prefill)
    passes = max(samples.rounds * samples.longest, samples.tokens / (engines * samplers.at_once))
    started = shape.layers * (gpu.eager if samplers.eager else gpu.layer)
    seconds += passes * (shape.weights / bandwidth + started)
    context = samples.tokens * (samples.prompt + samples.mean / 2)
    return seconds + context * shape.cached / (engines * bandwidth)


@functools.cache
def figures() -> dict[str, Any]:
    """The tables of hardware.toml."""
    return tomllib.loads((resources.files("magic_rl.runs") / "hardware.toml").read_text(encoding="utf-8"))


def device(name: str) -> Gpu:
    """A device by its name in hardware.toml; case and hyphens do not matter.

    Raises:
        UserError: If there is no such device.
    """
    known: dict[str, dict[str, float]] = figures()["gpus"]
    found = next((each for each in known if each.lower() == name.lower().replace("-", "")), None)
    if found is None:
        raise UserError(f"{name}: is none of {', '.join(known)}")
    return Gpu(name=found, **{**figures()["reached"], **known[found]})


def shape_of(model: str) -> Shape:
    """The shape of a model: one of hardware.toml, a folder, or a hub model that was fetched before.

    Raises:
        UserError: If the shape is not known here, or the model is not a dense decoder.
    """
    known: dict[str, dict[str, Any]] = figures()["models"]
    if model in known:
        return Shape.of(known[model])
    file = user_path(model) / "config.json"
    if not file.is_file():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, "config.json") if model.count("/") == 1 else None
        if not isinstance(cached, str):
            raise UserError(f"{model}: its shape is not known here", "fetch the model", model=model)
        file = Path(cached)
    fields = json.loads(file.read_text(encoding="utf-8"))
    fields = {**fields, **(fields.get("text_config") or {})}
    if any(fields.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise UserError(f"{model}: is a mixture of experts; only dense models can be planned")
    try:
        return Shape.of(fields)
    except KeyError as error:
        raise UserError(f"{model}: its config.json has no {error}; only dense decoders can be planned") from error
