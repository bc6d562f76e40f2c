"""The update: one batch of datums, one or more passes over it, and the step size (METHOD §3, §11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from magic_rl.game.schedule import Schedule
from magic_rl.learning.arena import Arena
from magic_rl.learning.correction import correct
from magic_rl.learning.datums import minibatches
from magic_rl.learning.objective import importance_sampling_datums
from magic_rl.learning.settings import OptimiserConfig
from magic_rl.rng import generator
from magic_rl.types import PPO, Adam, Datum, ImportanceSampling, Role, Tokens


def learn(arena: Arena, datums: Sequence[Datum], schedule: Schedule, number: int) -> dict[str, float]:
    """One GRPO step on a batch: an update per minibatch, `learning.epochs` times over the same samples.

    A batch without any signal (every group's rewards equal) takes no optimiser step: momentum alone would
    move the policy for no reason.

    Args:
        arena: Holds the learner and the settings.
        datums: From `build_datums`.
        schedule: Whose turn it is, and how many steps the learner has taken.
        number: The step; it decides how minibatches are drawn.

    Returns:
        Means over the updates, and the step size.
    """
    settings, learner = arena.settings, schedule.learner
    learning, policy, sampling = settings.learning, arena.learners[learner], arena.player(learner).sampling
    adam = adam_step(settings.optimisers[learner], schedule.total, schedule.planned(settings.game.schedule))
    if not datums:
        return {"loss": 0.0, "grad_norm": 0.0, "lr": adam.lr}
    sharpened = (sampling.temperature, sampling.top_p) != (1.0, 1.0)
    mismatch: dict[str, float] = {}
    kind = "none" if learning.correction == "auto" else learning.correction  # a run resolves "auto" when it assembles
    if sharpened or kind != "none":
        scored = policy.logprobs(_sequences(datums))
        if sharpened:  # The ratio compares policies at temperature 1, even if the samples were drawn at another.
            datums = [replace(datum, logprobs=old) for datum, old in zip(datums, scored, strict=True)]
        else:
            datums, mismatch = correct(datums, scored, kind)
    updates: list[dict[str, float]] = []
    for epoch in range(learning.epochs):
        for part in minibatches(
            datums, learning.minibatches, generator(settings.rng_seed, number, "minibatches", epoch)
        ):
            metrics = _gradient(arena, learner, part, moved=bool(updates))
            updates.append({**metrics, **policy.optim_step(adam)})
    return {**{key: fmean(update[key] for update in updates) for key in updates[0]}, **mismatch, "lr": adam.lr}


def _gradient(arena: Arena, learner: Role, part: Sequence[Datum], *, moved: bool) -> dict[str, float]:
    """Add the gradient of one minibatch; `moved`: the policy has been updated since the datums were scored."""
    learning, policy = arena.settings.learning, arena.learners[learner]
    if learning.objective == "ppo" and not learning.kl_coef:
        return dict(policy.forward_backward(part, PPO(learning.clip_low, learning.clip_high)))
    current = policy.logprobs(_sequences(part)) if moved else [datum.logprobs for datum in part]
    references = arena.references[learner].logprobs(_sequences(part)) if learning.kl_coef else []
    weighted, metrics = importance_sampling_datums(part, current, references, learning)
    return {**policy.forward_backward(weighted, ImportanceSampling()), **metrics}


def _sequences(datums: Sequence[Datum]) -> list[tuple[Tokens, Tokens]]:
    return [(datum.prompt, datum.tokens) for datum in datums]


def adam_step(optimiser: OptimiserConfig, taken: int, planned: int) -> Adam:
    """AdamW settings of the step after `taken` of `planned` steps: linear warm-up, then constant or linear decay."""
    share = min(1.0, (taken + 1) / optimiser.warmup_steps) if optimiser.warmup_steps else 1.0
    if optimiser.decay == "linear":
        falling = max(1, planned - optimiser.warmup_steps)
        share *= min(1.0, (planned - taken) / falling)
    return Adam(
        lr=optimiser.lr * share,
        beta1=optimiser.beta1,
        beta2=optimiser.beta2,
        eps=optimiser.eps,
        weight_decay=optimiser.weight_decay,
        max_grad_norm=optimiser.max_grad_norm,
    )
