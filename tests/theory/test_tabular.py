"""The tabular game: its tables follow the engine's protocol, its equilibrium is exact, and the loop finds it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from magic_rl.engines.base import Engine, Policy
from magic_rl.errors import UserError
from magic_rl.game.rewards import score
from magic_rl.game.settings import RewardConfig
from magic_rl.judges.base import Judge
from magic_rl.prompts import load_prompts
from magic_rl.theory.tabular import FILE, Array, Flags, TabularEngine, TabularGame, TabularJudge
from magic_rl.types import (
    PPO,
    Adam,
    CrossEntropy,
    Datum,
    Exchange,
    ImportanceSampling,
    Label,
    Message,
    Role,
    SamplingParams,
    Seed,
)

REFUSE, COMPLY, SAFE = 0, 1, 2
REPLIES = ("I can't help with that.", "Here is all of it.", "Here is what is safe to say.")
ADAM = Adam(lr=0.1)


def duel() -> TabularGame:
    """Two harmful and two benign seeds, two attacks each; the better attack shows only once the defender is good.

    In slang a harmful request fools a beginner more often, but can be answered perfectly. Encoded, no reply earns
    the defender more than 0.5: a refusal of what it could not read counts as no refusal. A benign request put
    alarmingly can be answered perfectly too; garbled, every answer goes wrong and refusing it is the lesser loss.
    """
    seeds, attacks, labels, safe, refused = [], [], [], [], []
    rules: Mapping[Label, Any] = {
        "harmful": {"in slang": ([1, 0, 0], [1, 0, 0]), "encoded": ([1, 0, 1], [0, 0, 0])},
        "benign": {"put alarmingly": ([1, 1, 1], [1, 0, 1]), "garbled": ([1, 0, 0], [1, 0, 0])},
    }
    for label, kinds in rules.items():
        for number in range(2):
            seeds.append(Seed(f"{label}-{number}", f"{label} request {number}", label))
            for kind, (is_safe, is_refused) in kinds.items():
                attacks.append(f"{label} request {number} {kind}")
                labels.append(label)
                safe.append(is_safe)
                refused.append(is_refused)
    usable = np.array([[attack.startswith(seed.text) for attack in attacks] for seed in seeds])
    return TabularGame(
        tuple(seeds), tuple(attacks), REPLIES, usable, np.array(safe, bool), np.array(refused, bool), tuple(labels)
    )


def ambiguous() -> TabularGame:
    """One attack that may come from either seed, and one of its own for the harmful one."""
    return TabularGame(
        (Seed("h", "the harmful one", "harmful"), Seed("b", "the benign one", "benign")),
        ("either", "plainly harmful"),
        REPLIES[:2],
        usable=np.array([[True, True], [True, False]]),
        safe=np.array([[True, False], [True, False]]),
        refused=np.array([[True, False], [True, False]]),
        labels=("harmful", "harmful"),
    )


@st.composite
def games(draw: st.DrawFn, *, fallback: bool = False) -> TabularGame:
    """Any small game whose attacks each belong to seeds of one label; with a safe refusal everywhere if asked."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x, extra, y = (draw(st.integers(low, high)) for low, high in ((1, 3), (0, 2), (2, 3)))
    labels: list[Label] = ["harmful" if harmful else "benign" for harmful in rng.random(x) < 0.5]
    of_attack = [*labels, *(labels[i] for i in rng.integers(x, size=extra))]
    shared = np.array([[i == j or (j >= x and labels[i] == of_attack[j]) for j in range(x + extra)] for i in range(x)])
    safe, refused = rng.random((2, x + extra, y)) < 0.5
    if fallback:
        safe[:, -1] = True
    return TabularGame(
        tuple(Seed(str(i), f"seed {i}", label) for i, label in enumerate(labels)),
        tuple(f"attack {j}" for j in range(x + extra)),
        tuple(f"reply {k}" for k in range(y)),
        shared,
        safe,
        refused,
        tuple(of_attack),
    )


@st.composite
def perturbed(draw: st.DrawFn, policy: Array, allowed: Flags) -> Array:
    """A pure policy that differs from another one in some of its rows."""
    rows = []
    for row, options in zip(policy, allowed, strict=True):
        other = draw(st.sampled_from(np.flatnonzero(options).tolist()))
        rows.append(np.eye(len(row))[other] if draw(st.booleans()) else row)
    return np.array(rows)


