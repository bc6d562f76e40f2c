"""The protocol of attacks: an attack decides what to ask next, given a seed and the conversation so far.

An attack makes attempts, each a separate conversation of `turns` queries. It sees only seeds and replies, so any chat
can be its target. This module also has the attackers of the game: a trained attacker, and a finished attack pool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from magic_rl.attacks.pool import PoolEntry
from magic_rl.game.play import Player, attack
from magic_rl.rng import derive
from magic_rl.types import Episode, Message, Seed


@dataclass(frozen=True, slots=True)
class Game:
    """The conversation between an attack and its target in one attempt on a seed."""

    seed: Seed
    said: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """One query."""

    text: str  # what the target is asked
    prefill: str = ""  # the forced beginning of its reply
    method: str = ""  # how the text was made, for attacks with several methods
    failed: str | None = None  # why there is nothing to ask; such a query counts for neither side


class Attack(Protocol):
    """Makes queries."""

    name: str  # its name in results
    turns: int  # queries per attempt
    max_attempts: int  # number of different attempts that it can make on a seed

    def moves(self, games: Sequence[Game], attempt: int) -> list[Move | None]:
        """The next query of each game, all at the same turn of the same attempt; None if it has no more."""


class TrainedAttacker:
    """A trained attacker of the game, with one conversation per attempt, adapted to the replies (METHOD §5)."""

    max_attempts = 1_000_000  # it samples

    def __init__(self, player: Player, *, turns: int, rng_seed: int, name: str = "multi-turn") -> None:
        """Args: turns: T, turns of a conversation; if above one, the attacker gets its multi-turn prompt."""
        self.name, self.turns = name, turns
        self._player, self._rng_seed = player, rng_seed
        self._played: dict[str, Episode] = {}

    def moves(self, games: Sequence[Game], attempt: int) -> list[Move | None]:
        """See `Attack`."""
        turn = len(games[0].said) // 2
        if not turn:
            self._played = {game.seed.id: Episode(game.seed, (), place) for place, game in enumerate(games)}
        opened = [self._answered(game) for game in games]
        draw = derive(self._rng_seed, attempt, self.name, turn)
        played = attack(opened, self._player, 1, draw, multi_turn=self.turns > 1)
        self._played = {episode.seed.id: episode for episode in played}
        return [
            Move(episode.attack, failed=None if episode.attack.strip() else "the attacker said nothing")
            for episode in played
        ]

    def _answered(self, game: Game) -> Episode:
        """The game as an episode of the attacker, with the target's last reply."""
        episode = self._played[game.seed.id]
        if not game.said:
            return episode
        return replace(episode, turns=(*episode.turns[:-1], replace(episode.turns[-1], reply=game.said[-1].content)))


class PoolAttacker:
    """Plays each entry of an attack pool once. Its methods are the pool's strategies."""

    name, turns = "pool", 1

    def __init__(self, entries: Sequence[PoolEntry]) -> None:
        """Args: entries: The pool; only entries of harmful seeds are played."""
        self._of: dict[str, list[PoolEntry]] = defaultdict(list)
        for entry in entries:
            if entry.seed.label == "harmful":
                self._of[entry.seed.id].append(entry)
        self.seeds = [own[0].seed for own in self._of.values()]
        self.max_attempts = max(map(len, self._of.values()), default=0)

    def moves(self, games: Sequence[Game], attempt: int) -> list[Move | None]:
        """See `Attack`."""
        own = [self._of[game.seed.id] for game in games]
        return [Move(o[attempt].attack, method=o[attempt].strategy) if attempt < len(o) else None for o in own]
