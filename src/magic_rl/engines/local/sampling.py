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

_BLOCK = 256  # ids summed together when a draw is turned into an id; about the square root of a vocabulary


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
    if params.temperature == 0:
        best = logits.argmax(-1)
        return best, _at(logits.float(), best) - logits.float().logsumexp(-1)
    # Dividing in float32 also when the model computes in less; at temperature 1 softmax itself widens.
    scaled = logits if params.temperature == 1 else logits.float() / params.temperature
    probabilities = torch.softmax(scaled, -1, dtype=torch.float32)
    if params.top_p < 1:
        probabilities = _nucleus(probabilities, params.top_p)
    picked = _invert(probabilities, draws)
    return picked, _at(probabilities, picked).log()


def _invert(probabilities: Tensor, draws: Tensor) -> Tensor:
    """The first id at which the cumulative distribution exceeds each draw.

    Two levels, blocks of ids and then ids of one block: summing is much cheaper than a running sum over the
    whole vocabulary. Rounding may leave totals short of a draw, so draws are scaled and kept below them; every
    choice then has positive probability.
    """
    short = -probabilities.shape[1] % _BLOCK
    padded = torch.nn.functional.pad(probabilities, (0, short)) if short else probabilities
    blocks = padded.view(len(padded), -1, _BLOCK)
    before = torch.nn.functional.pad(blocks.sum(-1).cumsum(-1), (1, 0))
    target = _below(draws.to(before.dtype) * before[:, -1], before[:, -1])
    block = torch.searchsorted(before[:, 1:].contiguous(), target[:, None], right=True)[:, 0]
    within = blocks[torch.arange(len(block), device=block.device), block].cumsum(-1)
    rest = _below(target - _at(before, block), within[:, -1])
    return block * _BLOCK + torch.searchsorted(within, rest[:, None], right=True)[:, 0]


def _below(values: Tensor, bounds: Tensor) -> Tensor:
    return values.minimum(bounds.nextafter(torch.zeros_like(bounds)))


def _at(values: Tensor, columns: Tensor) -> Tensor:
    """One entry a row, shape (rows,)."""
    return values.gather(1, columns[:, None])[:, 0]


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The smallest set of most likely ids whose mass reaches `top_p`, renormalised; zero elsewhere."""
    ordered, order = probabilities.sort(-1, descending=True)
    kept = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter(1, order, kept / kept.sum(-1, keepdim=True))


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
