"""Who labels. A judge that cannot tell abstains; it never guesses, and nobody reads silence as "safe"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from magic_rl.types import Exchange, Verdict


class Judge(Protocol):
    """Labels exchanges in one batched call."""

    @property
    def name(self) -> str:
        """Name and version of the judge, as reports state it."""

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order. Verdicts with `abstained` set carry no label."""


class Patient:
    """A judge that asks again itself where it is met with silence, so that nobody has to ask it twice."""

    retries: int  # how often it does so
