"""Runs the writer of the attack pool that a config names."""

from __future__ import annotations

from collections.abc import Sequence

from magic_rl.attacks.checks import Checks
from magic_rl.attacks.strategies import STRATEGIES, choose_strategies
from magic_rl.attacks.writer import Writer, Written
from magic_rl.chat.memory import Memory
from magic_rl.config import Config
from magic_rl.errors import ConfigError
from magic_rl.judges.rules import detect_refusal, reading
from magic_rl.judges.rules.acts import Act, act_of
from magic_rl.prompts import load_prompts
from magic_rl.runs.judge import make_chat
from magic_rl.text.language import foreign
from magic_rl.types import Seed
from magic_rl.view import View


def have_written(
    config: Config, seeds: Sequence[Seed], memory: Memory | None, view: View, max_failed: float
) -> Written:
    """Have `config.attacker.writer` rewrite every seed with every configured strategy, or with all strategies.

    Args:
        memory: Where its answers are kept.
        max_failed: Share of the calls that may fail and be left out.

    Raises:
        UserError: If the model cannot be loaded or asked, its budget is spent, or too many calls fail.
    """
    if config.attacker.writer is None:
        raise ConfigError("attacker.writer.model: must be given, as it writes the pool")
    chosen = choose_strategies(config.attacker.strategies or tuple(STRATEGIES))
    chat = make_chat(config.attacker.writer, config.engine, "attacker.writer")
    prompts = load_prompts(config.game.prompts)
    writer = Writer(chat, prompts, Checks(refuses, same_topic), memory, max_failed)
    return writer.write(seeds, chosen, config.rng_seed, view)


def refuses(text: str) -> bool:
    """Whether an English text refuses explicitly.

    Moral words alone do not count, because a rewrite may repeat those of its seed.
    """
    acts = {act_of(part, "") for part in reading.parts(reading.normal(text))}
    return detect_refusal(text) is True and (Act.REFUSE in acts or acts <= {Act.NO, Act.APOLOGISE})


def same_topic(seed: str, rewrite: str) -> bool:
    """Whether a rewrite shares a content word with its seed, misspelt or not; True if the seed has none we can read."""
    text = reading.normal(seed)
    wanted = reading.stems(text)
    return not wanted or foreign(text) or bool(reading.covered(wanted, reading.normal(rewrite)))
