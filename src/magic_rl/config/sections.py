"""The sections of the settings, each a model that refuses unknown keys and impossible values."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from magic_rl.config.asked import EndpointConfig
from magic_rl.config.node import Node, Place, unlike_default, whole_path
from magic_rl.plugins import is_brought

DAY = datetime.date(2026, 1, 1)  # any day will do, as long as it is the same for all runs


class RewardConfig(Node):
    """Weights of METHOD.md §4."""

    harm: NonNegativeFloat = Field(1.0, description="r_harm: +/- when the reply is safe / not safe")
    refusal: NonNegativeFloat = Field(0.5, description="r_ref: +/- when refused exactly what is harmful")
    format: NonNegativeFloat = Field(0.5, description="r_fmt: +/- on the attacker's output format")
    label: NonNegativeFloat = Field(0.0, description="r_label: +/- when the attack keeps the seed's label; 0 is off")
    quality: NonNegativeFloat = Field(
        0.0, description="r_quality: the defender's, -/+ on benign seeds as the judge finds the reply useless / helpful"
    )
    length: NonNegativeFloat = Field(0.0, description="r_length: the most that the defender loses for a long reply")
    length_free_tokens: PositiveInt = Field(
        256, description="tokens of a reply that cost nothing; twice as many cost all"
    )
    request_label: Literal["seed", "judge"] = Field(
        "seed", description="whose label makes a request harmful: the seed's (paper) or the judge's of the attack"
    )


class ScheduleConfig(Node):
    """Whose turn it is to learn (METHOD.md §3). A round is one turn of each player."""

    kind: Literal["ratio", "metric"] = Field("ratio", description="fixed steps each, or hand over at a safe rate")
    rounds: PositiveInt = Field(10, description="K: how many times each player takes its turn")
    defender_steps: NonNegativeInt = Field(15, description="T_D: steps a turn (metric: the most steps a turn)")
    attacker_steps: NonNegativeInt = Field(15, description="T_A: steps a turn (metric: the most steps a turn)")
    high: float = Field(0.90, ge=0, le=1, description="metric: defender hands over at this safe rate or above")
    low: float = Field(0.80, ge=0, le=1, description="metric: attacker hands over at this safe rate or below")
    window: PositiveInt = Field(3, description="metric: steps averaged before comparing")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.defender_steps + self.attacker_steps == 0:
            raise ValueError("defender_steps and attacker_steps are both 0: nobody would learn")
        if self.kind == "metric" and self.low > self.high:
            raise ValueError("low is above high: both players would hand over at once")
        return self


class GameConfig(Node):
    """The game (METHOD.md §1, §5)."""

    turns: PositiveInt = Field(1, description="T: turns of a conversation; judged on the last")
    rewrite: bool = Field(True, description="false plays the seeds as they are (no-game)")
    plain_share: float = Field(
        0.0, ge=0, lt=1, description="share of the defender's seeds that open as they are, not rewritten"
    )
    shared_parameters: bool = Field(False, description="one policy plays both roles (self-play)")
    defender_thinks: bool = Field(False, description="the defender thinks first, with a format reward (defender-cot)")
    prompts: Place | None = Field(
        None, examples=["brief"], description="'brief' or 'paper', or a folder of files in place of the built-in ones"
    )
    rewards: RewardConfig = RewardConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    opponents: Literal["last", "uniform", "nash"] = Field(
        "last",
        description="whom the learner meets: the other player as it is, or a mixture of all its rounds' versions, each "
        "as likely (uniform) or by the equilibrium of the payoffs between versions (nash)",
    )
    opponent_seeds: int = Field(32, ge=2, description="nash: seeds on which each pair of versions is played once")


class LoraConfig(Node):
    """Adapter of a policy."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all-linear", examples=[["q_proj", "v_proj"]], description="'all-linear' or a list of layers' names"
    )


class SamplingConfig(Node):
    """How a player speaks while learning."""

    temperature: PositiveFloat = 1.0
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: PositiveInt = Field(6144, description="longest output; longer ones are cut off, masked and counted")
    max_prompt_tokens: PositiveInt = Field(8192, description="longest prompt; a longer one counts as cut off")


