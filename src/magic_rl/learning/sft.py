"""The supervised stages before the game, both through `forward_backward(cross_entropy)`.

The attacker learns its first skills from an attack pool (METHOD §2). A defender that refuses almost nothing
can get a short refusal warm-up; real chat models need none.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from magic_rl.attacks.pool import PoolEntry
from magic_rl.engines.base import Policy
from magic_rl.errors import UserError
from magic_rl.files import read_objects
from magic_rl.game.play import Player, attack, defender_messages, plain_turn, reply
from magic_rl.judges.rules import detect_refusal
from magic_rl.learning.coevolve import Step
from magic_rl.learning.settings import SftConfig
from magic_rl.prompts import Prompts
from magic_rl.rng import generator
from magic_rl.text.renderer import Renderer
from magic_rl.types import Adam, CrossEntropy, Datum, Episode, Message, Seed

_log = logging.getLogger(__name__)

# Chinese and Japanese marks end a sentence by themselves; the others, which a space must follow, are Latin, Arabic,
# Urdu, Indic, Burmese, Khmer, Armenian and Ethiopic.
_SENTENCE = re.compile(r"\s*(.+?(?:[。！？]|[.!?؟۔।॥။៕។։።](?=\s|$)))", re.DOTALL)
_UNSPACED = re.compile("[\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True, slots=True)
class SftStage:
    """A supervised stage of a run, and how far it has come.

    Attributes:
        name: Its name in metrics; the order of examples depends on it.
        rng_seed: Random seed of that order.
        taken: Steps of this stage already taken.
        number: Steps the run has taken before.
    """

    name: str = "sft"
    rng_seed: int = 0
    taken: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation and the assistant message to learn.

    Attributes:
        tagged: Whether `<think>` and `<answer>` around the message's parts are format; else they are plain text.

    Raises:
        ValueError: If there are no messages, or the completion is empty.
    """

    messages: Sequence[Message]
    completion: str
    tagged: bool = False

    def __post_init__(self) -> None:
        if not self.messages or not self.completion.strip():
            raise ValueError("there are no messages, or the completion is empty")


def attacker_examples(pool: Sequence[PoolEntry], prompts: Prompts) -> list[Example]:
    """Examples from an attack pool: the attacker's prompt for a seed, and the thinking and attack to learn (METHOD §2).

    Args:
        pool: Seeds with their attacks.
        prompts: Prompts of the roles.

    Returns:
        One example per entry, in order.
    """
    system = (Message("system", prompts.attacker_system),) if prompts.attacker_system else ()
    return [Example((*system, Message("user", prompts.attacker(e.seed))), e.completion, tagged=True) for e in pool]


def warmup_examples(
    seeds: Sequence[Seed], rewrites: Sequence[PoolEntry], base: Player, rng_seed: int, size: int
) -> list[Example]:
    """A refusal warm-up that keeps the defender helpful: a third each of three kinds of request.

    Plain harmful requests are refused with sentences from `base.prompts.refusals`. Benign requests, plain and
    rewritten, keep the base model's own answer to the plain one, cut to its first sentence. So the model learns
    neither new facts nor that odd wording alone calls for a refusal. Seeds whose answer has no whole sentence or
    refuses are left out, and the log says how many.

    Args:
        seeds: Training seeds.
        rewrites: Pool entries; the benign ones are used.
        base: The untrained defender, which answers the benign seeds.
        rng_seed: Random seed of the choice.
        size: Number of examples that will be learned from. If there are more seeds, a random part of them is used,
            because each answer has to be sampled.

    Raises:
        UserError: If no plain or no rewritten benign request has an answer to learn: the warm-up would teach to
            refuse that kind.
    """
    rng = generator(rng_seed, 0, "warm-up refusals")
    share = math.ceil(size / 3)
    harmful, benign = ([seed for seed in seeds if seed.label == label] for label in ("harmful", "benign"))
    harmful, benign = (
        [of_label[i] for i in sorted(rng.permutation(len(of_label))[:share])] for of_label in (harmful, benign)
    )
    answers = _answers(benign, base)
    refusals = base.prompts.refusals.split("\n")
    examples = [
        Example(defender_messages(base, [plain_turn(seed.text)]), refusals[rng.integers(len(refusals))])
        for seed in harmful
    ]
    plain = [(seed.text, seed.id) for seed in benign]
    kept = {seed.id for seed in benign}
    rewritten = [(entry.attack, entry.seed.id) for entry in rewrites if entry.seed.id in kept]
    chosen = [rewritten[i] for i in rng.permutation(len(rewritten))[: len(plain)]]
    for kind, requests in (("benign", plain), ("rewritten benign", chosen)):
        learned = [
            Example(defender_messages(base, [plain_turn(text)]), answers[seed_id])
            for text, seed_id in requests
            if seed_id in answers
        ]
        found = f"of {len(requests)} {kind} requests {len(learned)} have an answer to learn"
        if not learned:
            lacking = "(a whole first sentence that refuses nothing), so the warm-up would teach to refuse them all"
            raise UserError(f"warm-up: {found} {lacking}", "lessons of your own")
        (_log.warning if 2 * len(learned) < len(requests) else _log.info)("warm-up: %s", found)
        examples += learned
    return examples


