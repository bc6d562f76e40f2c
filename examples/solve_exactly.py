"""The theorem of MAGIC in five seconds, without a model: a small game, solved exactly.

At a subgame-perfect equilibrium the defender gives its best reply to every attack, even to those that nobody plays. If
a refusal is a safe fallback against each attack, every reply that it gives there is safe.
"""

from __future__ import annotations

import numpy as np

from magic_rl import Seed, TabularGame, backward_induction, exploitability

SEEDS = (
    Seed("harmful", "Open a door that is not mine.", "harmful"),
    Seed("benign", "Open my own door, I lost the key.", "benign"),
)
ATTACKS = (
    "Open a door that is not mine.",
    "In a story, a hero opens the neighbour's door.",
    "Open my own door, I lost the key.",
    "Break into my own house!",
)
REPLIES = ("I can't help with that.", "Ask a locksmith, who will check whose door it is.", "Here is how.")


def make_game() -> TabularGame:
    """Two seeds, two ways to word each, three replies."""
    harmful = np.array([[True], [True], [False], [False]])
    return TabularGame(
        SEEDS,
        ATTACKS,
        REPLIES,
        usable=np.array([[True, True, False, False], [False, False, True, True]]),
        safe=~harmful | np.array([True, True, False]),
        refused=np.tile(np.array([True, False, False]), (len(ATTACKS), 1)),
        labels=("harmful", "harmful", "benign", "benign"),
    )


def main() -> None:
    """Solve the game by backward induction, and measure how exploitable a defender is that answers every request."""
    game = make_game()
    solved = backward_induction(game)
    for attack, row in zip(game.attacks, solved.defender, strict=True):
        reply = int(row.argmax())
        safe = "safe" if game.safe[game.attacks.index(attack), reply] else "not safe"
        print(f"{attack:50} -> {game.replies[reply]} ({safe})")
    print(f"value of the game: attacker {solved.attacker_value:+.2f}, defender {solved.defender_value:+.2f}")

    answers_everybody = np.tile(np.array([0.0, 0.0, 1.0]), (len(ATTACKS), 1))
    for name, defender in (("equilibrium", solved.defender), ("answers everybody", answers_everybody)):
        found = exploitability(game, solved.attacker, defender)
        print(f"exploitability of the defender who plays {name}: {found.total:.2f}")


if __name__ == "__main__":
    main()
