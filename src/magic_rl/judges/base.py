"""The protocol of judges. A judge that cannot tell abstains; it never guesses, and an abstention never means "safe"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from magic_rl.types import Exchange, Verdict


class Judge(Protocol):
    """Labels exchanges in one batched call."""

    @property
    def name(self) -> str:
        """Name and version of the judge, for reports."""

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order. Verdicts with `abstained` set carry no label."""


class RetryingJudge:
    """A judge that asks its models again after an abstention, so its caller need not."""

    retries: int  # how often it asks again
