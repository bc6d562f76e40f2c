"""Corrections for samples that another program drew: worked out by hand, and exactly on one table of probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from magic_rl.learning.correction import LIMITS, correct, weights
from magic_rl.types import Datum

RATIOS = np.array([0.2, 0.9, 1.5, 4.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", [1, 1, 1, 1]),
        ("token_truncate", [0.2, 0.9, 1.5, 2.0]),
        ("token_mask", [0, 0.9, 1.5, 0]),
        ("sequence_mask", [1.08] * 4),
        ("geometric_mask", [0, 0, 0, 0]),
    ],
)
def test_weights_are_those_of_the_papers(kind: Any, expected: list[float]) -> None:
    assert weights(np.log(RATIOS), kind, LIMITS.get(kind, (0, 1))) == pytest.approx(expected)


def test_a_sequence_is_masked_by_its_product_or_by_its_mean() -> None:
    drift = np.full(100, 0.0009)  # within a thousandth per token, 9 % over the sequence
    assert weights(drift, "geometric_mask", LIMITS["geometric_mask"]) == pytest.approx(np.ones(100))
    assert not weights(drift, "sequence_mask", (0.95, 1.05)).any()


def test_what_differs_is_measured_over_all_tokens() -> None:
    datums = [Datum((1,), (2,), 1.0, (2.0,), (-1.0,)), Datum((1,), (3, 4, 5), 1.0, (-1.0,) * 3, (-1.0,) * 3)]
    rescored = [(-1.0,), (-1.0, -1.0, -1.0 + float(np.log(4.0)))]
    corrected, metrics = correct(datums, rescored, "token_truncate")
    assert [datum.logprobs for datum in corrected] == rescored
    assert corrected[0].advantages == (2.0,)
    assert corrected[1].advantages == pytest.approx((-1.0, -1.0, -2.0))
    assert metrics["mismatch"] == pytest.approx(np.log(4.0) / 4)
    assert metrics["mismatch_outside"] == 0.25
    assert metrics["effective_samples"] == pytest.approx(5**2 / (4 * 7))


def test_importance_weights_make_the_gradient_that_of_the_learner() -> None:
    rng = np.random.default_rng(1)
    learner, sampler = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
    advantages = rng.normal(size=5)

    def gradient(kind: Any, limits: tuple[float, float]) -> np.ndarray[Any, Any]:
        """Exact policy gradient with respect to the logits, in expectation over the sampler's tokens."""
        total = np.zeros(5)
        for token in range(5):
            datum = Datum((0,), (token,), 1.0, (advantages[token],), (float(np.log(sampler[token])),))
            (corrected,), _ = correct([datum], [(float(np.log(learner[token])),)], kind, limits)
            total += sampler[token] * corrected.advantages[0] * (np.eye(5)[token] - learner)
        return total

    exact = learner * advantages @ (np.eye(5) - learner)
    assert gradient("token_truncate", (0.0, 1e9)) == pytest.approx(exact)
    assert np.abs(gradient("none", (0.0, 1.0)) - exact).max() > 0.1
