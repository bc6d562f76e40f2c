"""Drawing completions: each prompt is encoded once, then all samples of all groups decode side by side.

Token choice inverts the cumulative distribution at one uniform number a token. The numbers are drawn before
decoding from `(seed, row)`, so what a row samples does not depend on which rows it is batched with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from magic_rl.engines.local.attention import GroupCache
from magic_rl.rng import uniforms
from magic_rl.types import Sample, SamplingParams, Tokens


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    n: int,
    params: SamplingParams,
    seed: int,
    stop_ids: frozenset[int],
    rows_per_batch: int,
) -> list[list[Sample]]:
    """Draw `n` samples for each prompt; see `Policy.sample`.

    Args:
        rows_per_batch: Rows decoded side by side. Prompts of similar length are batched together.
    """
    draws = torch.from_numpy(uniforms(seed, len(prompts) * n, params.max_tokens))
    out: dict[int, list[Sample]] = {}
    by_length = sorted(range(len(prompts)), key=lambda p: len(prompts[p]))
    width = max(1, rows_per_batch // n)
    for start in range(0, len(prompts), width):
        chosen = by_length[start : start + width]
        rows = [p * n + i for p in chosen for i in range(n)]
        batch = _sample_batch(model, [prompts[p] for p in chosen], n, params, draws[rows], stop_ids)
        out.update(zip(chosen, batch, strict=True))
    return [out[p] for p in range(len(prompts))]


def _sample_batch(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    n: int,
    params: SamplingParams,
    draws: Tensor,
    stop_ids: frozenset[int],
) -> list[list[Sample]]:
    device = model.device
    lengths = torch.tensor([len(p) for p in prompts])
    padded = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = torch.tensor(prompt)
    cache = GroupCache(lengths.to(device), n, params.max_tokens)
    logits = _last_logits(model, padded.to(device), lengths.to(device), cache).repeat_interleave(n, dim=0)

    stops = torch.tensor(sorted(stop_ids), device=device)
    draws = draws.to(device)
    tokens: list[list[int]] = [[] for _ in range(len(prompts) * n)]
    logprobs: list[list[float]] = [[] for _ in tokens]
    finished = [False] * len(tokens)
    alive = torch.arange(len(tokens))  # flat row of each decoded slot; slots form a (groups, group) grid
    position = lengths.repeat_interleave(n).to(device)
    for step in range(params.max_tokens):
        chosen, chosen_logprobs = choose(logits, draws[alive, step], params)
        ended = torch.isin(chosen, stops).tolist()
        for slot, (row, token, logprob) in enumerate(
            zip(alive.tolist(), chosen.tolist(), chosen_logprobs.tolist(), strict=True)
        ):
            if finished[row]:  # a slot that only fills the grid
                continue
            tokens[row].append(token)
            logprobs[row].append(logprob)
            finished[row] = ended[slot]
        if step + 1 == params.max_tokens or all(finished):
            break
        kept = _compact(cache, alive, finished)
        if kept is not None:
            alive, chosen, position = alive[kept], chosen[kept], position[kept]
        logits = _next_logits(model, chosen, position, cache)
        position = position + 1
    return [
        [
            Sample(
                prompt=tuple(prompt),
                tokens=tuple(tokens[row]),
                logprobs=tuple(logprobs[row]),
                finish="stop" if finished[row] else "length",
            )
            for row in range(p * n, (p + 1) * n)
        ]
        for p, prompt in enumerate(prompts)
    ]


def choose(logits: Tensor, draws: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Pick one token a row by inverting the cumulative distribution at `draws`.

    Args:
        logits: Shape (rows, vocabulary).
        draws: Uniforms in [0, 1), shape (rows,).

    Returns:
        Ids and their log-probabilities under the distribution drawn from, each of shape (rows,). Greedy
        choices (temperature 0) carry the log-probability at temperature 1.
    """
    logits = logits.float()
    if params.temperature == 0:
        best = logits.argmax(-1)
        return best, torch.log_softmax(logits, -1).gather(1, best[:, None])[:, 0]
    logprobs = torch.log_softmax(logits / params.temperature, -1)
    if params.top_p < 1:
        logprobs = _nucleus(logprobs, params.top_p)
    cumulative = logprobs.exp().cumsum(-1)
    # Rounding may leave the total short of 1, and a draw just below 1 equal to it. Scaling the draw by the total and
    # staying below that keeps every choice on an id of positive probability.
    total = cumulative[:, -1:]
    target = (draws.to(cumulative.dtype)[:, None] * total).minimum(total.nextafter(torch.zeros_like(total)))
    picked = torch.searchsorted(cumulative, target, right=True)[:, 0]
    return picked, logprobs.gather(1, picked[:, None])[:, 0]


def _nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    """Renormalised log-probabilities of the smallest set of ids whose mass reaches `top_p`."""
    ordered, order = logprobs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= top_p)
    return torch.log_softmax(logprobs.masked_fill(dropped, float("-inf")), -1)


def _compact(cache: GroupCache, alive: Tensor, finished: Sequence[bool]) -> Tensor | None:
    """Shrink the grid of decoded slots once a quarter of it has finished; the kept slots, or None.

    The grid stays rectangular: groups without a running row leave, the others keep as many slots as the
    group with most running rows needs.
    """
    running = torch.tensor([not finished[row] for row in alive.tolist()]).view(cache.groups, cache.group)
    width = int(running.sum(1).max())
    groups = running.any(1).nonzero()[:, 0]
    if len(groups) * width > 0.75 * running.numel():
        return None
    order = running[groups].int().argsort(dim=1, descending=True, stable=True)[:, :width]
    slots = groups[:, None] * cache.group + order
    device = cache.prompt(0)[0].device
    cache.keep(groups.to(device), slots.to(device))
    return slots.reshape(-1)


def _last_logits(model: PreTrainedModel, ids: Tensor, lengths: Tensor, cache: GroupCache) -> Tensor:
    """Encode right-padded prompts (P, Lp) into the cache; logits after each prompt's last token, (P, V)."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    # Only these positions go through the vocabulary projection: (distinct last positions) × P rows at most.
    last, where = torch.unique(lengths - 1, return_inverse=True)
    logits = model(
        input_ids=ids,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=last,
        group_cache=cache,
    ).logits
    chosen: Tensor = logits[torch.arange(ids.shape[0], device=ids.device), where]
    return chosen


def _next_logits(model: PreTrainedModel, tokens: Tensor, positions: Tensor, cache: GroupCache) -> Tensor:
    """Feed one token a row, shape (rows,); logits for the next, (rows, V)."""
    logits: Tensor = model(
        input_ids=tokens[:, None],
        position_ids=positions[:, None],
        past_key_values=cache,
        use_cache=True,
        group_cache=cache,
    ).logits[:, -1]
    cache.advance()
    return logits
