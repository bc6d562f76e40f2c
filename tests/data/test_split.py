"""Claims about the split: held-out seeds are never trained on, and neither the split nor a draw depends on luck."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magic_rl.data.split import draw_seeds, split_by_category
from magic_rl.errors import DataError
from magic_rl.types import Label, Seed

unhurried = settings(deadline=None, max_examples=50)  # a busy machine is no failure


def made_seeds(categories: Iterable[str], each: int = 2) -> list[Seed]:
    labels: tuple[Label, Label] = ("harmful", "benign")
    return [
        Seed(f"{category}-{label}-{i}", f"{category} {label} {i}", label, category)
        for category in categories
        for label in labels
        for i in range(each)
    ]


@given(st.sets(st.text(min_size=1, max_size=5), min_size=2, max_size=15), st.randoms(use_true_random=False))
@unhurried
def test_a_fifth_of_the_categories_is_held_out_in_any_order_of_the_rows(
    categories: set[str], order: random.Random
) -> None:
    seeds = made_seeds(categories)
    split = split_by_category(seeds)
    held_out = {seed.category for seed in split.held_out}
    assert len(held_out) == -(-len(categories) // 5)
    assert held_out.isdisjoint(seed.category for seed in split.train)
    assert sorted((*split.train, *split.held_out), key=seeds.index) == seeds
    shuffled = order.sample(seeds, len(seeds))
    assert set(split_by_category(shuffled).held_out) == set(split.held_out)


@given(st.data())
@unhurried
def test_named_categories_are_held_out_and_no_others(data: st.DataObject) -> None:
    names = "abcdef"
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=5))
    split = split_by_category(made_seeds(names), chosen)
    assert {seed.category for seed in split.held_out} == set(chosen)
    assert {seed.category for seed in split.train} == set(names) - set(chosen)


@pytest.mark.parametrize("category", ["", "only one"])
@given(n=st.integers(2, 40))
@unhurried
def test_seeds_without_two_categories_are_split_by_their_id(category: str, n: int) -> None:
    seeds = made_seeds([category], each=n)
    split = split_by_category(seeds)
    assert Counter(seed.label for seed in split.held_out) == dict.fromkeys(("harmful", "benign"), -(-n // 5))
    assert set(split.train) == set(seeds) - set(split.held_out)
    assert set(split_by_category(seeds[::-1]).held_out) == set(split.held_out)


def test_impossible_splits_are_refused() -> None:
    seeds = [Seed("1", "one", "harmful", "a"), Seed("2", "two", "benign", "b")]
    with pytest.raises(DataError, match="no seed is of category 'c', 'd'; known: a, b"):
        split_by_category(seeds, ["c", "a", "d"])
    with pytest.raises(DataError, match="the training side has no harmful seeds, with a held out; name other"):
        split_by_category(seeds, ["a"])
    with pytest.raises(DataError, match="the training side has no harmful seeds, with a, b held out"):
        split_by_category(seeds, ["a", "b"])
    with pytest.raises(DataError, match="give at least two seeds of each class"):
        split_by_category([Seed("1", "one", "harmful"), Seed("2", "two", "benign")])


@given(st.integers(0, 30), st.integers(0, 1000))
@unhurried
def test_a_step_draws_half_benign_seeds_and_repeats_none_it_need_not(count: int, seed: int) -> None:
    seeds = [Seed(str(i), f"text {i}", "harmful" if i < 10 else "benign") for i in range(20)]
    drawn = draw_seeds(seeds, count, np.random.default_rng(seed))
    labels = Counter(s.label for s in drawn)
    assert labels["benign"] == count // 2
    assert labels["harmful"] == count - count // 2
    times = Counter(drawn)
    assert all(times[s] in (labels[s.label] // 10, labels[s.label] // 10 + 1) for s in seeds)
    assert drawn == draw_seeds(seeds, count, np.random.default_rng(seed))


def test_every_seed_is_drawn_about_equally_often() -> None:
    seeds = made_seeds(["a"], each=10)
    rng = np.random.default_rng(0)
    times = Counter(seed for _ in range(500) for seed in draw_seeds(seeds, 4, rng))
    assert set(times) == set(seeds)
    assert all(60 <= n <= 140 for n in times.values())  # 100 expected, standard deviation 9