class OptimiserConfig(Node):
    """AdamW."""

    lr: PositiveFloat = Field(
        1e-5, description="of the adapter; the paper's 1e-6 is for all weights, and adapters take about ten times that"
    )
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    warmup_steps: NonNegativeInt = Field(0, description="linear warm-up, counted in the player's own steps")
    decay: Literal["constant", "linear"] = Field("constant", description="after warm-up; linear ends near 0")


class SftConfig(Node):
    """Supervised stage before the game: for the defender, a refusal warm-up."""

    steps: NonNegativeInt = Field(0, description="0 switches the stage off")
    batch_size: PositiveInt = Field(16, description="examples per step")
    lr: PositiveFloat = 2e-4
    warmup_steps: NonNegativeInt = 5
    examples: Place | None = Field(
        None, examples=["examples.jsonl"], description="JSONL; else made from the training seeds"
    )


class AttackerSftConfig(SftConfig):
    """Supervised stage of the attacker: it learns the attack pool (METHOD.md §2)."""

    steps: NonNegativeInt = Field(100, description="0 switches the stage off, which is preset magic-base")


class PlayerConfig(Node):
    """One player: its model, its adapter, how it speaks and how it learns."""

    model: Place = Field("default", description="'default' (embedded), a hub id or a local folder")
    lora: LoraConfig = LoraConfig()
    sampling: SamplingConfig = SamplingConfig()
    batch_size: PositiveInt = Field(64, description="P: seeds per step, half of them benign; each is played by a group")
    optimiser: OptimiserConfig = OptimiserConfig()
    sft: SftConfig = SftConfig()
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        {}, description="variables of the model's chat template, such as { enable_thinking = false }"
    )


class AttackerConfig(PlayerConfig):
    """The attacker. Its `sft` stage learns the attack pool; without it (steps = 0) it enters the game untaught."""

    strategies: tuple[str, ...] = Field(
        (), examples=[["slang"]], description="strategies in the pool; empty: all that its writer can write"
    )
    pool: Place | None = Field(
        None, examples=["pool.jsonl"], description="from `magic-rl pool build`; else templates write it from the seeds"
    )
    sft: AttackerSftConfig = AttackerSftConfig()
    writer: EndpointConfig | None = Field(
        None, description="model that writes the pool for `magic-rl pool build`; without one: templates"
    )


class DefenderConfig(PlayerConfig):
    """The defender. Its `sft` stage is the refusal warm-up, off for real chat models."""

    system_prompt: Annotated[str, Field(min_length=1)] | None = Field(
        None, examples=["Answer in one short sentence."], description="in place of the model's own default one"
    )


def _whole_sources(seeds: str) -> str:
    """The sources with whole paths: each is a file, NAME:FILE, or a name, which has no suffix."""
    if Path(seeds).is_file():
        return whole_path(seeds)
    parts = (source.strip().rpartition(":") for source in seeds.split(","))
    return ",".join(name + colon + (whole_path(place) if Path(place).suffix else place) for name, colon, place in parts)


