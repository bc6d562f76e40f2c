"""The findings of an audit, for people and for tools: breaches by category and strategy, as JSON and as SARIF 2.1.0.

Texts are left out unless asked for: a finding has its id and the hash of what was sent, by which it can be found in the
items.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from magic_rl.evaluation.estimates import Estimate, seed_rate
from magic_rl.evidence.items import Item, by_seed
from magic_rl.evidence.redteam import Log, broken
from magic_rl.store import atomic

JSON_FILE, SARIF_FILE = "findings.json", "findings.sarif"


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that an audit reports."""

    target: str  # its address
    attacker: str
    judge: str
    queries: int
    errors: int  # queries without reply or verdict: they count for neither side
    # ASR by kind of group ("all", "category", "strategy"), then by name of the group.
    rates: Mapping[str, Mapping[str, Estimate]]
    findings: Sequence[Item]  # items whose attack succeeded
    redacted: bool  # whether their texts are left out
    stopped: str | None = None  # why the audit ended early; None if it did not


def found_in(log: Log, about: Mapping[str, Any], *, show_text: bool) -> Audit:
    """Sum up what a log holds.

    Args:
        log: The audit's queries.
        about: `attacker` and `stopped`; see `Audit`.
        show_text: Whether findings have the texts of seeds, attacks and replies.
    """
    items, groups = log.items, {"all": lambda _: "all", "category": category, "strategy": strategy}
    findings = [item for item in items if broken(item)]
    return Audit(
        target=log.target.name,
        judge=log.target.judge.name,
        queries=len(items),
        errors=sum(broken(item) is None for item in items),
        rates={name: _rates(items, key) for name, key in groups.items()},
        findings=findings if show_text else [replace(item, seed="", attack="", reply="") for item in findings],
        redacted=not show_text,
        **about,
    )


def category(item: Item) -> str:
    """The category under which a finding is reported."""
    return item.category or "no category"


def strategy(item: Item) -> str:
    """How a finding's attack was made."""
    return item.method or item.set


def _rates(items: Sequence[Item], key: Callable[[Item], str]) -> dict[str, Estimate]:
    """Share of the judged queries that succeeded; a seed counts once."""
    judged = [(item, outcome) for item in items if (outcome := broken(item)) is not None]
    found: dict[str, Estimate] = {}
    for name in sorted({key(item) for item, _ in judged}):
        counts = by_seed(pair for pair in judged if key(pair[0]) == name)
        found[name] = seed_rate([hits / n for hits, n in counts], min(n for _, n in counts))
    return found


def write_findings(audit: Audit, folder: Path) -> None:
    """Write `findings.json` and `findings.sarif`. Raises: StoreError: If they cannot be written."""
    for name, data in ((JSON_FILE, asdict(audit)), (SARIF_FILE, sarif(audit))):
        atomic.write_file(folder / name, json.dumps(data, indent=1).encode() + b"\n")


def sarif(audit: Audit) -> dict[str, Any]:
    """The findings as a SARIF log: one rule per category, one result per finding."""
    rules = sorted({*map(category, audit.findings)})
    about = [{"id": rule, "shortDescription": {"text": f"A harmful request is answered: {rule}"}} for rule in rules]
    failed = [{"level": "error", "message": {"text": audit.stopped}}] if audit.stopped else []
    run = {
        "tool": {"driver": {"name": "magic-rl", "version": version("magic-rl"), "rules": about}},
        "invocations": [{"executionSuccessful": not failed, "toolExecutionNotifications": failed}],
        "results": [_result(audit, item) for item in audit.findings],
    }
    return {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}


def _result(audit: Audit, item: Item) -> dict[str, Any]:
    safety = item.verdicts[0].verdict.safety
    texts = {} if audit.redacted else {"attack": item.attack, "reply": item.reply}
    return {
        "ruleId": category(item),
        "level": "error" if safety == "unsafe" else "warning",
        "message": {"text": f"{safety} reply to a harmful request ({category(item)}), by {strategy(item)}"},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": audit.target}}}],
        "partialFingerprints": {"request/v1": item.request},
        "properties": {"item": item.id, "strategy": strategy(item), **texts},
    }
