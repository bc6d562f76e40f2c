"""Who attacks: what is asked next, given a seed and what was said so far.

An attack makes attempts, each a conversation of its own of `turns` queries. It sees seeds and replies and nothing else
of its target, so any chat can be one. Here are the attackers of the game: a trained one, and a pool written before.
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
    """A conversation about a seed: what the attack and its target have said in this attempt."""

    seed: Seed
    said: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """One query."""

    text: str  # what the target is asked
    begun: str = ""  # what its reply is made to begin with
    method: str = ""  # how the text was made, where an attack has several ways
    failed: str | None = None  # why there is nothing to ask; such a query counts for neither side


class Attack(Protocol):
    """Makes queries."""

    name: str  # what results call it
    turns: int  # queries of an attempt
    most: int  # attempts on one seed that differ from each other

    def moves(self, games: Sequence[Game], attempt: int) -> list[Move | None]:
        """The next query of each game, all of them at the same turn of the same attempt; None: it has no more."""


class TrainedAttacker:
    """An attacker of the game: best of several conversations, each of which it adapts to the replies (METHOD §5)."""

    most = 1_000_000  # it samples

    def __init__(self, player: Player, *, turns: int, rng_seed: int, name: str = "multi-turn") -> None:
        """Args: turns: T, of a conversation; with more than one it is asked in the words for several turns."""
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
        """The game as the attacker knows it."""
        episode = self._played[game.seed.id]
        if not game.said:
            return episode
        return replace(episode, turns=(*episode.turns[:-1], replace(episode.turns[-1], reply=game.said[-1].content)))


class PoolAttacker:
    """Every entry of an attack pool once. Its methods are the pool's strategies."""

    name, turns = "pool", 1

    def __init__(self, entries: Sequence[PoolEntry]) -> None:
        """Args: entries: Those of harmful seeds are played."""
        self._of: dict[str, list[PoolEntry]] = defaultdict(list)
        for entry in entries:
            if entry.seed.label == "harmful":
                self._of[entry.seed.id].append(entry)
        self.seeds = [own[0].seed for own in self._of.values()]
        self.most = max(map(len, self._of.values()), default=0)

    def moves(self, games: Sequence[Game], attempt: int) -> list[Move | None]:
        """See `Attack`."""
        own = [self._of[game.seed.id] for game in games]
        return [Move(o[attempt].attack, method=o[attempt].strategy) if attempt < len(o) else None for o in own]