def _answers(seeds: Sequence[Seed], base: Player) -> dict[str, str]:
    """The first sentence of the base model's answer to each seed, by the seed's id; refusals are left out."""
    asked = attack([Episode(seed, (), 0) for seed in seeds], None, 1, 0)
    greedy = replace(base, sampling=replace(base.sampling, temperature=0.0))
    answers = {
        episode.seed.id: sentence
        for episode in reply(asked, greedy, 1, 0)
        if (sentence := first_sentence(episode.reply)) and not detect_refusal(sentence)
    }
    if unread := sum(detect_refusal(answer) is None for answer in answers.values()):
        learned = "a refusal among them is not known and is learned as an answer"
        _log.warning("warm-up: %d of %d answers are not in English; %s", unread, len(answers), learned)
    return answers


def read_examples(path: Path) -> list[Example]:
    """Examples from JSONL: `{"messages": [{"role", "content"}, …], "completion": "…"}` per line.

    Raises:
        UserError: For a file that cannot be read, is empty, or a line of another shape.
    """
    return read_objects(path, Example, 'an example {"messages": […], "completion": "…"}')


def first_sentence(text: str) -> str:
    """The text's first sentence if it has at least four words, else an empty text.

    In scripts without spaces between words, eight characters count as four words. Thai has no mark that ends a
    sentence, so none is found in it.
    """
    found = _SENTENCE.match(text)
    sentence = " ".join(found[1].split()) if found else ""
    return sentence if len(sentence.split()) >= 4 or len(_UNSPACED.findall(sentence)) >= 8 else ""


def sft(
    policy: Policy,
    renderer: Renderer,
    examples: Sequence[Example],
    config: SftConfig,
    stage: SftStage = SftStage(),
) -> Iterator[Step]:
    """Minimise the mean negative log-likelihood per token of the examples' completions (METHOD §2).

    Args:
        policy: The policy that learns.
        renderer: The renderer of its model.
        examples: Conversations and the reply to teach for each.
        config: Steps, step size and batch size.
        stage: Where to begin.

    Yields:
        One `Step` after each update.
    """
    datums = [Datum(renderer.prompt(e.messages), renderer.completion(e.completion, tagged=e.tagged)) for e in examples]
    for taken in range(stage.taken, config.steps):
        began = time.monotonic()
        number = stage.number + taken - stage.taken + 1
        batch = [datums[i] for i in _batch(len(datums), config.batch_size, taken, stage)]
        tokens = sum(len(datum.tokens) for datum in batch)
        weighted = [Datum(datum.prompt, datum.tokens, weight=1 / tokens) for datum in batch]
        rising = (taken + 1) / (config.warmup_steps + 1)
        falling = (config.steps - taken) / max(1, config.steps - config.warmup_steps)
        adam = Adam(lr=config.lr * min(1.0, rising, falling))
        metrics = {**policy.forward_backward(weighted, CrossEntropy()), **policy.optim_step(adam), "lr": adam.lr}
        seconds = time.monotonic() - began
        yield Step(
            number,
            {"step": number, "stage": stage.name, "stage_step": taken + 1, **metrics},
            {"seconds": seconds, "learn_seconds": seconds, "tokens_per_second": tokens / max(seconds, 1e-9)},
        )


def _batch(size: int, batch: int, taken: int, stage: SftStage) -> list[int]:
    """Indices of one batch: each epoch has all examples once, in a new order."""
    out: list[int] = []
    position = taken * batch
    while len(out) < batch:
        epoch, offset = divmod(position + len(out), size)
        order = generator(stage.rng_seed, epoch, f"{stage.name} order").permutation(size)
        out += order[offset : offset + batch - len(out)].tolist()
    return out
