"""Claims about past opponents: whom the learner meets, their payoffs, and that a chase in circles ends."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magic_rl.config import PRESETS, Config, PresetName, load_config
from magic_rl.errors import TooManyAbstentionsError, UserError
from magic_rl.game.play import Draws, GameRules, Player, Players, play
from magic_rl.game.schedule import Schedule
from magic_rl.learning import coevolve, rollouts
from magic_rl.learning.arena import Arena
from magic_rl.learning.opponents import Opponents, zero_sum_payoff
from magic_rl.runs.assembly import loop_settings
from magic_rl.theory.equilibrium import Payoffs, exploitability
from magic_rl.theory.tabular import Array, TabularEngine, TabularGame, TabularPolicy
from magic_rl.types import (
    Adam,
    CrossEntropy,
    Datum,
    Episode,
    Outcome,
    Rewards,
    Role,
    Sample,
    SamplingParams,
    Seed,
    Turn,
    Verdict,
)
from tests.support.tabular_arena import make_arena

ROLES: tuple[Role, Role] = ("attacker", "defender")
ROUNDS = 18
BOUND = 0.3  # on exploitability, in reward; an attacker regains 0.75 from a defender that has just adapted to it


def chase() -> TabularGame:
    """Two attacks: the benign seed and one harmful seed may use either, another harmful seed only the first.

    No answer does harm, so all that counts is to refuse harmful requests. The defender cannot see which seed an attack
    comes from. It refuses the attack that is more often harmful; then the free harmful seed leaves it and the benign
    one moves there. At the equilibrium each attack is as likely harmful as benign, and both are refused equally often.
    """
    seeds = Seed("free", "free harmful one", "harmful"), Seed("stuck", "stuck harmful one", "harmful")
    return TabularGame(
        (*seeds, Seed("benign", "benign one", "benign")),
        ("in a story", "in a riddle"),
        ("I can't help with that.", "Here is what is safe to say."),
        usable=np.array([[True, True], [True, False], [True, True]]),
        safe=np.ones((2, 2), dtype=bool),
        refused=np.array([[True, False], [True, False]]),
        labels=("harmful", "harmful"),
    )


@dataclass(frozen=True)
class PreparedGame:
    """A tabular game ready to be played."""

    config: Config
    arena: Arena
    policies: Mapping[Role, TabularPolicy]
    opponents: Opponents


def prepared_game(rule: str, rng_seed: int = 0, opponent_seeds: int = 64, rounds: int = ROUNDS) -> PreparedGame:
    """The chase, set up for the real loop; the defender begins with a bias, as a warmed-up model does."""
    game = chase()
    player = {"optimiser": {"lr": 0.3}, "batch_size": 16}
    config = Config.model_validate(
        {
            "rng_seed": rng_seed,
            "game": {
                "opponents": rule,
                **({"opponent_seeds": opponent_seeds} if rule == "nash" else {}),
                "schedule": {"rounds": rounds, "defender_steps": 8, "attacker_steps": 8},
            },
            # The KL term keeps a policy from becoming certain, which would leave nothing to sample and learn from.
            "learning": {"group_size": 8, "kl_coef": 0.1, "reference": "base", "scale_by_std": False},
            "attacker": player,
            "defender": player,
        }
    )
    arena, policies = make_arena(game)
    arena = replace(arena, settings=loop_settings(config))
    policies["defender"].forward_backward([Datum((0,), (2,)), Datum((1,), (3,))], CrossEntropy())
    policies["defender"].optim_step(Adam(lr=0.5))
    assert arena.attacker is not None
    opponents = Opponents(
        players={"attacker": arena.attacker, "defender": arena.defender},
        learners=policies,
        judge=lambda episodes: rollouts.judge_episodes(episodes, arena.judge, loop_settings(config)),
        seeds=game.seeds,
        game=config.game,
        rng_seed=rng_seed,
    )
    arena = replace(arena, opponents=None if rule == "last" else opponents)
    return PreparedGame(config, arena, policies, opponents)


def course(rule: str, rng_seed: int) -> tuple[list[float], list[float]]:
    """Play a whole game.

    Returns:
        After each round, the exploitability of the mixtures that the players would meet next, and how much more often
        the defender refuses the first attack than the second.
    """
    prepared = prepared_game(rule, rng_seed)
    game, versions = chase(), {role: [policy.probabilities()] for role, policy in prepared.policies.items()}
    gaps, leanings = [], []
    before = Schedule.start(prepared.config.game.schedule)
    for step in coevolve.coevolve(prepared.arena, before):
        before, finished = step.schedule, step.schedule.round > before.round
        if not finished:
            continue
        for role, policy in prepared.policies.items():
            versions[role].append(policy.probabilities())
        if rule == "last":
            met = {role: made[-1] for role, made in versions.items()}
        else:
            prepared.opponents.close_round(len(versions["attacker"]) - 1)
            # No player moves twice in an episode, so a mixture of policies is the policy with their mean probabilities.
            met = {r: np.tensordot(prepared.opponents.mixture(r), np.array(v), axes=1) for r, v in versions.items()}
        measured = exploitability(game, met["attacker"], met["defender"])
        gaps.append(measured.attacker_gain + measured.defender_gain)
        leanings.append(float(np.subtract(*versions["defender"][-1][:, 0])))
    return gaps, leanings


def test_the_chase_has_the_equilibrium_one_works_out_by_hand() -> None:
    """The free harmful seed in a riddle, the benign seed half in each, and both attacks refused at any equal rate."""
    attacker: Array = np.array([[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
    for rate in (0.0, 0.3, 1.0):
        measured = exploitability(chase(), attacker, np.array([[rate, 1 - rate]] * 2))
        assert measured.attacker_gain + measured.defender_gain == pytest.approx(0.0, abs=1e-12)
    chased = exploitability(chase(), attacker[[1, 1, 0]], np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert (chased.attacker_gain, chased.defender_gain) == pytest.approx((0.25 + 0.5, 0.0))  # "stuck" cannot move


@pytest.mark.parametrize("rng_seed", range(2))
def test_against_the_last_opponent_both_go_round_in_circles(rng_seed: int) -> None:
    gaps, leanings = course("last", rng_seed)
    turns = [a for a, b in itertools.pairwise(leanings) if a * b < 0]
    assert len(turns) >= 3
    assert min(leanings) < -0.7
    assert max(leanings) > 0.7
    assert np.mean(gaps[-ROUNDS // 3 :]) > BOUND


@pytest.mark.parametrize("rng_seed", range(2))
@pytest.mark.parametrize("rule", ["uniform", "nash"])
def test_against_a_mixture_of_versions_both_approach_the_equilibrium(rule: str, rng_seed: int) -> None:
    gaps, _ = course(rule, rng_seed)
    assert max(gaps[-ROUNDS // 3 :]) < BOUND, gaps


def test_a_mixture_of_the_last_version_alone_changes_nothing() -> None:
    prepared = prepared_game("uniform")
    for role in ROLES:
        opponent = prepared.arena.attacker if role == "defender" else prepared.arena.defender
        assert opponent is not None
        seeds = list(prepared.arena.seeds) * 4
        players = Players(prepared.arena.attacker, prepared.arena.defender)
        alone = play(seeds, players, GameRules(role, 1, 2), Draws(3, 4))
        mixture = replace(players, opponents=[opponent] * len(seeds))
        assert play(seeds, mixture, GameRules(role, 1, 2), Draws(3, 4)) == alone


class Certain:
    """A policy that always says the same, and counts how often it is asked."""

    def __init__(self, column: int) -> None:
        self.column, self.calls = column, 0

    def sample(self, prompts: Any, n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        self.calls += 1
        return [[Sample(prompt, (self.column,), (0.0,), "stop")] * n for prompt in prompts]


@pytest.mark.parametrize("learner", ROLES)
def test_each_seed_meets_its_own_opponent_in_one_batch_of_each(learner: Role) -> None:
    game = chase()
    render = {role: TabularEngine(game, role).renderer for role in ROLES}
    params = SamplingParams(max_tokens=1)
    first = {"attacker": 3, "defender": 2}  # the id of the first thing each can say
    speakers = {role: [Certain(first[role]), Certain(first[role] + 1)] for role in ROLES}
    players = {role: [Player(who, render[role], params) for who in speakers[role]] for role in ROLES}
    other: Role = "defender" if learner == "attacker" else "attacker"
    order = [0, 1, 1, 0, 1]
    episodes = play(
        [game.seeds[2]] * len(order),
        Players(players["attacker"][0], players["defender"][0], [players[other][i] for i in order]),
        GameRules(learner, 1, 3),
        Draws(0),
    )
    said = [episode.attack if other == "attacker" else episode.reply for episode in episodes]
    texts = game.attacks if other == "attacker" else game.replies
    assert said == [texts[i] for i in order for _ in range(3)]
    assert [episode.group for episode in episodes] == [place for place in range(len(order)) for _ in range(3)]
    assert [who.calls for who in speakers[other]] == [1, 1]
    assert [who.calls for who in speakers[learner]] == [1, 0]


def test_the_learner_meets_every_finished_round_and_the_turn_just_taken() -> None:
    prepared = prepared_game("uniform")
    defends, attacks = Schedule(3, "defender"), Schedule(3, "attacker")
    prepared.opponents.restore(
        {role: [prepared.policies[role].snapshot(f"{i}") for i in range(3)] for role in ROLES}, ()
    )
    met = prepared.opponents.draw(defends, 200, step=1)
    assert {id(player) for player in met} == {id(player) for player in prepared.opponents.versions["attacker"]}
    met = prepared.opponents.draw(attacks, 200, step=2)
    assert {role: len(prepared.opponents.versions[role]) for role in ROLES} == {"attacker": 3, "defender": 4}
    assert {id(player) for player in met} == {id(player) for player in prepared.opponents.versions["defender"]}
    assert prepared.opponents.draw(attacks, 200, step=2) == met
    assert prepared.opponents.draw(attacks, 200, step=3) != met


def test_versions_stand_still_while_the_learner_moves() -> None:
    prepared = prepared_game("uniform")
    prepared.opponents.draw(Schedule(1, "defender"), 1, step=1)
    version = prepared.opponents.versions["defender"][0].policy
    assert isinstance(version, TabularPolicy)
    before = version.probabilities()
    policy = prepared.policies["defender"]
    policy.forward_backward([Datum((0,), (2,))], CrossEntropy())
    policy.optim_step(Adam(lr=1.0))
    assert (version.probabilities() == before).all()
    assert (policy.probabilities() != before).any()


def test_payoffs_are_the_exact_expectations_within_their_error() -> None:
    prepared = prepared_game("nash", opponent_seeds=4000)
    prepared.opponents.draw(Schedule(1, "defender"), 1, step=1)
    prepared.policies["defender"].forward_backward([Datum((0,), (3,))], CrossEntropy())
    prepared.policies["defender"].optim_step(Adam(lr=2.0))
    prepared.policies["attacker"].forward_backward([Datum((0,), (3,)), Datum((2,), (4,))], CrossEntropy())
    prepared.policies["attacker"].optim_step(Adam(lr=2.0))
    summary = prepared.opponents.close_round(1)
    assert summary is not None
    exact = Payoffs.of(chase())
    for row, attacker in enumerate(prepared.opponents.versions["attacker"]):
        for column, defender in enumerate(prepared.opponents.versions["defender"]):
            assert isinstance(attacker.policy, TabularPolicy)
            assert isinstance(defender.policy, TabularPolicy)
            tables = attacker.policy.probabilities(), defender.policy.probabilities()
            assert summary["payoff"][row][column] == pytest.approx(exact.expected(*tables)[1], abs=4 * 0.5 / 4000**0.5)
    assert summary["n"] == [[4000, 4000], [4000, 4000]]
    rows, columns = np.array(summary["payoff"]), np.array(summary["payoff"]).T
    assert columns.min(axis=1).max() <= summary["value"] + 1e-9  # no worse than the defender's best pure choice
    assert summary["value"] <= rows.max(axis=1).min() + 1e-9  # no better than the attacker's best pure choice allows


def test_a_pair_that_no_judge_could_judge_has_no_payoff_at_all() -> None:
    opponents = prepared_game("nash", opponent_seeds=8).opponents
    opponents.judge = lambda episodes: [Outcome(episode, None, None, "abstained") for episode in episodes]
    opponents.draw(Schedule(1, "defender"), 4, step=1)
    with pytest.raises(TooManyAbstentionsError, match=r"attacker 0 against defender 0: .* any of 8 episodes"):
        opponents.draw(Schedule(1, "attacker"), 4, step=2)
    assert opponents.payoffs() == []


def test_a_pair_is_played_once_and_alike_whenever_that_is() -> None:
    played: list[int] = []

    def counted(prepared: PreparedGame) -> Opponents:
        judge = prepared.opponents.judge

        def judged(episodes: Sequence[Episode]) -> Sequence[Outcome]:
            played.append(len(episodes))
            return judge(episodes)

        prepared.opponents.judge = judged
        return prepared.opponents

    early = counted(prepared_game("nash", opponent_seeds=8))
    early.draw(Schedule(1, "defender"), 4, step=1)
    assert played == []  # with a single opponent there is nothing to weigh
    early.draw(Schedule(1, "attacker"), 4, step=2)
    assert played == [2 * 8]
    early.draw(Schedule(1, "attacker"), 4, step=3)
    early.close_round(1)
    early.close_round(1)
    assert played == [2 * 8, 2 * 8]

    late = counted(prepared_game("nash", opponent_seeds=8))
    saved = {role: [version.policy for version in early.versions[role]] for role in ROLES}
    late.restore(saved, json.loads(json.dumps(early.payoffs()))[:2])  # type: ignore[arg-type]
    assert late.close_round(1) == early.close_round(1)
    assert late.payoffs() == early.payoffs()


def outcome(masked: Any, attack_finish: Any, reply_finish: Any) -> Outcome:
    attack, reply = (Sample((0,), (1,), (0.0,), finish) for finish in (attack_finish, reply_finish))
    episode = Episode(Seed("s", "seed", "harmful"), (Turn("a", "", True, attack, "r", reply),), 0)
    rewards = None if masked else Rewards(1.0, -0.5, 0.5, 0.25, 0.5, 0.0, quality=0.3, length=-0.1)
    return Outcome(episode, Verdict(), rewards, masked)


def test_a_payoff_is_what_one_side_gains_and_the_other_loses() -> None:
    game = load_config(None).game
    assert zero_sum_payoff(outcome(None, "stop", "stop"), game) == 0.5
    assert zero_sum_payoff(outcome("cut_off", "length", "stop"), game) == 1.5
    assert zero_sum_payoff(outcome("cut_off", "stop", "length"), game) == -1.5
    assert zero_sum_payoff(outcome("abstained", "stop", "stop"), game) is None


@pytest.mark.parametrize(
    "others",
    [
        ["game.shared_parameters=true"],
        ["game.rewrite=false", "game.schedule.attacker_steps=0"],
        ["game.schedule.attacker_steps=0"],
        ["game.schedule.defender_steps=0"],
    ],
)
def test_past_opponents_need_two_players_that_learn(others: list[str]) -> None:
    with pytest.raises(UserError, match=r"game\.opponents has no effect: it needs"):
        load_config(None, ["game.opponents=nash", "attacker.sft.steps=0", *others])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_without_two_learners_meets_the_last_opponent(preset: PresetName, tmp_path: Path) -> None:
    file = tmp_path / "nash.toml"
    file.write_text('[game]\nopponents = "nash"\n', encoding="utf-8")
    two = preset in ("magic", "magic-base", "defender-cot")
    assert load_config(file, preset=preset).game.opponents == ("nash" if two else "last")