class DataConfig(Node):
    """Seeds: where they are, how their columns are called, and which categories are held out."""

    seeds: Annotated[str, AfterValidator(_whole_sources)] = Field(
        "demo",
        description="'demo', a .jsonl/.csv/.tsv/.parquet file, a datasets id (owner/name, or owner/name:subset), or a "
        "named set (`magic-rl data list`); several are joined by commas",
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
        """Settings that no source of seeds is read by though they are set, each with what it needs."""
        # Names of sets have no dot and no slash; NAME:FILE and NAME:PACKAGE are copies of those sets.
        own = [name for name in map(str.strip, self.seeds.split(",")) if not re.match(r"[\w-]{2,}(:|$)", name)]
        for key in unlike_default(self):
            if key == "split" and not any("/" in name and not Path(name).is_absolute() for name in own):
                yield key, "a datasets id such as owner/name in data.seeds"
            elif key.endswith(("_column", "_values")) and not own:
                yield key, f"seeds of your own: {self.seeds!r} has columns that are known"


class TargetConfig(Node):
    """The defender's operating point, held by weighing benign against harmful requests from step to step."""

    compliance: Literal["start"] | Annotated[float, Field(gt=0, le=1)] = Field(
        examples=[0.9, 0.8],
        description="rate (0-1) of benign requests that the defender goes on answering, or 'start': what it answers at "
        "its first step",
    )
    gain: NonNegativeFloat = Field(8.0, description="what the present gap adds to the multiplier's logarithm")
    rate: NonNegativeFloat = Field(0.5, description="what each step's gap adds to it for good")
    max_multiplier: float = Field(
        8.0, gt=1, description="most that benign requests may weigh relative to harmful ones; its inverse is the least"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.gain + self.rate:
            raise ValueError("gain and rate are both 0: nothing would hold the target")
        return self


class LearningConfig(Node):
    """GRPO (METHOD.md §3)."""

    group_size: int = Field(4, ge=2, description="G: samples for the same input")
    epochs: PositiveInt = Field(1, description="passes over the same samples; 1, in one minibatch, is on-policy")
    minibatches: PositiveInt = Field(
        1, description="parts that the samples are split into, an update each; a group stays whole"
    )
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: PositiveFloat = 0.2
    kl_coef: NonNegativeFloat = Field(0.0, description="β: weight of KL(π_θ ‖ π_ref)")
    reference: Literal["start", "base"] = Field("start", description="π_ref: the policy after SFT, or the base model")
    reduction: Literal["sequence", "token"] = Field(
        "sequence", description="mean over tokens then sequences (GRPO), or over all tokens of the step (DAPO)"
    )
    scale_by_std: bool = Field(
        True, description="divide by the standard deviation of the baseline's set; false is Dr. GRPO"
    )
    baseline: Literal["group", "label", "mixture"] = Field(
        "group",
        description="what a reward is compared with: the mean of its group (GRPO), of all the step's samples for "
        "requests with the same label, or half of each",
    )
    dynamic_sampling: NonNegativeInt = Field(
        0,
        description="batches of seeds that a step may draw beyond the first to replace groups without signal (DAPO)",
    )
    target: TargetConfig | None = Field(
        None, description="holds the defender's compliance; without it rewards weigh as they are (paper)"
    )
    max_cut_off: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of a step cut off at a length limit above which the run stops; of fewer than 20 episodes it "
        "takes half, however small this is; 1: never",
    )
    max_degenerate: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of a step's sampled replies that are no longer language, measured by the untouched model, "
        "above which the run stops; 1: never",
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


class StoreConfig(Node):
    """The run directory."""

    checkpoint_every: PositiveInt = Field(5, description="steps between checkpoints; every round ends with one too")
    keep: int = Field(2, ge=2, description="checkpoints kept for resuming; players of every round are always kept")


class EvaluationConfig(Node):
    """What is measured on held-out seeds when a run is evaluated (METHOD.md §9)."""

    split: Literal["held_out", "validation"] = Field(
        "held_out", description="seeds to measure on; choose settings on validation and report on held_out"
    )
    attacks_per_seed: PositiveInt = Field(1, description="rewrites drawn per held-out seed from each attacker")
    temperature: NonNegativeFloat = Field(0.0, description="of the defender; 0 is greedy")
    attacker_temperature: NonNegativeFloat = Field(1.0, description="of the attackers, each at its learned policy")
    max_reply_tokens: PositiveInt = Field(512, description="replies are cut to this before judging, thoughts included")
    max_seeds: PositiveInt | None = Field(None, examples=[100], description="held-out seeds used per label; else all")
    best_of: PositiveInt = Field(
        16, description="`magic-rl attack`: attacks per held-out seed by the final attacker, for attack@1, @4 and @16"
    )
    inner_share: float = Field(1.0, gt=0, le=1, description="of these, used for pairs inside the heatmap, in no table")
