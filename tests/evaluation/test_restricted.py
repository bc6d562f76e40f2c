"""The game among saved players, solved by hand."""

from __future__ import annotations

import pytest

from magic_rl.evaluation.estimates import rate
from magic_rl.evaluation.restricted import restricted_game
from magic_rl.evaluation.result import Crossplay
from tests.support.evaluations import replies


def crossplay(asr: list[list[int]], n: int = 10) -> Crossplay:
    """Two defenders that answer every benign request."""
    return Crossplay(
        attackers=[None, 1],
        defenders=[0, 3],
        compared={"vanilla": 0},
        asr=[[rate(k, n) for k in row] for row in asr],
        compliance=[[rate(n, n)] * 2] * 2,
        replies=[replies(), replies()],
        abstained=0,
    )


def test_a_defender_better_against_everyone_is_the_whole_equilibrium() -> None:
    found = restricted_game(crossplay([[2, 0], [8, 3]]))
    assert found is not None
    assert found.value == pytest.approx(0.7)
    assert found.attackers == pytest.approx({None: 0, 1: 1})
    assert found.defenders[3] == pytest.approx((1, 0.7, 0))
    assert found.defenders[0] == pytest.approx((0, 0.2, 0.5))


def test_defenders_weak_against_different_attackers_are_mixed() -> None:
    found = restricted_game(crossplay([[0, 8], [8, 0]]))
    assert found is not None
    assert found.value == pytest.approx(0.6)
    assert [found.defenders[k] for k in (0, 3)] == [pytest.approx((0.5, 0.2, 0.4))] * 2


def test_no_game_is_made_up_where_nobody_was_measured() -> None:
    assert restricted_game(crossplay([[0, 0], [0, 0]], n=0)) is None
