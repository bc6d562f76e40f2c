"""Settings of an engine: where models run, and the shape of adapters."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, field_validator

from magic_rl.plugins import is_plugin
from magic_rl.settings import Node, Place
from magic_rl.text.template import DAY

_URL = r"^https?://[^\s/@?#]+[^\s@?#]*$"  # without a key or password, as it is written into runs


class LoraConfig(Node):
    """Adapter of a policy."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all-linear", examples=[["q_proj", "v_proj"]], description="'all-linear' or a list of layers' names"
    )


KINDS = {
    "local": "magic_rl.engines.local.engine:LocalEngine",
    "tinker": "magic_rl.engines.tinker.engine:TinkerEngine",
}


def _engine(kind: str) -> str:
    if kind in KINDS or is_plugin("engines", kind):
        return kind
    raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}, and no engine of your own (package.module:Name)")


class TinkerConfig(Node):
    """A server of the Tinker API. It is sent every prompt and sample, and may keep them."""

    server: Literal["tinker", "tuft", "skyrl-jax", "skyrl-megatron", "skyrl-fsdp"] = Field(
        "tinker", description="what it is: the hosted service, TuFT, or SkyRL with one of its backends"
    )
    url: Annotated[str, Field(pattern=_URL)] | None = Field(
        None, examples=["http://localhost:8000"], description="its address; else the hosted service's own"
    )
    urls: dict[str, Annotated[str, Field(pattern=_URL)]] = Field(
        {},
        examples=[{"MODEL": "http://localhost:8001"}],
        description="addresses by base model, where two base models have a server each",
    )
    api_key_env: str = Field(
        "TINKER_API_KEY",
        pattern="^[A-Z_][A-Z0-9_]*$",
        examples=["SERVER_KEY"],
        description="environment variable that holds the key, if the server wants one; never the key itself",
    )
    timeout: PositiveFloat = Field(1800.0, description="seconds that one call may take")
    patience: PositiveFloat = Field(600.0, description="seconds that the server may be away before the run stops")


class VllmConfig(Node):
    """vLLM servers that sample: started with the run, or running already."""

    urls: tuple[str, ...] = Field(
        (),
        examples=[["http://localhost:8000/v1"]],
        description="addresses of running servers, at least one per base model; empty: servers are started",
    )
    python: Place | None = Field(
        None,
        examples=["/opt/vllm/bin/python"],
        description="Python of the environment with vLLM, which is never this one; else `vllm` on the PATH",
    )
    devices: tuple[str, ...] = Field(
        (),
        examples=[["1", "2,3"]],
        description="CUDA devices of each server to start; empty: one server, on all devices that this process sees",
    )
    arguments: tuple[str, ...] = Field((), examples=[["-tp", "2"]], description="further arguments of `vllm serve`")
    folder: Place | None = Field(
        None,
        examples=["/shared/adapters"],
        description="folder for logs, and for adapters, which servers read; those on other machines must see it under "
        "the same path; else a temporary one",
    )
    timeout: PositiveFloat = Field(1800.0, description="seconds for one prompt and all its samples")
    patience: PositiveFloat = Field(
        600.0, description="seconds that a server may take to start, or fail, before the run is saved and ends"
    )

    @field_validator("urls")
    @classmethod
    def _addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not re.fullmatch(r"https?://[^\s?@]+/v1/?", url):
                raise ValueError(f"{url!r}: must be like http://localhost:8000/v1")
        return tuple(url.rstrip("/") for url in urls)


class EngineConfig(Node):
    """Where the models run."""

    kind: Annotated[str, AfterValidator(_engine)] = Field(
        "local",
        examples=["magic_rl.engines.local.engine:LocalEngine"],
        description="'local', 'tinker' (weights are on a server), or package.module:Name of an engine of your own, "
        "which is called as LocalEngine is",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="of the frozen base; auto: bfloat16 if this machine multiplies in it, else float32"
    )
    sampler: Literal["local", "vllm"] = Field(
        "local",
        description="what samples: this engine, or vLLM servers beside it, which get each update",
    )
    vllm: VllmConfig = VllmConfig()
    threads: PositiveInt | None = Field(None, examples=[4], description="CPU threads; torch's own choice if not set")
    processes: PositiveInt = Field(
        1,
        examples=[2],
        description="processes that compute in parallel on a CPU and share its threads and each batch, at most one per "
        "thread; each holds a copy of the model; small models are faster in several",
    )
    tokens_per_batch: PositiveInt | None = Field(
        None,
        examples=[4096],
        description="tokens that a process computes at a time while learning, prompts included; completions get half "
        "of them at least, however long the prompt; sampling encodes 8 times as many prompt tokens; else 1280 on a CPU "
        "(640 in float32), or 8192",
    )
    recompute_above: PositiveInt | None = Field(
        None, examples=[4096], description="tokens at a time above which activations are recomputed instead of kept"
    )
    rows_per_batch: PositiveInt = Field(128, description="sequences sampled side by side by each process or server")
    trust_remote_code: bool = Field(False, description="run code that ships with a model; only for models you trust")
    date: datetime.date = Field(
        DAY, description="what chat templates print as today's date, so that no run depends on the day"
    )
    tinker: TinkerConfig = TinkerConfig()

    @property
    def remote(self) -> bool:
        """Whether weights are on a server: none are read here, and each step is saved there."""
        return self.kind == "tinker"

    @property
    def servers(self) -> tuple[int, int]:
        """How many servers sample (0: none), and how many devices each has (0: it shares the one that learns)."""
        if self.sampler == "local":
            return 0, 0
        each = max((len(one.split(",")) for one in self.vllm.devices), default=1 if self.vllm.urls else 0)
        return len(self.vllm.devices) or len(self.vllm.urls) or 1, each
