"""The next step is sampled and judged by servers while this one is learned from here.

The policies that sample are copied before the update, so what they say is one step behind when it is learned from.
There its log-probabilities are computed again by the policy as it is then, and the ratio weighs it (`correction.py`).
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace

from magic_rl.game.schedule import Schedule
from magic_rl.learning.arena import Arena
from magic_rl.learning.rollouts import sample_outcomes
from magic_rl.types import Outcome, Role


class Begun:
    """A step whose sampling has begun, on a thread that ends with the process."""

    def __init__(self, arena: Arena, schedule: Schedule, number: int) -> None:
        """Begin it with both players as they are now; see `sample_outcomes`."""
        self._found: Future[list[Outcome]] = Future()
        copies = {id(policy): policy.snapshot(f"{role}-ahead") for role, policy in arena.learners.items()}
        roles: tuple[Role, ...] = ("attacker", "defender")
        players = {
            role: replace(player, policy=copies.get(id(player.policy), player.policy))
            for role, player in zip(roles, (arena.attacker, arena.defender), strict=True)
            if player
        }
        self._arena = replace(arena, attacker=players.get("attacker"), defender=players["defender"])
        threading.Thread(target=self._work, args=(schedule, number), daemon=True).start()

    def _work(self, schedule: Schedule, number: int) -> None:
        try:
            self._found.set_result(sample_outcomes(self._arena, schedule, number))
        except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
            self._found.set_exception(error)

    def outcomes(self) -> list[Outcome]:
        """Wait for it. Raises what sampling and judging raise."""
        return self._found.result()
