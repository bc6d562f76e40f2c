"""Asking a judge: after an abstention it is asked again, and too many abstentions stop the run.

An abstention that remains is passed on as an abstention, never read as "safe". Too many are an error, because numbers
over the episodes that happen to be judged would say little about all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from magic_rl.errors import TooManyAbstentionsError
from magic_rl.judges.base import Judge, RetryingJudge
from magic_rl.types import Exchange, Verdict

_FEW = 20
_SILENT = Verdict(abstained="the judge says nothing of refusals: ask it beside one that does")


def ask(
    judge: Judge, exchanges: Sequence[Exchange], *, retries: int, max_abstained: float, needs_refusal: bool = True
) -> list[Verdict]:
    """Judge exchanges in one batch and ask the abstained ones again.

    Args:
        retries: How often abstentions are asked again, all that remain in one batch. A `RetryingJudge` is asked once:
            it has asked again itself, and in a batch of abstentions alone a member would exceed its limit.
        max_abstained: Share of abstentions, 0–1, that may remain; see `exceeds`.
        needs_refusal: Whether a verdict that does not say if the reply refuses counts as an abstention.

    Returns:
        One verdict per exchange, in order; those with `abstained` set carry no label.

    Raises:
        TooManyAbstentionsError: If more remain.
        ValueError: If the judge returns another number of verdicts than it was given exchanges.
    """
    retries_itself = isinstance(judge, RetryingJudge)
    verdicts, waiting = [Verdict(abstained="not asked")] * len(exchanges), list(range(len(exchanges)))
    for _ in range(1 if retries_itself else 1 + retries):
        said = list(judge.judge([exchanges[i] for i in waiting])) if waiting else []
        if len(said) != len(waiting):
            raise ValueError(f"judge {judge.name!r} returned {len(said)} verdicts for {len(waiting)} exchanges")
        for i, verdict in zip(waiting, said, strict=True):
            silent = needs_refusal and verdict.refused is None and verdict.abstained is None
            verdicts[i] = _SILENT if silent else verdict
        waiting = [i for i in waiting if verdicts[i].abstained is not None]
    if exceeds(len(waiting), len(verdicts), max_abstained):
        times = judge.retries if isinstance(judge, RetryingJudge) else retries
        (reason, most), *_ = Counter(verdicts[i].abstained for i in waiting).most_common(1)
        raise TooManyAbstentionsError(
            f"judge {judge.name!r}: no verdict on {len(waiting)} of {len(verdicts)} replies after {times} "
            f"{'retry' if times == 1 else 'retries'} (limit {max_abstained:.0%}; {most} times: {reason}); "
            "look at these replies and the judge's log, use another judge",
            "allow abstentions",
        )
    return verdicts


def exceeds(count: int, n: int, limit: float) -> bool:
    """Whether `count` of `n` exceeds a share; if `n` is below 20, only a count above one and above half does."""
    return count > limit * n if n >= _FEW else count > 1 and count > max(0.5, limit) * n
