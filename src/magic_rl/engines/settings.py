"""Settings of an engine: where models run, and the shape of adapters."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from magic_rl.plugins import is_brought
from magic_rl.settings import Node
from magic_rl.text.template import DAY

_URL = r"^https?://[^\s/@?#]+[^\s@?#]*$"  # which holds no key or password: it is written into runs


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
    if kind in KINDS or is_brought("engines", kind):
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
    threads: PositiveInt | None = Field(None, examples=[4], description="CPU threads; torch's own choice if not set")
    tokens_per_batch: PositiveInt | None = Field(
        None,
        examples=[4096],
        description="tokens computed at a time while learning, prompts included; behind a long prompt completions may "
        "be half as many; sampling takes 8 times as many of prompts; else 1280 on a CPU (640 in float32), or 8192",
    )
    recompute_above: PositiveInt | None = Field(
        None, examples=[4096], description="tokens at a time above which activations are not kept but computed again"
    )
    rows_per_batch: PositiveInt = Field(128, description="sequences sampled side by side")
    trust_remote_code: bool = Field(False, description="run code that ships with a model; only for models you trust")
    date: datetime.date = Field(
        DAY, description="what a chat template that prints today's date is told, so that no run depends on its day"
    )
    tinker: TinkerConfig = TinkerConfig()

    @property
    def remote(self) -> bool:
        """Whether weights are on a server of somebody's: none are read here, and every step is saved there."""
        return self.kind == "tinker"
