"""Settings of learning: optimisers, the supervised stages, the operating point and GRPO."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from magic_rl.settings import Node, Place

Correction = Literal["none", "token_truncate", "token_mask", "sequence_mask", "geometric_mask"]


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


class TargetConfig(Node):
    """The defender's operating point, held by reweighting benign against harmful requests after each step."""

    compliance: Literal["start"] | Annotated[float, Field(gt=0, le=1)] = Field(
        examples=[0.9, 0.8],
        description="rate (0-1) of benign requests that the defender keeps answering, or 'start': the rate at its "
        "first step",
    )
    gain: NonNegativeFloat = Field(8.0, description="times the present gap, added to the multiplier's logarithm")
    rate: NonNegativeFloat = Field(0.5, description="times the sum of all gaps so far, added likewise")
    max_multiplier: float = Field(
        8.0, gt=1, description="largest weight of benign requests relative to harmful ones; its inverse is the smallest"
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
        1, description="parts that the samples are split into, with one update each; a group stays whole"
    )
    objective: Literal["ppo", "gspo", "cispo"] = Field(
        "ppo",
        description="clips each token's ratio (GRPO), the sequence's (GSPO; clip ranges of 3e-4 and 4e-4 are usual), "
        "or caps it and drops no token (CISPO)",
    )
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: PositiveFloat = 0.2
    correction: Annotated[Literal["auto"] | Correction, BeforeValidator(lambda value: value or "none")] = Field(
        "auto",
        description="for samples drawn by another program than the learner: weight tokens by their truncated ratio, or "
        "mask tokens or sequences whose ratio is outside limits; auto: token_truncate if another program samples",
    )
    look_ahead: bool = Field(
        False,
        description="servers sample the next step while this one is learned from; its samples are then one step behind "
        "and corrected for that; the first step of a turn or after a checkpoint is not sampled ahead",
    )
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
        None, description="holds the defender's compliance; without it all requests weigh the same (paper)"
    )
    max_cut_off: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of a step's episodes cut off at a length limit above which the run stops; with fewer than "
        "20 episodes never below one half; 1: never",
    )
    max_degenerate: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of a step's sampled replies that are no longer language, measured by the untouched model, "
        "above which the run stops; 1: never",
    )
