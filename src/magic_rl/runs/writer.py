"""The writer of the attack pool that a config names, put to work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from magic_rl.attacks.checks import Checks
from magic_rl.attacks.declining import declines, statements
from magic_rl.attacks.partial import open_partial
from magic_rl.attacks.strategies import STRATEGIES, choose_strategies
from magic_rl.attacks.writer import Progress, Writer, Written, made_with
from magic_rl.config import Config
from magic_rl.errors import UserError
from magic_rl.judges import reading
from magic_rl.judges.acts import Act, act_of
from magic_rl.judges.rules import detect_refusal
from magic_rl.prompts import load_prompts
from magic_rl.runs.judge import make_chat
from magic_rl.types import Seed


def have_written(config: Config, seeds: Sequence[Seed], path: Path, progress: Progress, max_failed: float) -> Written:
    """Every seed with every configured strategy, or with all of them, by the model `config.attacker.writer`.

    Args:
        path: Where answers are kept until all are there; the caller removes it then.
        max_failed: Share of the calls that may fail and be left out.

    Raises:
        UserError: If the model cannot be loaded or asked, its budget is spent, too many calls fail, or the answers
            at `path` were made with something else.
    """
    endpoint = config.attacker.writer
    chosen = choose_strategies(config.attacker.strategies or tuple(STRATEGIES))
    prompts = load_prompts(config.game.prompts)
    chat = make_chat(endpoint, config.engine)
    with open_partial(path, made_with(chat.identity, prompts, seeds)) as partial:
        # A server answers one by one, a model in this process batch by batch.
        batch = 0 if endpoint.url else config.engine.rows_per_batch
        checks = Checks(refuses, same_topic)
        writer = Writer(chat, prompts, checks, partial, progress, max_failed=max_failed, batch=batch)
        try:
            return writer.write(seeds, chosen, config.seed)
        except UserError as error:
            if not partial:
                raise
            raise UserError(f"{error}; {kept(path)}") from error


def kept(path: Path) -> str:
    """How to go on with what was answered."""
    return f"the answers so far are kept in {path}, and the same command goes on from there"


def refuses(text: str) -> bool:
    """Whether a text refuses in so many words: as the rules judge knows them, or to do what a writer is asked to.

    Moral words alone do not: a rewrite may hold those of its seed. Nor does a request that says "cannot".
    """
    normal = reading.normal(text)
    said = reading.unquoted(normal)
    if declines(said):
        return True
    if reading.foreign(normal) is not None:
        return detect_refusal(statements(said)) is True
    if not detect_refusal(text):
        return False
    acts = {act_of(part, "") for part in reading.parts(normal)}
    return Act.REFUSE in acts or acts <= {Act.NO, Act.APOLOGISE}


def same_topic(seed: str, rewrite: str) -> bool:
    """Whether a rewrite shares a content word with its seed, misspelt or not; True where the seed cannot be read."""
    text = reading.normal(seed)
    wanted = reading.stems(text)
    return not wanted or reading.foreign(text) is not None or bool(reading.covered(wanted, reading.normal(rewrite)))
