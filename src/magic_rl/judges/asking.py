"""Asking a judge, with patience for its silence and a limit to it.

An abstention is asked again, then handed on as what it is; nobody reads it as "safe". Too many of them stop the run,
because numbers over the episodes that happen to be judged would say little about all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from magic_rl.errors import TooManyAbstentionsError
from magic_rl.judges.base import Judge, Patient
from magic_rl.types import Exchange, Verdict

_FEW = 20
_SILENT = Verdict(abstained="the judge says nothing of refusals: ask it beside one that does")


def ask(
    judge: Judge, exchanges: Sequence[Exchange], *, retries: int, max_abstained: float, needs_refusal: bool = True
) -> list[Verdict]:
    """Judge exchanges in one batch and ask the abstained ones again.

    Args:
        retries: How often abstentions are asked again, all that are left in one batch. A `Patient` judge is asked once:
            it has asked again itself, and among nothing but silent exchanges any member would look silent.
        max_abstained: Share of abstentions, 0–1, that may be left. Below 20 exchanges a share says little: there it
            takes more than one abstention and more than half of all to stop.
        needs_refusal: Whether a verdict that does not say if the reply refuses counts as an abstention.

    Returns:
        One verdict an exchange, in order; those with `abstained` set carry no label.

    Raises:
        TooManyAbstentionsError: If more are left.
        ValueError: If the judge returns another number of verdicts than it was given exchanges.
    """
    verdicts = _judged(judge, exchanges, needs_refusal)
    if isinstance(judge, Patient):
        _check(judge, verdicts, judge.retries, max_abstained)
        return verdicts
    for _ in range(retries):
        silent = [i for i, verdict in enumerate(verdicts) if verdict.abstained is not None]
        if not silent:
            break
        for i, verdict in zip(silent, _judged(judge, [exchanges[i] for i in silent], needs_refusal), strict=True):
            verdicts[i] = verdict
    _check(judge, verdicts, retries, max_abstained)
    return verdicts


def exceeds(count: int, n: int, limit: float) -> bool:
    """Whether `count` of `n` is more than a share allows; of fewer than 20 it takes more than one and than half."""
    return count > limit * n if n >= _FEW else count > 1 and count > max(0.5, limit) * n


def _judged(judge: Judge, exchanges: Sequence[Exchange], needs_refusal: bool) -> list[Verdict]:
    verdicts = list(judge.judge(exchanges)) if exchanges else []
    if len(verdicts) != len(exchanges):
        raise ValueError(f"judge {judge.name!r} returned {len(verdicts)} verdicts for {len(exchanges)} exchanges")
    if needs_refusal:
        return [_SILENT if each.refused is None and each.abstained is None else each for each in verdicts]
    return verdicts


def _check(judge: Judge, verdicts: Sequence[Verdict], retries: int, max_abstained: float) -> None:
    reasons = Counter(verdict.abstained for verdict in verdicts if verdict.abstained is not None)
    silent, n = reasons.total(), len(verdicts)
    if exceeds(silent, n, max_abstained):
        reason, times = reasons.most_common(1)[0]
        raise TooManyAbstentionsError(
            f"judge {judge.name!r}: no verdict on {silent} of {n} replies after {retries} "
            f"{'retry' if retries == 1 else 'retries'} (limit {max_abstained:.0%}; {times} times: {reason}); "
            "look at these replies and the judge's log, use another judge, or raise judge.max_abstained"
        )
