"""The losses: in closed form, and compared with TRL's GRPO on the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from magic_rl.engines.losses import token_losses
from magic_rl.learning.datums import build_datums
from magic_rl.learning.objective import importance_sampling_datums
from magic_rl.learning.settings import LearningConfig
from magic_rl.types import (
    PPO,
    CrossEntropy,
    Datum,
    Episode,
    ImportanceSampling,
    Loss,
    Outcome,
    Rewards,
    Sample,
    Seed,
    Turn,
    Verdict,
)


def losses(
    loss: Loss, ratio: Sequence[float], advantage: float = 1.0
) -> tuple[list[float], list[float], dict[str, float]]:
    """Losses, their gradients in log π_θ, and metrics of tokens with given ratios."""
    logprobs = torch.full((len(ratio),), -1.5, dtype=torch.float64, requires_grad=True)
    old = logprobs.detach() - torch.tensor(ratio, dtype=torch.float64).log()
    advantages = torch.full_like(old, advantage)
    values, metrics = token_losses(loss, logprobs, old=old, advantages=advantages)
    (gradient,) = torch.autograd.grad(values.sum(), logprobs)
    return values.tolist(), gradient.tolist(), {key: value.item() for key, value in metrics.items()}


def test_cross_entropy_is_the_negative_log_likelihood_and_asks_for_nothing_else() -> None:
    logprobs = torch.tensor([-0.1, -2.0], requires_grad=True)
    values, metrics = token_losses(CrossEntropy(), logprobs, old=None, advantages=None)
    assert values.tolist() == pytest.approx([0.1, 2.0])
    assert metrics == {}


def test_on_policy_ppo_and_importance_sampling_have_the_policy_gradient() -> None:
    for loss in (PPO(), ImportanceSampling()):
        _, gradient, metrics = losses(loss, [1.0, 1.0], advantage=-0.7)
        assert gradient == pytest.approx([0.7, 0.7])
        assert metrics["ratio"] == pytest.approx(1.0)


def test_ppo_clips_only_on_the_side_the_advantage_pushes_to() -> None:
    loss = PPO(clip_low=0.2, clip_high=0.3)
    ratio = [0.5, 0.9, 1.1, 1.5]
    values, gradient, metrics = losses(loss, ratio, advantage=2.0)
    assert values == pytest.approx([-1.0, -1.8, -2.2, -2.6])
    assert gradient == pytest.approx([-1.0, -1.8, -2.2, 0.0])
    assert metrics["clip_fraction"] == 0.25

    values, gradient, metrics = losses(loss, ratio, advantage=-2.0)
    assert values == pytest.approx([1.6, 1.8, 2.2, 3.0])
    assert gradient == pytest.approx([0.0, 1.8, 2.2, 3.0])
    assert metrics["clip_fraction"] == 0.25


def test_importance_sampling_never_clips() -> None:
    values, gradient, metrics = losses(ImportanceSampling(), [0.1, 5.0], advantage=2.0)
    assert values == gradient == pytest.approx([-0.2, -10.0])
    assert metrics["ratio"] == pytest.approx(2.55)


@pytest.mark.parametrize("loss", [PPO(), ImportanceSampling()])
def test_a_loss_with_a_ratio_refuses_to_guess_the_old_policy(loss: Loss) -> None:
    with pytest.raises(ValueError, match="sampled with"):
        token_losses(loss, torch.zeros(1), old=None, advantages=torch.zeros(1))


PROMPTS = ((5, 6, 7), (8,), (9, 10, 11, 12), (13, 14))
COMPLETIONS = ((20, 21, 22, 23, 24), (25, 26), (27,), (28, 29, 30, 31, 32, 33, 34))
ADVANTAGES = (1.3, -0.4, 0.8, -1.7)


@pytest.fixture(scope="module")
def noise() -> tuple[list[Tensor], list[Tensor]]:
    """How far log π_old and log π_ref are from log π_θ, for each completion: enough for many tokens to be clipped."""
    generator = torch.Generator().manual_seed(0)
    old, reference = ([0.4 * torch.randn(len(c), generator=generator) for c in COMPLETIONS] for _ in range(2))
    return old, reference


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize(("loss_type", "reduction"), [("grpo", "sequence"), ("dapo", "token")])
def test_loss_and_gradient_equal_those_of_trl(
    loss_type: str,
    reduction: Literal["sequence", "token"],
    beta: float,
    noise: tuple[list[Tensor], list[Tensor]],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        new = [_logprobs(model, prompt, tokens) for prompt, tokens in zip(PROMPTS, COMPLETIONS, strict=True)]
    old = [n + shift for n, shift in zip(new, noise[0], strict=True)]
    reference = [n + shift for n, shift in zip(new, noise[1], strict=True)]

    theirs = _trl_loss(model, tiny_model, tmp_path, loss_type, beta, old, reference)
    torch.autograd.backward(theirs)
    expected = _take_gradients(model)

    learning = LearningConfig(clip_high=0.28, kl_coef=beta)
    datums = _datums(old, reduction)
    order = [PROMPTS.index(datum.prompt) for datum in datums]
    chosen = [tuple(reference[position].tolist()) for position in order] if beta else []
    folded, metrics = importance_sampling_datums(
        datums, [tuple(new[position].tolist()) for position in order], chosen, learning
    )
    assert metrics["clip_fraction"] > 0
    for loss, taught in ((PPO(0.2, 0.28), datums), (ImportanceSampling(), folded)):
        if beta and taught is datums:
            continue  # the engine's own loss has no KL term
        total = sum((_weighted(model, loss, datum) for datum in taught), torch.zeros(()))
        torch.autograd.backward(total)
        if taught is datums:
            assert total.item() == pytest.approx(theirs.item(), abs=1e-5)
        for name, gradient in _take_gradients(model).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5, msg=name)
            assert gradient.abs().max() > 1e-4  # the comparison is not one of zeros


def _weighted(model: Any, loss: Loss, datum: Datum) -> Tensor:
    old, advantages = (torch.tensor(values) for values in (datum.logprobs, datum.advantages))
    logprobs = _logprobs(model, datum.prompt, datum.tokens)
    return datum.weight * token_losses(loss, logprobs, old=old, advantages=advantages)[0].sum()


def _datums(old: Sequence[Tensor], reduction: Literal["sequence", "token"]) -> list[Datum]:
    """The batch as the learning loop makes it, so that the reduction is compared with TRL's too."""
    outcomes = []
    for prompt, tokens, logprobs in zip(PROMPTS, COMPLETIONS, old, strict=True):
        sample = Sample(prompt, tokens, tuple(logprobs.tolist()), "stop")
        turn = Turn("attack", "", True, None, "reply", sample)
        episode = Episode(Seed("s", "seed", "harmful"), (turn,), group=0)
        outcomes.append(Outcome(episode, Verdict(), Rewards(0, 0, 0, 0, 0, 0)))
    return build_datums(outcomes, ADVANTAGES, "defender", reduction=reduction)


