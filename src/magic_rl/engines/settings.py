"""Settings of an engine: where models run, and the shape of adapters."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from magic_rl.plugins import is_brought
from magic_rl.settings import Node
from magic_rl.text.template import DAY


class LoraConfig(Node):
    """Adapter of a policy."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all-linear", examples=[["q_proj", "v_proj"]], description="'all-linear' or a list of layers' names"
    )


def _engine(kind: str) -> str:
    if kind == "local" or is_brought("engines", kind):
        return kind
    raise ValueError(f"{kind!r} is neither 'local' nor an engine of your own (package.module:Name)")


class EngineConfig(Node):
    """Where the models run."""

    kind: Annotated[str, AfterValidator(_engine)] = Field(
        "local",
        examples=["magic_rl.engines.local.engine:LocalEngine"],
        description="'local', or package.module:Name of an engine of your own, which is called as LocalEngine is",
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
