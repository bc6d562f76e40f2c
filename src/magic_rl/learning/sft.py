"""The supervised stages before the game, both through `forward_backward(cross_entropy)`.

The attacker learns its first skills from an attack pool (METHOD §2). A base model that refuses almost nothing
can be given a short refusal warm-up as defender; real chat models need none.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from magic_rl.attacks.pool import PoolEntry
from magic_rl.config import SftConfig
from magic_rl.engines.base import Policy
from magic_rl.errors import UserError
from magic_rl.game.play import Player, attack, defender_messages, plain_turn, reply
from magic_rl.judges.rules import detect_refusal
from magic_rl.learning.coevolve import Step
from magic_rl.prompts import Prompts
from magic_rl.rng import generator
from magic_rl.text.renderer import Renderer
from magic_rl.types import Adam, CrossEntropy, Datum, Episode, Message, Seed


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation and the assistant message to learn.

    Attributes:
        tagged: Whether `<think>` and `<answer>` around the message's parts are format; else they are plain text.
    """

    messages: Sequence[Message]
    completion: str
    tagged: bool = False


def attacker_examples(pool: Sequence[PoolEntry], prompts: Prompts) -> list[Example]:
    """From an attack pool: the attacker's prompt for a seed, and the thinking and rewrite to learn (METHOD §2)."""
    system = (Message("system", prompts.attacker_system),) if prompts.attacker_system else ()
    return [Example((*system, Message("user", prompts.attacker(e.seed))), e.completion, tagged=True) for e in pool]


def warmup_examples(
    seeds: Sequence[Seed],
    rewrites: Sequence[PoolEntry],
    base: Player,
    prompts: Prompts,
    run_seed: int,
    size: int,
) -> list[Example]:
    """A refusal warm-up that keeps the defender helpful: a third each of three kinds of request.

    Plain harmful requests are refused in words of `prompts.refusals`. Benign requests, plain and rewritten,
    keep the answer the base model itself gives to the plain one, cut to its first sentence: so the model
    learns neither new facts nor that odd wording alone calls for a refusal. Seeds whose answer has no
    whole sentence are left out.

    Args:
        rewrites: Pool entries; the benign ones are used.
        base: The untrained defender, who answers the benign seeds.
        size: Examples that will be learned from. Where there are more seeds, a random part of them is used, as every
            answer has to be sampled.
    """
    rng = generator(run_seed, 0, "warm-up refusals")
    share = math.ceil(size / 3)
    harmful, benign = ([seed for seed in seeds if seed.label == label] for label in ("harmful", "benign"))
    harmful, benign = (
        [of_label[i] for i in sorted(rng.permutation(len(of_label))[:share])] for of_label in (harmful, benign)
    )
    asked = attack([Episode(seed, (), 0) for seed in benign], None, prompts, 1, 0)
    greedy = replace(base, sampling=replace(base.sampling, temperature=0.0))
    answers = {
        episode.seed.id: sentence
        for episode in reply(asked, greedy, prompts, 1, 0)
        if (sentence := first_sentence(episode.reply)) and not detect_refusal(sentence)
    }
    refusals = prompts.refusals.splitlines()
    examples = [
        Example(defender_messages(base, prompts, [plain_turn(seed.text)]), refusals[rng.integers(len(refusals))])
        for seed in harmful
    ]
    plain = [(seed.text, seed.id) for seed in benign]
    kept = {seed.id for seed in benign}
    rewritten = [(entry.attack, entry.seed.id) for entry in rewrites if entry.seed.id in kept]
    chosen = [rewritten[i] for i in rng.permutation(len(rewritten))[: len(plain)]]
    examples += [
        Example(defender_messages(base, prompts, [plain_turn(text)]), answers[seed_id])
        for text, seed_id in plain + chosen
        if seed_id in answers
    ]
    return examples


def read_examples(path: Path) -> list[Example]:
    """Examples from JSONL: `{"messages": [{"role", "content"}, …], "completion": "…"}` a line.

    Raises:
        UserError: For a file that cannot be read, is empty, or a line of another shape.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    out = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            messages = tuple(Message(m["role"], m["content"]) for m in row["messages"])
            out.append(Example(messages, row["completion"], tagged=True))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path}:{number}: expected {{"messages": […], "completion": "…"}} ({error!r})') from error
    if not out:
        raise UserError(f"{path}: holds no examples")
    return out


def first_sentence(text: str) -> str:
    """The text's first sentence if it has at least four words, else "" ."""
    found = re.match(r"\s*(.+?[.!?])(?=\s|$)", text, flags=re.DOTALL)
    sentence = " ".join(found[1].split()) if found else ""
    return sentence if len(sentence.split()) >= 4 else ""


def sft(
    policy: Policy,
    renderer: Renderer,
    examples: Sequence[Example],
    config: SftConfig,
    *,
    stage: str,
    run_seed: int,
    first: int,
    number: int,
) -> Iterator[Step]:
    """Minimise the mean negative log-likelihood per token of the examples' completions (METHOD §2).

    Args:
        first: Steps of this stage already taken.
        number: Optimiser steps the run has taken before.

    Yields:
        One `Step` after each update.
    """
    datums = [Datum(renderer.prompt(e.messages), renderer.completion(e.completion, tagged=e.tagged)) for e in examples]
    for taken in range(first, config.steps):
        began = time.monotonic()
        batch = [datums[i] for i in _batch(len(datums), config.batch, taken, run_seed, stage)]
        tokens = sum(len(datum.tokens) for datum in batch)
        weighted = [Datum(datum.prompt, datum.tokens, weight=1 / tokens) for datum in batch]
        rising = (taken + 1) / (config.warmup_steps + 1)
        falling = (config.steps - taken) / max(1, config.steps - config.warmup_steps)
        adam = Adam(lr=config.lr * min(1.0, rising, falling))
        metrics = {**policy.forward_backward(weighted, CrossEntropy()), **policy.optim_step(adam), "lr": adam.lr}
        seconds = time.monotonic() - began
        yield Step(
            number + taken - first + 1,
            {"step": number + taken - first + 1, "stage": stage, "stage_step": taken + 1, **metrics},
            {"seconds": seconds, "learn_seconds": seconds, "tokens_per_second": tokens / max(seconds, 1e-9)},
        )


def _batch(size: int, batch: int, taken: int, run_seed: int, stage: str) -> list[int]:
    """Indices of one batch: the data in a new order each epoch, every example once an epoch."""
    out: list[int] = []
    position = taken * batch
    while len(out) < batch:
        epoch, offset = divmod(position + len(out), size)
        order = generator(run_seed, epoch, f"{stage} order").permutation(size)
        out += order[offset : offset + batch - len(out)].tolist()
    return out
