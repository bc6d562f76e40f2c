"""Sections of settings that only `runs/` reads; those of game, engines and learning are defined in their rooms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from magic_rl.config.judge import EndpointConfig
from magic_rl.engines.settings import LoraConfig
from magic_rl.learning.settings import OptimiserConfig, SftConfig
from magic_rl.settings import Node, Place, unlike_default, whole_path


class SamplingConfig(Node):
    """How a player samples while learning."""

    temperature: PositiveFloat = 1.0
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: PositiveInt = Field(6144, description="longest output; longer ones are cut off, masked and counted")
    max_prompt_tokens: PositiveInt = Field(8192, description="longest prompt; a longer one counts as cut off")


class AttackerSftConfig(SftConfig):
    """Supervised stage of the attacker: it learns the attack pool (METHOD.md §2)."""

    steps: NonNegativeInt = Field(100, description="0 switches the stage off, which is preset magic-base")


class PlayerConfig(Node):
    """One player: its model, its adapter, how it speaks and how it learns."""

    model: Place = Field("default", description="'default' (the demo's model), a hub id or a local folder")
    lora: LoraConfig = LoraConfig()
    sampling: SamplingConfig = SamplingConfig()
    batch_size: PositiveInt = Field(64, description="P: seeds per step, half of them benign; each is played by a group")
    optimiser: OptimiserConfig = OptimiserConfig()
    sft: SftConfig = SftConfig()
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        {}, description="variables of the model's chat template, such as { enable_thinking = false }"
    )


class AttackerConfig(PlayerConfig):
    """The attacker. Its `sft` stage learns the attack pool; without it (steps = 0) it enters the game untrained."""

    strategies: tuple[str, ...] = Field(
        (), examples=[["slang"]], description="strategies in the pool; empty: all that its writer can write"
    )
    pool: Place | None = Field(
        None, examples=["pool.jsonl"], description="attack pool (JSONL) that was built before; else templates write one"
    )
    sft: AttackerSftConfig = AttackerSftConfig()
    writer: EndpointConfig | None = Field(
        None, description="model that writes the pool where one is built; without one: templates"
    )


class DefenderConfig(PlayerConfig):
    """The defender. Its `sft` stage is the refusal warm-up, off for real chat models."""

    system_prompt: Annotated[str, Field(min_length=1)] | None = Field(
        None, examples=["Answer in one short sentence."], description="in place of the model's own default one"
    )


def _whole_sources(seeds: str) -> str:
    """The sources with absolute paths; each is a file, NAME:FILE, or a name, which has no suffix."""
    with suppress(OSError):  # too long for a path
        if Path(seeds).is_file():
            return whole_path(seeds)
    parts = (source.strip().rpartition(":") for source in seeds.split(","))
    return ",".join(name + colon + (whole_path(place) if Path(place).suffix else place) for name, colon, place in parts)


class DataConfig(Node):
    """Seeds: where they are, what their columns are called, and which categories are held out."""

    seeds: Annotated[str, AfterValidator(_whole_sources)] = Field(
        "demo",
        description="'demo', a .jsonl/.csv/.tsv/.parquet file, a datasets id (owner/name, or owner/name:subset), or a "
        "named set; several are joined by commas",
    )
    split: str = Field("train", min_length=1, description="split of a datasets id")
    text_column: str = "text"
    label_column: str = "label"
    category_column: str = "category"
    harmful_values: tuple[str, ...] = Field(("harmful",), examples=[["1"]], description="labels that mean harmful")
    benign_values: tuple[str, ...] = Field(("benign",), examples=[["0"]], description="labels that mean benign")
    held_out_categories: tuple[str, ...] = Field(
        (), examples=[["fraud"]], description="categories never trained on; empty: a fifth of them"
    )
    validation_categories: tuple[str, ...] = Field(
        (), examples=[["fraud"]], description="neither trained on nor held out: to choose settings (evaluation.split)"
    )

    def unread(self) -> Iterator[tuple[str, str]]:
        """Settings that are set though no source of seeds uses them, each with what it needs."""
        # Names of sets have no dot and no slash; NAME:FILE and NAME:PACKAGE are copies of those sets.
        own = [name for name in map(str.strip, self.seeds.split(",")) if not re.match(r"[\w-]{2,}(:|$)", name)]
        for key in unlike_default(self):
            if key == "split" and not any("/" in name and not Path(name).is_absolute() for name in own):
                yield key, "a datasets id such as owner/name in data.seeds"
            elif key.endswith(("_column", "_values")) and not own:
                yield key, f"seeds of your own: {self.seeds!r} has columns that are known"


class StoreConfig(Node):
    """What is kept: checkpoints in the run directory, and answers of judges and writers, shared by all runs."""

    checkpoint_every: PositiveInt = Field(5, description="steps between checkpoints; every round ends with one too")
    keep: int = Field(2, ge=2, description="checkpoints kept for resuming; players of every round are always kept")
    answers: bool | Place = Field(
        True,
        examples=["answers.sqlite"],
        description="whether what judges and writers said is remembered, or the file it is in",
    )


class TrackerConfig(Node):
    """Where a run can be watched from elsewhere; metrics stay in the run directory too."""

    kind: Literal["wandb", "trackio"] | None = Field(
        None,
        examples=["wandb"],
        description="'wandb' or 'trackio', each an extra to install; it gets metrics and the config, and no text",
    )
    project: str = Field("magic-rl", min_length=1, description="what runs are gathered under there")
    exchanges: bool = Field(False, description="whether a seed, the attack and the reply of each step are sent as well")


class EvaluationConfig(Node):
    """What is measured on held-out seeds when a run is evaluated (METHOD.md §9)."""

    split: Literal["held_out", "validation"] = Field(
        "held_out", description="seeds to measure on; choose settings on validation and report on held_out"
    )
    attacks_per_seed: PositiveInt = Field(1, description="rewrites drawn per held-out seed from each attacker")
    temperature: NonNegativeFloat = Field(0.0, description="of the defender; 0 is greedy")
    attacker_temperature: NonNegativeFloat = Field(1.0, description="of the attackers, each at its learned policy")
    max_reply_tokens: PositiveInt = Field(512, description="replies are cut to this before judging, thoughts included")
    max_seeds: PositiveInt = Field(500, description="most held-out seeds used per label, evenly spaced")
    best_of: PositiveInt = Field(
        16, description="attacks per held-out seed by the final fresh attacker, for attack@1, @4 and @16"
    )
    inner_share: float = Field(1.0, gt=0, le=1, description="share of seeds for pairs inside the heatmap, in no table")
