"""Servers sample and judge the next step while this process learns from the current one.

The policies that sample are copied before the update, so their samples are one step behind when they are learned from.
The learner then computes the log-probabilities again with its current weights and corrects by the ratio
(`correction.py`).
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace

from magic_rl.game.play import Player
from magic_rl.game.schedule import Schedule
from magic_rl.learning.arena import Arena
from magic_rl.learning.rollouts import sample_outcomes
from magic_rl.types import Outcome


def begin(arena: Arena, schedule: Schedule, number: int) -> Future[list[Outcome]]:
    """Begin a step with the policies as they are now; see `sample_outcomes`. Its daemon thread never blocks an exit."""
    copies = {id(policy): policy.snapshot(f"{role}-ahead") for role, policy in arena.learners.items()}

    def still(player: Player) -> Player:
        return replace(player, policy=copies.get(id(player.policy), player.policy))

    found: Future[list[Outcome]] = Future()
    unmoved = replace(arena, attacker=arena.attacker and still(arena.attacker), defender=still(arena.defender))

    def work() -> None:
        try:
            found.set_result(sample_outcomes(unmoved, schedule, number))
        except BaseException as error:  # noqa: BLE001 - `result` raises it again
            found.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return found
