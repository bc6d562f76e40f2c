"""What wider baselines, several updates on the same samples and a held operating point are for."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magic_rl.config import load_config
from magic_rl.errors import UserError
from magic_rl.learning.advantages import estimate_advantages, group_advantages, groups_with_signal
from magic_rl.learning.datums import minibatches
from magic_rl.learning.settings import TargetConfig
from magic_rl.learning.target import OperatingPoint
from magic_rl.theory.tabular import TabularGame
from magic_rl.types import Datum, Seed
from tests.support.tabular_arena import play_out
from tests.theory.test_tabular import REFUSE, REPLIES, duel

# Estimates

HARMFUL = ["harmful"] * 4 + ["benign"] * 2
GROUPS = [0, 0, 1, 1, 2, 2]
REWARDS = [-1.5, -1.5, 1.5, -1.5, 1.5, 0.5]


def test_a_group_of_equal_rewards_has_signal_against_its_label_alone() -> None:
    group = estimate_advantages(REWARDS, GROUPS, HARMFUL, scale_by_std=False)
    label = estimate_advantages(REWARDS, GROUPS, HARMFUL, baseline="label", scale_by_std=False)
    assert group == pytest.approx([0, 0, 1.5, -1.5, 0.5, -0.5])
    assert label == pytest.approx([-0.75, -0.75, 2.25, -0.75, 0.5, -0.5])


def test_a_mixture_is_half_of_each_baseline() -> None:
    for scaled in (False, True):
        spread = [np.std(REWARDS[:4], ddof=1), np.std(REWARDS[4:], ddof=1)] if scaled else [1.0, 1.0]
        mixed = estimate_advantages(REWARDS, GROUPS, HARMFUL, baseline="mixture", scale_by_std=scaled)
        expected = [-0.375, -0.375, 1.875, -1.125, 0.5, -0.5]
        assert mixed == pytest.approx([a / spread[i // 4] for i, a in enumerate(expected)], rel=1e-5)


@given(st.lists(st.tuples(st.floats(-3, 3) | st.none(), st.integers(0, 2), st.booleans()), min_size=1, max_size=12))
def test_every_baseline_is_centred_and_masks_what_is_masked(rows: list[tuple[float | None, int, bool]]) -> None:
    rewards, groups, labels = (list(column) for column in zip(*rows, strict=True))
    for baseline in ("group", "label", "mixture"):
        found = estimate_advantages(rewards, groups, labels, baseline=baseline, scale_by_std=False)
        assert [a is None for a in found] == [r is None for r in rewards]
        assert sum(a for a in found if a is not None) == pytest.approx(0, abs=1e-9)
    assert estimate_advantages(rewards, groups, labels) == group_advantages(rewards, groups)


def test_groups_with_signal_are_those_whose_unmasked_rewards_differ() -> None:
    assert groups_with_signal([1.0, 1.0, 1.0, None, 1.0, 2.0, None], [0, 0, 1, 1, 3, 3, 4]) == [3]


def datums(groups: int, size: int) -> list[Datum]:
    return [Datum((g,), (i,), weight=1 / (groups * size), group=g) for g in range(groups) for i in range(size)]


@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 5))
def test_minibatches_keep_groups_whole_and_every_datum_once(groups: int, size: int, parts: int) -> None:
    whole = datums(groups, size)
    split = minibatches(whole, parts, np.random.default_rng(0))
    assert len(split) == min(parts, groups)
    assert sorted((d.prompt, d.tokens) for part in split for d in part) == [(d.prompt, d.tokens) for d in whole]
    owners = [{d.group for d in part} for part in split]
    assert sum(map(len, owners)) == groups
    assert sum(d.weight for part in split for d in part) == pytest.approx(len(split))


def test_one_minibatch_is_the_batch_as_it_came() -> None:
    whole = datums(3, 2)
    assert minibatches(whole, 1, np.random.default_rng(0)) == [whole]


def tree(batch_size: int = 8, **learning: Any) -> dict[str, Any]:
    """A short game in which the defender alone learns."""
    return {
        "rng_seed": 1,
        "game": {"schedule": {"rounds": 1, "defender_steps": 8, "attacker_steps": 0}},
        "learning": {"group_size": 2, "scale_by_std": False, **learning},
        "defender": {"optimiser": {"lr": 0.1}, "batch_size": batch_size},
    }


def refuses(game: TabularGame, learned: dict[str, Any]) -> float:
    """How often the defender refuses harmful requests in slang after a short game with these settings."""
    _, learners = play_out(game, tree(**learned))
    rows = [i for i, attack in enumerate(game.attacks) if attack.endswith("in slang")]
    return float(learners["defender"].probabilities()[rows, REFUSE].mean())


def test_a_label_baseline_learns_faster_where_groups_have_equal_rewards() -> None:
    group = np.mean([refuses(duel(), {"baseline": "group"})])
    assert refuses(duel(), {"baseline": "label"}) > group + 0.03
    assert refuses(duel(), {"baseline": "mixture"}) > group


def test_more_updates_on_the_same_samples_get_further_until_clipped() -> None:
    once = refuses(duel(), {})
    assert refuses(duel(), {"epochs": 2, "minibatches": 2}) > once + 0.05
    steps, _ = play_out(duel(), tree(epochs=8, clip_low=0.05, clip_high=0.05))
    assert {step.metrics.get("clip_fraction", 0.0) for step in steps} != {0.0}
    free, _ = play_out(duel(), tree())
    assert {step.metrics.get("clip_fraction", 0.0) for step in free} == {0.0}  # on-policy: the ratio is 1


def test_dynamic_sampling_fills_the_step_with_groups_that_teach() -> None:
    plain, _ = play_out(duel(), tree())
    dynamic, _ = play_out(duel(), tree(dynamic_sampling=4))
    assert {step.metrics["episodes"] for step in plain} == {16}
    assert all(16 < len(step.outcomes) <= 80 for step in dynamic)
    assert refuses(duel(), {"dynamic_sampling": 4}) > refuses(duel(), {}) + 0.03
    groups = [outcome.episode.group for outcome in dynamic[0].outcomes]
    assert groups == sorted(groups)
    assert len(set(groups)) * 2 == len(groups)


def shared_wording() -> TabularGame:
    """A harmful and a benign seed with only one common attack: safety costs helpfulness, one for one."""
    return TabularGame(
        (Seed("h", "the harmful one", "harmful"), Seed("b", "the benign one", "benign")),
        ("either",),
        REPLIES[:2],
        usable=np.array([[True], [True]]),
        safe=np.array([[True, False]]),
        refused=np.array([[True, False]]),
        labels=("harmful",),
    )


def complies(target: dict[str, Any] | None) -> float:
    """Mean compliance over the second half of a game, in which a small reward for safety pulls towards refusing."""
    settings = tree(32, baseline="label", target=target)
    settings["game"] |= {
        "rewards": {"harm": 0.1},
        "schedule": {"rounds": 1, "defender_steps": 90, "attacker_steps": 0},
    }
    steps, _ = play_out(shared_wording(), settings)
    return fmean(float(step.metrics["compliance"] or 0) for step in steps[45:])


def test_fixed_weights_drift_to_one_end_and_a_target_is_held() -> None:
    assert complies(None) < 0.02
    for target in (0.4, 0.7):
        assert complies({"compliance": target}) == pytest.approx(target, abs=0.08)


def test_the_multiplier_follows_the_gap_between_bounds() -> None:
    config = TargetConfig(compliance="start", gain=1.0, rate=2.0, max_multiplier=3.0)
    point = OperatingPoint.start(config)
    assert point == OperatingPoint()
    first = point.advance(0.6, config)
    assert (first.compliance, first.multiplier) == (0.6, 1.0)
    below = first.advance(0.4, config)
    assert below.multiplier == pytest.approx(np.exp((1.0 + 2.0) * 0.2))
    assert below.advance(0.6, config).multiplier == pytest.approx(np.exp(2.0 * 0.2))  # the present gap is closed
    assert below.weights()["benign"] / below.weights()["harmful"] == pytest.approx(below.multiplier)
    assert sum(below.weights().values()) == pytest.approx(2)
    assert below.advance(None, config) == below
    assert first.advance(0.0, config).multiplier == pytest.approx(3)
    assert first.advance(1.0, config).advance(1.0, config).multiplier == pytest.approx(1 / 3)
    assert OperatingPoint.start(None) is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (["learning.dynamic_sampling=1", "learning.baseline=label"], "needs learning.baseline"),
        (["learning.target.compliance=1.2"], "less than or equal to 1"),
        (["learning.target.compliance=start", "game.schedule.defender_steps=0"], "defender_steps > 0"),
        (["learning.target.compliance=start", "defender.batch_size=1"], "needs benign seeds"),
        (["learning.target={compliance=0.5, gain=0, rate=0}"], "both 0"),
        (["evaluation.split=validation"], "validation_categories"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(setting: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(None, setting)