def _logprobs(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """log π of each token, one unpadded sequence at a time."""
    logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1)[range(len(tokens)), torch.tensor(tokens)]


def _trl_loss(
    model: Any,
    folder: Path,
    tmp_path: Path,
    loss_type: str,
    beta: float,
    old: Sequence[Tensor],
    reference: Sequence[Tensor],
) -> Tensor:
    """The loss that TRL's own trainer computes for the batch."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda **_: [0.0],
        args=GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            per_device_train_batch_size=len(PROMPTS),
            gradient_accumulation_steps=1,
            gradient_checkpointing=False,
            num_generations=len(PROMPTS),
            loss_type=loss_type,
            beta=beta,
            epsilon=0.2,
            epsilon_high=0.28,
            use_bias_correction_kl=False,  # k3 as GRPO states it, not multiplied by the ratio
        ),
        train_dataset=Dataset.from_list([{"prompt": "x"}]),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.current_gradient_accumulation_steps = 1  # what `train` would set

    def pad(rows: Sequence[Any], side: Literal["left", "right"]) -> Tensor:
        tensors = [torch.as_tensor(row) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_side=side)

    inputs = {
        "prompt_ids": pad(PROMPTS, "left"),
        "prompt_mask": pad([[1] * len(p) for p in PROMPTS], "left"),
        "completion_ids": pad(COMPLETIONS, "right"),
        "completion_mask": pad([[1] * len(c) for c in COMPLETIONS], "right"),
        "advantages": torch.tensor(ADVANTAGES),
        "old_per_token_logps": pad(old, "right"),
        "ref_per_token_logps": pad(reference, "right"),
        "num_items_in_batch": torch.tensor(sum(map(len, COMPLETIONS))),
    }
    loss: Tensor = trainer.compute_loss(trainer.model, inputs)
    return loss


def _take_gradients(model: Any) -> dict[str, Tensor]:
    """Every parameter's gradient, and clear them."""
    out = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return out
