"""Claims about matrix games: the solver's mixtures are the equilibrium, by arithmetic and by theorem."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from magic_rl.theory.matrix import Array, maximin, solve

PAYOFFS = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-2, 2, width=32))


def test_rock_paper_scissors_is_played_evenly_and_is_worth_nothing() -> None:
    found = maximin(np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]))
    assert found.weights == pytest.approx(np.full(3, 1 / 3))
    assert found.value == pytest.approx(0.0, abs=1e-9)


def test_a_game_of_two_by_two_has_the_solution_of_the_textbook() -> None:
    (a, b), (c, d) = rows = (3.0, -1.0), (-2.0, 1.0)  # no saddle point, so both players mix
    found = maximin(np.array(rows))
    assert found.weights[0] == pytest.approx((d - c) / (a - b - c + d))
    assert found.value == pytest.approx((a * d - b * c) / (a - b - c + d))


def test_a_dominated_row_is_never_played() -> None:
    assert maximin(np.array([[0.0, 1.0], [-1.0, 0.5], [1.0, 0.0]])).weights[1] == 0.0


@given(PAYOFFS)
def test_both_players_maximin_mixtures_are_worth_the_same(payoffs: Array) -> None:
    """Von Neumann's theorem: then neither gains by any deviation, pure or mixed."""
    row, column = maximin(payoffs), maximin(-payoffs.T)
    for mixture in (row.weights, column.weights):
        assert (mixture >= 0).all()
        assert mixture.sum() == pytest.approx(1.0)
    assert row.value == pytest.approx(-column.value, abs=1e-7)
    assert row.value >= payoffs.min(axis=1).max() - 1e-7  # at least as good as the best pure row


@pytest.mark.parametrize("payoffs", [np.zeros((0, 2)), np.zeros((2, 0)), np.zeros(3), np.array([[np.nan]])])
def test_what_is_no_matrix_of_finite_payoffs_is_refused(payoffs: Array) -> None:
    with pytest.raises(ValueError, match="matrix of finite numbers"):
        maximin(payoffs)


def test_at_a_saddle_point_only_the_other_choices_can_be_exploited() -> None:
    found = solve(np.array([[3.0, 2.0], [4.0, 1.0]]))  # row 0 and column 1 are best against both
    assert (found.rows.tolist(), found.columns.tolist(), found.value) == ([1.0, 0.0], [0.0, 1.0], 2.0)
    assert found.row_exploitability == pytest.approx([0.0, 1.0])
    assert found.column_exploitability == pytest.approx([2.0, 0.0])


@given(PAYOFFS)
def test_no_mixture_is_less_exploitable_than_the_equilibrium(payoffs: Array) -> None:
    found = solve(payoffs)
    worst, best = payoffs.min(axis=1), payoffs.max(axis=0)
    assert found.row_exploitability == pytest.approx(found.value - worst, abs=1e-7)
    assert found.column_exploitability == pytest.approx(best - found.value, abs=1e-7)
    assert min(*found.row_exploitability, *found.column_exploitability) >= 0
    assert (found.rows @ payoffs).min() == pytest.approx(found.value, abs=1e-7)
    assert (payoffs @ found.columns).max() == pytest.approx(found.value, abs=1e-7)
