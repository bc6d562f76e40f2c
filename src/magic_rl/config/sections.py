"""The sections of the settings, each a model that refuses unknown keys and impossible values."""

from __future__ import annotations

import datetime
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

DAY = datetime.date(2026, 1, 1)  # any day will do, as long as it is the same for all runs
JudgeKind = Literal["rules", "qwen3guard", "wildguard", "llama-guard", "shieldgemma", "llm"]


class Node(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


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
    length_free: PositiveInt = Field(256, description="tokens of a reply that cost nothing; twice as many cost all")
    request_label: Literal["seed", "judge"] = Field(
        "seed",
        description="whose label makes a request harmful: the seed's (paper) or the judge's of the attack",
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
    prompts: str = Field(
        "", description="'brief' or 'paper' (built in), or a folder of prompt files that replace the built-in ones"
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
    targets: str = Field("all-linear", description="'all-linear' or comma-separated module names")


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
    batch: PositiveInt = 16
    lr: PositiveFloat = 2e-4
    warmup_steps: NonNegativeInt = 5
    examples: str = Field("", description="JSONL of examples; empty: made from the training seeds")


class AttackerSftConfig(SftConfig):
    """Supervised stage of the attacker: it learns the attack pool (METHOD.md §2)."""

    steps: NonNegativeInt = Field(100, description="0 switches the stage off, which is preset magic-base")


class PlayerConfig(Node):
    """One player: its model, its adapter, how it speaks and how it learns."""

    model: str = Field("default", description="'default' (embedded), a hub id or a local folder")
    system_prompt: str = Field("", description="defender only: replaces the model's own default system prompt")
    lora: LoraConfig = LoraConfig()
    sampling: SamplingConfig = SamplingConfig()
    seeds_per_step: NonNegativeInt = Field(0, description="seeds of its own steps; 0: learning.seeds_per_step")
    optimiser: OptimiserConfig = OptimiserConfig()
    sft: SftConfig = SftConfig()
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        {}, description="variables of the model's chat template, such as { enable_thinking = false }"
    )


class EndpointConfig(Node):
    """A model that only answers: behind an OpenAI-compatible server, or in this process."""

    url: str = Field("", description="of an OpenAI-compatible server, ending in /v1; empty: run in this process")
    model: str = Field("", description="its name at the server; in this process a hub id or a local folder")
    tokenizer: str = Field(
        "",
        description="hub id or folder of a tokenizer whose chat template is rendered here, for servers that do not "
        "render the model's own (Ollama, llama.cpp without --jinja); empty: the server renders",
    )
    api_key_env: str = Field(
        "",
        pattern="^[A-Z0-9_]*$",
        description="environment variable that holds the key; never the key itself",
    )
    concurrency: PositiveInt = Field(16, description="calls under way at once")
    timeout: PositiveFloat = Field(60.0, description="seconds for one call")
    total_timeout: NonNegativeFloat = Field(0.0, description="seconds for one batch of calls; 0: no limit")
    attempts: PositiveInt = Field(5, description="tries of a call before it counts as failed")
    max_calls: NonNegativeInt = Field(0, description="calls that one process may make, retries included; 0: no limit")
    max_total_tokens: NonNegativeInt = Field(0, description="tokens that one process may use; 0: no limit")

    @model_validator(mode="after")
    def _names_a_server(self) -> Self:
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is no number or too large, or half an IPv6 address
            sound = False
        if self.url and (not sound or " " in self.url or not self.url.isprintable()):
            raise ValueError("url must be like http://localhost:8000/v1, without spaces, its port at most 65535")
        if parts.username or parts.password or parts.query:
            raise ValueError("url must hold no key or password: it is written into runs; use api_key_env")
        if self.tokenizer and not self.url:
            raise ValueError("tokenizer is for a model behind a server: name it in url, or leave tokenizer out")
        return self


class AttackerConfig(PlayerConfig):
    """The attacker. Its `sft` stage learns the attack pool; without it (steps = 0) it enters the game untaught."""

    strategies: tuple[str, ...] = Field((), description="strategies in the pool; empty: all that its writer can write")
    pool: str = Field("", description="attack pool (JSONL) from `magic-rl pool build`; empty: built from the seeds")
    sft: AttackerSftConfig = AttackerSftConfig()
    writer: EndpointConfig = Field(
        EndpointConfig(), description="model that writes the pool for `magic-rl pool build`; without one: templates"
    )


class DefenderConfig(PlayerConfig):
    """The defender. Its `sft` stage is the refusal warm-up, off for real chat models."""


_SILENT_ON_REFUSALS: frozenset[JudgeKind] = frozenset({"llama-guard", "shieldgemma"})


class JudgeMemberConfig(Node):
    """One judge and the model it asks."""

    kind: JudgeKind = "rules"
    endpoint: EndpointConfig = EndpointConfig()
    threshold: float = Field(0.5, gt=0, le=1, description="llm: score (0-1) from which a harmful request counts as met")

    @model_validator(mode="after")
    def _names_a_model(self) -> Self:
        if self.kind != "rules" and not self.endpoint.model:
            raise ValueError(f"kind {self.kind!r} asks a model: name it in endpoint.model")
        if self.kind == "rules" and (self.endpoint.model or self.endpoint.url):
            raise ValueError(
                "kind is 'rules', which asks nobody, but endpoint names a model; set kind to what that model is, or "
                "empty endpoint.model and endpoint.url"
            )
        if self.kind != "llm" and self.threshold != 0.5:
            raise ValueError(f"threshold is for kind 'llm'; kind {self.kind!r} gives labels, not scores")
        return self


class JudgeConfig(JudgeMemberConfig):
    """Who labels, and how much silence is tolerated."""

    members: tuple[JudgeMemberConfig, ...] = Field((), description="several judges in place of the one above")
    rule: Literal["majority", "strictest"] = Field("majority", description="how members come to one verdict")
    cache: str = Field("", description="file of remembered verdicts; empty: in the user's cache; 'off': none")
    retries: NonNegativeInt = Field(1, description="how often an abstention is asked again")
    max_abstained: float = Field(0.05, ge=0, le=1, description="share of a step above which the run stops")

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if self.members and (self.kind != "rules" or self.endpoint.model):
            raise ValueError(f"kind {self.kind!r} stands beside members, which would replace it; make it one of them")
        if {member.kind for member in self.members or (self,)} <= _SILENT_ON_REFUSALS:
            raise ValueError(
                "no judge here labels refusals (llama-guard and shieldgemma do not); list it in members together with "
                "one that does: rules, qwen3guard, wildguard or llm"
            )
        if not self.members and self.rule != "majority":
            raise ValueError(f"rule {self.rule!r} is how members come to one verdict, and there are no members")
        return self


class DataConfig(Node):
    """Seeds: where they are, how their columns are called, and which categories are held out."""

    seeds: str = Field(
        "demo",
        description="'demo', a .jsonl/.csv/.tsv/.parquet file, a datasets id (owner/name, or owner/name:subset), or a "
        "named set (`magic-rl data list`); "
        "several are joined by commas",
    )
    split: str = Field("train", min_length=1, description="split of a datasets id")
    text_column: str = "text"
    label_column: str = "label"
    category_column: str = "category"
    harmful_values: tuple[str, ...] = Field(("harmful",), description="label values that mean harmful")
    benign_values: tuple[str, ...] = Field(("benign",), description="label values that mean benign")
    held_out_categories: tuple[str, ...] = Field((), description="categories never trained on; empty: a fifth of them")
    validation_categories: tuple[str, ...] = Field(
        (), description="categories neither trained on nor held out: for choosing settings (evaluation.split)"
    )


class TargetConfig(Node):
    """The defender's operating point, held by weighing benign against harmful requests from step to step."""

    compliance: float | Literal["start", "off"] = Field(
        "off",
        description="rate (0-1) of benign requests that the defender goes on answering; 'start': what it answers at "
        "its first step; 'off': rewards weigh as they are (paper)",
    )
    gain: NonNegativeFloat = Field(
        8.0, description="how much the present gap, target − measured rate, adds to the multiplier's logarithm"
    )
    rate: NonNegativeFloat = Field(0.5, description="how much each step's gap adds to that logarithm for good")
    max_multiplier: float = Field(
        8.0, gt=1, description="most that benign requests may weigh relative to harmful ones; its inverse is the least"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.compliance != "off" and not self.gain + self.rate:
            raise ValueError("gain and rate are both 0: nothing would hold the target")
        if not isinstance(self.compliance, str) and not 0 < self.compliance <= 1:
            raise ValueError("compliance must be above 0 and at most 1, 'start' or 'off'")
        return self


class LearningConfig(Node):
    """GRPO (METHOD.md §3)."""

    seeds_per_step: PositiveInt = Field(64, description="P: half of them benign")
    group: int = Field(4, ge=2, description="G: samples for the same input")
    epochs: PositiveInt = Field(1, description="passes over the same samples; 1, in one minibatch, is on-policy")
    minibatches: PositiveInt = Field(
        1, description="parts that the samples are split into, an update each; a group stays whole"
    )
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: PositiveFloat = 0.2
    kl: NonNegativeFloat = Field(0.0, description="β: weight of KL(π_θ ‖ π_ref)")
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
        description="batches of seeds that a step may draw beyond the first to replace groups without signal (DAPO); "
        'needs baseline = "group"',
    )
    target: TargetConfig = TargetConfig()
    max_cut_off: float = Field(
        0.5, ge=0, le=1, description="share of a step cut off at a length limit above which the run stops; 1: never"
    )
    max_degenerate: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of a step's sampled replies that are no longer language, measured by the untouched model, "
        "above which the run stops; 1: never",
    )


class EngineConfig(Node):
    """Where the models run."""

    kind: Literal["local"] = "local"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="of the frozen base, adapters being float32; auto: bfloat16 if this machine multiplies in it, else "
        "float32",
    )
    threads: NonNegativeInt = Field(0, description="CPU threads; 0 leaves it to torch")
    tokens_per_batch: NonNegativeInt = Field(
        0,
        description="tokens computed at a time while learning, prompts included; behind a long prompt completions may "
        "be half as many; sampling takes 8 times as many of prompts; 0: 1280 on a CPU (640 in float32), else 8192",
    )
    recompute_above: NonNegativeInt = Field(
        0, description="more tokens than these at a time keep no activations but compute them again; 0: all keep them"
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
    max_seeds: NonNegativeInt = Field(0, description="held-out seeds used per label; 0 is all")
    best_of: PositiveInt = Field(
        16, description="`magic-rl attack`: attacks per held-out seed by the final attacker, for attack@1, @4 and @16"
    )
    inner_share: float = Field(1.0, gt=0, le=1, description="of these, used for pairs inside the heatmap, in no table")