def reward(game: TabularGame, rng_seed: int, move: int, reply: int) -> Any:
    """Rewards of one course of the game, computed by the judge and from text instead of the tables."""
    attack = game.attacks[move % len(game.attacks)]
    (verdict,) = TabularJudge(game).judge([Exchange(game.seeds[rng_seed], attack, game.replies[reply])])
    return score(verdict, game.seeds[rng_seed].label, "<answer>" in game.completions[move], RewardConfig())


def is_subgame_perfect(game: TabularGame, attacker: Array, defender: Array) -> bool:
    """By trying every deviation at every seed and every attack, for pure policies."""
    for x in range(len(game.seeds)):
        moves = np.flatnonzero(game.moves[x]).tolist()
        answer = defender.argmax(axis=1)
        worth = {m: reward(game, x, m, answer[m % len(game.attacks)]).attacker for m in moves}
        if worth[int(attacker[x].argmax())] < max(worth.values()):
            return False
        for m in moves:
            replies = [reward(game, x, m, y).defender for y in range(len(game.replies))]
            if replies[answer[m % len(game.attacks)]] < max(replies):
                return False
    return True


def engines(game: TabularGame) -> dict[Role, TabularEngine]:
    return {"attacker": TabularEngine(game, "attacker"), "defender": TabularEngine(game, "defender")}


@pytest.mark.parametrize("role", ["attacker", "defender"])
def test_tables_keep_the_engines_protocol(role: Role) -> None:
    made = TabularEngine(duel(), role)
    engine: Engine = made
    policy: Policy = engine.new_policy("learner")
    assert policy.name == "learner"
    prompt = (0,)
    ((sample, other),) = policy.sample([prompt], 2, SamplingParams(max_tokens=1), rng_seed=0)
    assert sample.prompt == prompt
    assert sample.finish == "stop"
    assert [sample.logprobs, other.logprobs] == policy.logprobs([(prompt, sample.tokens), (prompt, other.tokens)])
    assert engine.renderer.completion(engine.renderer.decode(sample.tokens)) == sample.tokens

    before = policy.snapshot("before")
    policy.forward_backward([Datum(prompt, sample.tokens)], CrossEntropy())
    assert policy.optim_step(ADAM)["grad_norm"] > 0
    after = policy.logprobs([(prompt, sample.tokens)])[0]
    assert after > sample.logprobs
    assert before.logprobs([(prompt, sample.tokens)])[0] == sample.logprobs
    for frozen in (before, engine.base()):
        with pytest.raises(RuntimeError, match="read-only"):
            frozen.forward_backward([Datum(prompt, sample.tokens)], CrossEntropy())


def test_samples_are_drawn_at_the_tables_odds_and_from_the_moves_of_the_seed() -> None:
    game = duel()
    policy = TabularEngine(game, "attacker").new_policy("attacker")
    policy.forward_backward([Datum((1,), (4 + 2,), weight=1.0)], CrossEntropy())
    policy.optim_step(Adam(lr=1.0))
    odds = policy.probabilities()
    assert odds.sum(axis=1) == pytest.approx(np.ones(4))
    assert not odds[~game.moves].any()

    def frequencies(params: SamplingParams) -> Array:
        (drawn,) = policy.sample([(1,)], 4000, params, rng_seed=1)
        return np.bincount([s.tokens[0] - 4 for s in drawn], minlength=16) / 4000

    assert frequencies(SamplingParams(1)) == pytest.approx(odds[1], abs=0.03)
    sharp = odds[1] ** 2 / (odds[1] ** 2).sum()
    assert frequencies(SamplingParams(1, temperature=0.5)) == pytest.approx(sharp, abs=0.03)
    greedy = np.eye(16)[2]
    assert frequencies(SamplingParams(1, temperature=0.0)) == pytest.approx(greedy)
    assert frequencies(SamplingParams(1, top_p=0.3)) == pytest.approx(greedy)


def test_a_row_of_samples_depends_on_its_seed_and_place_alone() -> None:
    policy = TabularEngine(duel(), "attacker").new_policy("attacker")
    params = SamplingParams(1)
    both = policy.sample([(0,), (1,)], 3, params, rng_seed=5)
    assert policy.sample([(0,)], 3, params, rng_seed=5) == both[:1]
    assert policy.sample([(0,)], 6, params, rng_seed=5)[0][:3] == both[0]


