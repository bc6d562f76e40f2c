"""Drawing completions: each prompt is encoded once, and the samples of many prompts are decoded in parallel.

A token is chosen by inverting the cumulative distribution at a uniform random number. The numbers of each row are fixed
before decoding, so what a row samples does not depend on the rows that it is batched with.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from magic_rl.engines.base import ComputePath
from magic_rl.engines.local.decoding import Decoder, PlainDecoder, SharedDecoder
from magic_rl.types import Finish, Sample, SamplingParams, Tokens
from magic_rl.view import count

# Tokens sampled between two checks for stopped rows. A CPU has the ids at hand; on other devices, reading them waits
# for all queued work, so there stopped rows continue for some tokens, which are discarded.
_UNCHECKED, _UNCHECKED_ELSEWHERE = {"cpu": 1}, 8
_BLOCK = 256  # ids summed together when a draw is turned into an id; about the square root of a vocabulary


@dataclass(frozen=True, slots=True)
class Sampler:
    """A model, and how to sample from it."""

    model: PreTrainedModel | PeftModel
    path: ComputePath  # how the model decodes
    stops: frozenset[int]  # ids that end a sample
    # Most rows decoded in parallel. Waiting prompts take the places of finished ones.
    rows: int
    tokens: int  # most prompt tokens encoded in one forward pass, unless one prompt alone has more
    samples: int  # drawn in all processes, for reports of progress

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[Tokens], params: SamplingParams, draws: Float[np.ndarray, "P n T"]
    ) -> list[list[Sample]]:
        """Draw samples for each of P prompts.

        Args:
            draws: Uniforms in [0, 1), one for each token of each sample.
        """
        n = draws.shape[1]
        groups = max(1, self.rows // n)
        decoder: Decoder = (
            SharedDecoder(self.model, n, common_prefix(prompts))
            if self.path.shares
            else PlainDecoder(self.model, n, pads=self.path.kind == "padded")
        )
        uniforms = torch.from_numpy(draws).float().flatten(0, 1)
        tokens: list[list[int]] = [[] for _ in uniforms]
        logprobs: list[list[float]] = [[] for _ in uniforms]
        finish: list[Finish] = ["length"] * len(tokens)
        # Prompts of similar length are encoded together, so that attention needs little padding.
        waiting = deque(sorted(range(len(prompts)), key=lambda p: len(prompts[p])))
        running = torch.zeros(0, dtype=torch.long)  # rows being decoded
        logits = torch.zeros(0, 0, device=self.model.device)
        while waiting or len(running):
            # Several at a time, as a forward pass over one short prompt costs nearly as much as one over ten.
            admitting = groups - decoder.groups >= max(1, groups // 4)
            while admitting and waiting and decoder.groups < groups:
                arriving = _next(waiting, prompts, groups - decoder.groups, self.tokens)
                first = decoder.admit([prompts[p] for p in arriving])
                logits = torch.cat([logits, first]) if len(running) else first
                running = torch.cat([running, torch.tensor([p * n + i for p in arriving for i in range(n)])])
            done = [len(tokens[row]) for row in running.tolist()]
            unchecked = min(_UNCHECKED.get(self.model.device.type, _UNCHECKED_ELSEWHERE), params.max_tokens - max(done))
            columns = torch.tensor(done)[:, None] + torch.arange(unchecked)
            drawn = _draw(decoder, logits, uniforms[running[:, None], columns].to(self.model.device), params)
            ids, scores = (torch.stack(parts, dim=1).tolist() for parts in zip(*drawn, strict=True))
            for i, row in enumerate(running.tolist()):
                kept = next((k + 1 for k, token in enumerate(ids[i]) if token in self.stops), 0)
                tokens[row] += ids[i][: kept or unchecked]
                logprobs[row] += scores[i][: kept or unchecked]
                finish[row] = "stop" if kept else "length"
            finished = torch.tensor(
                [finish[r] == "stop" or len(tokens[r]) == params.max_tokens for r in running.tolist()]
            )
            chosen = drawn[-1][0]
            if finished.any():
                decoder.drop(finished, more=bool(waiting))
                running, chosen = running[~finished], chosen[~finished.to(chosen.device)]
                over = len(tokens) - n * len(waiting) - len(running)
                count(over * self.samples // len(tokens), self.samples)
            if len(running):
                logits = decoder.go_on(chosen)
        rows = iter(zip(tokens, logprobs, finish, strict=True))
        return [
            [Sample(tuple(prompt), tuple(ids), tuple(scores), end) for ids, scores, end in itertools.islice(rows, n)]
            for prompt in prompts
        ]


def _draw(
    decoder: Decoder, logits: Float[Tensor, "R V"], draws: Float[Tensor, "R steps"], params: SamplingParams
) -> list[tuple[Tensor, Tensor]]:
    """The next tokens of all running rows and their log-probabilities, one step for each column of draws."""
    drawn = [choose(logits, draws[:, 0], params)]
    for step in range(1, draws.shape[1]):
        drawn.append(choose(decoder.go_on(drawn[-1][0]), draws[:, step], params))
    return drawn


def choose(
    logits: Float[Tensor, "R V"], draws: Float[Tensor, " R"], params: SamplingParams
) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"]]:
    """Pick one token per row by inverting the cumulative distribution at `draws`.

    Args:
        logits: Of R rows over a vocabulary of V ids.
        draws: Uniforms in [0, 1).

    Returns:
        Ids and their log-probabilities under the distribution drawn from. Greedy choices (temperature 0)
        carry the log-probability at temperature 1.
    """
    if params.temperature == 0:
        best = logits.argmax(-1)
        return best, _at(logits.float(), best) - logits.float().logsumexp(-1)
    # Divide in float32 even if the model computes in a narrower dtype; at temperature 1, softmax widens.
    scaled = logits if params.temperature == 1 else logits.float() / params.temperature
    probabilities = torch.softmax(scaled, -1, dtype=torch.float32)
    if params.top_p < 1:
        probabilities = _nucleus(probabilities, params.top_p)
    picked = _invert(probabilities, draws)
    return picked, _at(probabilities, picked).log()


def common_prefix(prompts: Sequence[Tokens]) -> int:
    """Length of the common prefix of all prompts, not counting the last token of any."""
    one, other = min(prompts), max(prompts)  # the first and the last in order: what they share, all share
    pairs = zip(one[:-1], other[:-1], strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _next(waiting: deque[int], prompts: Sequence[Tokens], places: int, tokens: int) -> list[int]:
    """Take the next prompts: at least one, at most `places`, and no more than `tokens` together if several."""
    taken = [waiting.popleft()]
    left = tokens - len(prompts[taken[0]])
    while waiting and len(taken) < places and (left := left - len(prompts[waiting[0]])) >= 0:
        taken.append(waiting.popleft())
    return taken


def _invert(probabilities: Float[Tensor, "R V"], draws: Float[Tensor, " R"]) -> Int[Tensor, " R"]:
    """The first id at which the cumulative distribution exceeds each draw.

    It is found in two levels, blocks of ids and then the ids of one block, because sums are much cheaper than a running
    sum over the whole vocabulary. Rounding may leave totals short of a draw, so draws are scaled and kept below them;
    every choice then has positive probability.
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


def _at(values: Float[Tensor, "R V"], columns: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
    return values.gather(1, columns[:, None])[:, 0]


def _nucleus(probabilities: Float[Tensor, "R V"], top_p: float) -> Float[Tensor, "R V"]:
    """The smallest set of most likely ids whose mass reaches `top_p`, renormalised; zero elsewhere."""
    ordered, order = probabilities.sort(-1, descending=True)
    kept = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter(1, order, kept / kept.sum(-1, keepdim=True))
