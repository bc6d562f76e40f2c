"""The equilibrium of small games: solved exactly, and reached by the loop that trains models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magic_rl.config import Config
from magic_rl.game.schedule import Schedule
from magic_rl.game.settings import RewardConfig
from magic_rl.learning import coevolve
from magic_rl.runs.assembly import loop_settings
from magic_rl.theory.equilibrium import Exploitability, Payoffs, backward_induction, exploitability
from magic_rl.theory.tabular import TabularGame
from tests.support.tabular_arena import make_arena
from tests.theory.test_tabular import (
    COMPLY,
    REFUSE,
    SAFE,
    ambiguous,
    duel,
    engines,
    games,
    is_subgame_perfect,
    perturbed,
)

# The equilibrium


def test_the_duel_has_the_equilibrium_one_works_out_by_hand() -> None:
    game = duel()
    found = backward_induction(game)
    best = {"harmful": "encoded", "benign": "garbled"}
    assert [game.completions[move] for move in found.attacker.argmax(axis=1)] == [
        f"<think>I make it so.</think><answer>{seed.text} {best[seed.label]}</answer>" for seed in game.seeds
    ]
    assert found.defender.argmax(axis=1).tolist() == [REFUSE, REFUSE] * 2 + [COMPLY, REFUSE] * 2
    assert found.defender_value == pytest.approx(0.5)
    assert found.attacker_value == pytest.approx(-0.5 + 0.5)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_pure_profile_has_no_exploitability_exactly_if_no_deviation_pays(data: st.DataObject) -> None:
    game = data.draw(games())
    found = backward_induction(game)
    assert is_subgame_perfect(game, found.attacker, found.defender)
    assert exploitability(game, found.attacker, found.defender).total == pytest.approx(0.0, abs=1e-12)

    attacker = data.draw(perturbed(found.attacker, game.moves))
    defender = data.draw(perturbed(found.defender, np.ones(found.defender.shape, bool)))
    measured = exploitability(game, attacker, defender)
    assert (measured.total < 1e-9) == is_subgame_perfect(game, attacker, defender)
    assert measured.attacker_gain >= -1e-12
    assert 0 <= measured.defender_gain + 1e-12 <= measured.defender_regret + 2e-12
    assert 0 <= measured.share_of_range <= 2


@settings(max_examples=100, deadline=None)
@given(games(fallback=True))
def test_with_a_safe_fallback_every_best_reply_is_safe(game: TabularGame) -> None:
    """The theorem of METHOD §1, for the fallback that r_D ≥ 0 asks for."""
    payoffs = Payoffs.of(game)
    for x, j in np.argwhere(game.usable):
        values = payoffs.defender[x, j]
        assert values.max() >= 0
        assert game.safe[j][values == values.max()].all()


def test_a_defender_good_only_at_what_is_played_is_not_subgame_perfect() -> None:
    game = duel()
    found = backward_induction(game)
    unplayed = game.attacks.index("harmful request 0 in slang")
    careless = found.defender.copy()
    careless[unplayed] = np.eye(3)[SAFE]
    measured = exploitability(game, found.attacker, careless)
    assert measured.defender_gain == 0
    assert measured.defender_regret == pytest.approx(3.0)
    assert measured.attacker_gain == pytest.approx((1.5 - -0.5) / 4)  # slang now works on one of four seeds
    assert measured.share_of_range == pytest.approx(3.0 / 3.0 + 0.5 / 4.0)


def test_uniform_policies_are_exploitable_by_what_arithmetic_says() -> None:
    game = duel()
    tables = {role: engine.base().probabilities() for role, engine in engines(game).items()}
    measured = exploitability(game, tables["attacker"], tables["defender"])
    slang, encoded, alarming, garbled = -0.5, -1 / 6, 5 / 6, -1 / 6
    assert measured.attacker_gain == pytest.approx(
        0.5 * ((-slang + 0.5) - (-(slang + encoded) / 2)) + 0.5 * ((-garbled + 0.5) - (-(alarming + garbled) / 2))
    )
    assert measured.defender_regret == pytest.approx(2.0)
    assert measured.defender_gain == pytest.approx(
        ((1.5 - slang) + (0.5 - encoded) + (1.5 - alarming) + (0.5 - garbled)) / 4
    )


def test_an_ambiguous_attack_is_answered_by_who_plays_it() -> None:
    game = ambiguous()
    plainly = np.array([[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    both = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    payoffs = Payoffs.of(game)
    assert payoffs.belief(plainly).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert payoffs.belief(both).tolist() == [[0.5, 0.5], [1.0, 0.0]]
    # From the benign seed alone, a refusal is worth +1 - .5 and an answer that counts as unsafe -1 + .5.
    assert payoffs.reply_values(payoffs.belief(plainly))[0] == pytest.approx([0.5, -0.5])
    assert payoffs.reply_values(payoffs.belief(both))[0] == pytest.approx([1.0, -1.0])


def test_with_the_judges_label_the_seed_does_not_matter_to_the_defender() -> None:
    weights = RewardConfig(request_label="judge")
    payoffs = Payoffs.of(ambiguous(), weights)
    assert (payoffs.defender[0, 0] == payoffs.defender[1, 0]).all()
    found = backward_induction(ambiguous(), weights)
    assert exploitability(ambiguous(), found.attacker, found.defender, weights).total == 0


@pytest.mark.parametrize("rng_seed", range(5))
def test_coevolution_reaches_the_subgame_perfect_equilibrium(rng_seed: int) -> None:
    """The real loop, end to end. The bound is on every attack, also on those that the attacker has long given up."""
    game = duel()
    config = Config.model_validate(
        {
            "rng_seed": rng_seed,
            "game": {"schedule": {"rounds": 3, "defender_steps": 40, "attacker_steps": 40}},
            "learning": {"group_size": 8},
            **{role: {"optimiser": {"lr": 0.2}, "batch_size": 16} for role in ("attacker", "defender")},
        }
    )
    arena, learners = make_arena(game)
    arena = replace(arena, settings=loop_settings(config))

    def measure() -> Exploitability:
        return exploitability(game, learners["attacker"].probabilities(), learners["defender"].probabilities())

    assert measure().share_of_range > 0.5
    steps = list(coevolve.coevolve(arena, Schedule.start(config.game.schedule)))
    assert len(steps) == 240
    assert measure().share_of_range < 0.01, measure()
    won = backward_induction(game)
    rewards = steps[-1].metrics["reward_attacker"], steps[-1].metrics["reward_defender"]
    assert rewards == pytest.approx((won.attacker_value, won.defender_value), abs=0.15)
