"""Every exchange of an evaluation as an `evidence.items.Item`, so that another judge can label the same replies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from magic_rl.evaluation.crossplay import Cell
from magic_rl.evidence.items import Item, Judged, hash_of
from magic_rl.game.play import Player
from magic_rl.types import Episode


def transcripts(cells: Sequence[tuple[str, Cell]], defender: Player, model: str, judge: str) -> Iterator[Item]:
    """One defender's exchanges with all attackers.

    Args:
        cells: Name of each attacker, and the results of its attacks.
        model: The defender's name.
        judge: Name of the judge that gave the verdicts.
    """
    for attacker, cell in cells:
        met = Counter[str]()
        # Cut-offs are in the order of the games: harmful seeds first.
        for (episode, verdict), cut_off in zip((*cell.harmful, *cell.benign), cell.cut_off, strict=True):
            seed = episode.seed
            met[seed.id] += 1
            yield replace(
                Item.about(seed),
                set="evaluation",
                id=f"{attacker}: {seed.id} #{met[seed.id]}",
                model=model,
                method=attacker,
                attack=episode.attack,
                request=hash_of(json.dumps(_shown(episode, defender))),
                reply=episode.reply,
                cut_off=cut_off,
                failed=verdict.abstained if cut_off and not episode.reply.strip() else None,
                verdicts=(Judged(judge, verdict),),
            )


def _shown(episode: Episode, defender: Player) -> list[str]:
    """All that a defender had seen when it gave its last reply: system prompt, attacks and its own replies."""
    prompts = defender.prompts
    said = [text for turn in episode.turns for text in (prompts.defender(turn.attack), turn.reply)]
    return [prompts.defender_system(defender.system, defender.thinks), *said[:-1]]
