"""Drawing completions: each prompt is encoded once, then all samples of all groups decode side by side.

Token choice inverts the cumulative distribution at one uniform number a token. The numbers are drawn before
decoding from `(seed, row)`, so what a row samples does not depend on which rows it is batched with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from magic_rl.engines.local.decoding import Decoder, PlainDecoder, SharedDecoder
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
    *,
    shares: bool,
) -> list[list[Sample]]:
    """Draw `n` samples for each prompt; see `Policy.sample`.

    Args:
        rows_per_batch: Rows decoded side by side. Prompts of similar length are batched together.
        shares: Whether the model can encode a prompt once for its whole group.
    """
    draws = torch.from_numpy(uniforms(seed, len(prompts) * n, params.max_tokens)).float()
    out: dict[int, list[Sample]] = {}
    by_length = sorted(range(len(prompts)), key=lambda p: len(prompts[p]))
    width = max(1, rows_per_batch // n) if shares else 1
    for start in range(0, len(prompts), width):
        chosen = by_length[start : start + width]
        batch = [prompts[p] for p in chosen]
        decoder: Decoder = (
            SharedDecoder(model, batch, n, params.max_tokens) if shares else PlainDecoder(model, batch[0], n)
        )
        rows = [p * n + i for p in chosen for i in range(n)]
        drawn = _sample_rows(decoder, draws[rows].to(model.device), params, stop_ids)
        for place, p in enumerate(chosen):
            out[p] = [
                Sample(tuple(prompts[p]), tuple(tokens), tuple(logprobs), "stop" if stopped else "length")
                for tokens, logprobs, stopped in drawn[place * n : (place + 1) * n]
            ]
    return [out[p] for p in range(len(prompts))]


def _sample_rows(
    decoder: Decoder, draws: Tensor, params: SamplingParams, stop_ids: frozenset[int]
) -> list[tuple[list[int], list[float], bool]]:
    """Tokens, their log-probabilities and whether a stop id ended them, for each row.

    Args:
        draws: Uniforms, shape (rows, max_tokens).
    """
    stops = torch.tensor(sorted(stop_ids), device=draws.device)
    tokens: list[list[int]] = [[] for _ in range(len(draws))]
    logprobs: list[list[float]] = [[] for _ in tokens]
    finished = [False] * len(tokens)
    alive = torch.arange(len(tokens))  # the row in each decoded place
    logits = decoder.begin()
    for step in range(params.max_tokens):
        chosen, chosen_logprobs = choose(logits, draws[alive, step], params)
        ended = torch.isin(chosen, stops).tolist()
        for place, (row, token, logprob) in enumerate(
            zip(alive.tolist(), chosen.tolist(), chosen_logprobs.tolist(), strict=True)
        ):
            if finished[row]:  # decoded on only because its place is
                continue
            tokens[row].append(token)
            logprobs[row].append(logprob)
            finished[row] = ended[place]
        if step + 1 == params.max_tokens or all(finished):
            break
        kept = decoder.drop([finished[row] for row in alive.tolist()])
        if kept is not None:
            alive, chosen = alive[kept], chosen[kept]
        logits = decoder.go_on(chosen)
    return list(zip(tokens, logprobs, finished, strict=True))


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