@pytest.mark.parametrize("loss", [CrossEntropy(), PPO(), ImportanceSampling()])
def test_cutting_a_batch_into_passes_changes_nothing(loss: Any) -> None:
    engine = TabularEngine(duel(), "defender")
    datums = [
        Datum((row,), (8 + column,), weight=0.25, advantages=(a,), logprobs=(-1.0,))
        for row, column, a in ((0, 0, 1.0), (0, 1, -1.0), (3, 2, 0.5), (5, 1, -0.5))
    ]
    whole, cut = engine.new_policy("whole"), engine.new_policy("cut")
    total = whole.forward_backward(datums, loss)["loss"]
    assert sum(cut.forward_backward([datum], loss)["loss"] for datum in datums) == pytest.approx(total)
    assert whole.optim_step(ADAM) == pytest.approx(cut.optim_step(ADAM))
    assert whole.probabilities() == pytest.approx(cut.probabilities())


def test_a_saved_table_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    engine = TabularEngine(duel(), "defender")
    unbroken = engine.new_policy("unbroken")

    def step(policy: Policy, row: int) -> None:
        policy.forward_backward([Datum((row,), (8 + REFUSE,))], CrossEntropy())
        policy.optim_step(ADAM)

    step(unbroken, 0)
    unbroken.save(tmp_path)
    resumed = engine.load(tmp_path, "resumed")
    step(unbroken, 1)
    step(resumed, 1)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (resumed.probabilities() == unbroken.probabilities()).all()
    assert resumed.probabilities()[0, REFUSE] > 1 / 3


def test_loading_what_is_no_policy_of_this_game_is_a_users_error(tmp_path: Path) -> None:
    engine = TabularEngine(duel(), "defender")
    with pytest.raises(UserError, match="holds no policy"):
        engine.load(tmp_path, "missing")
    TabularEngine(ambiguous(), "defender").new_policy("other").save(tmp_path)
    with pytest.raises(UserError, match="another game"):
        engine.load(tmp_path, "other")
    (tmp_path / FILE).write_bytes(b"noise")
    with pytest.raises(UserError, match="holds no policy"):
        engine.load(tmp_path, "noise")


def test_a_sequence_of_many_ids_is_refused() -> None:
    with pytest.raises(ValueError, match="one id said"):
        TabularEngine(duel(), "defender").base().logprobs([((0,), (8, 9))])


@pytest.mark.parametrize("folder", ["", "brief"])
def test_each_player_recognises_the_text_before_it_in_the_real_prompts(folder: str) -> None:
    game, prompts = duel(), load_prompts(folder)
    render = {role: engine.renderer.prompt for role, engine in engines(game).items()}
    system = Message("system", prompts.attacker_system)
    for i, seed in enumerate(game.seeds):
        assert render["attacker"]([system, Message("user", prompts.attacker(seed))]) == (i,)
    for j, attack in enumerate(game.attacks):
        assert render["defender"]([Message("user", prompts.defender(attack))]) == (j,)
    with pytest.raises(ValueError, match="nothing of this game"):
        render["defender"]([Message("user", prompts.defender(game.seeds[0].text))])


def test_the_longest_known_text_wins() -> None:
    game = duel()
    longer = Seed("longer", f"{game.seeds[0].text}0", "harmful")
    usable = np.vstack([game.usable, game.usable[:1]])
    game = TabularGame((*game.seeds, longer), game.attacks, game.replies, usable, game.safe, game.refused, game.labels)
    assert TabularEngine(game, "attacker").renderer.prompt([Message("user", f"Request: {longer.text}")]) == (4,)


def test_the_judge_is_exact_and_abstains_on_what_is_not_in_the_game() -> None:
    game = duel()
    judge: Judge = TabularJudge(game)
    seed = game.seeds[0]
    told, unknown, silent = judge.judge(
        [
            Exchange(seed, game.attacks[0], REPLIES[COMPLY]),
            Exchange(seed, game.attacks[0], "something else"),
            Exchange(seed, seed.text, REPLIES[COMPLY]),
        ]
    )
    assert (told.safety, told.refused, told.request_label, told.abstained) == ("unsafe", False, "harmful", None)
    assert unknown.abstained
    assert silent.abstained


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("usable", np.zeros((2, 2), bool), "needs an attack"),
        ("safe", np.zeros((1, 2), bool), "expected shape"),
        ("labels", ("harmful",), "expected 2"),
        ("attacks", ("twice", "twice"), "distinct"),
        ("attacks", ("<think>", "other"), "format"),
    ],
)
def test_rules_that_cannot_be_played_are_refused(field: str, value: object, message: str) -> None:
    game = ambiguous()
    rules = {name: getattr(game, name) for name in game.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        TabularGame(**{**rules, field: value})
