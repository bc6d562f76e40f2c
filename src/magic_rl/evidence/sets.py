"""The sets of each suite: the number of rows behind published numbers, and how the release counts them.

Rows are read through `data.registry`. A copy with another number of rows gives other numbers, so it is an error unless
the user allows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from magic_rl.data.seeds import read_attacks
from magic_rl.errors import RowCountError
from magic_rl.evidence.counting import RULES, Rule
from magic_rl.evidence.items import Item, hash_of
from magic_rl.types import Label

Suite = Literal["paper", "overrefusal", "capability"]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a set that are counted together."""

    label: Label  # label of their seeds
    rows: int  # number of rows behind the published numbers
    rule: str  # name of the release's rule in `counting.RULES`
    category: str = ""  # their category, in sets with parts by category

    @property
    def release(self) -> Rule:
        """The rule by which the release counts them."""
        return RULES[self.rule]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How a set is evaluated."""

    source: str  # its name in the registry
    parts: tuple[Part, ...]  # rows in no part are left out
    # What the judge is shown as the request. The release shows its guard the vanilla request if there is one, else the
    # attack.
    judged: Literal["attack", "seed"] = "attack"
    max_tokens: int = 512  # the release's length limit of replies


_XSTEST = (Part("harmful", 200, "refused"), Part("benign", 250, "answered"))

BENCHMARKS: Mapping[str, Benchmark] = {
    "wildguardtest": Benchmark(
        "wildguardtest-harmful",
        (Part("harmful", 337, "harmful", "adversarial"), Part("harmful", 412, "harmful", "vanilla")),
    ),
    "wildjailbreak_harmful": Benchmark("wildjailbreak-eval-harmful", (Part("harmful", 2000, "not refused"),), "seed"),
    "wildjailbreak_benign": Benchmark("wildjailbreak-eval-benign", (Part("benign", 250, "complied"),)),
    "do_anything_now": Benchmark("do-anything-now", (Part("harmful", 300, "not refused"),), "seed"),
    "harmbench": Benchmark(
        "harmbench-test",
        tuple(
            Part("harmful", rows, "harmful", category)
            for category, rows in (("standard", 159), ("contextual", 81), ("copyright", 80))
        ),
    ),
    "harmbench_attacks": Benchmark("harmbench-attacks", (Part("harmful", 1500, "harmful"),)),
    "or_bench_toxic": Benchmark("or-bench-toxic", (Part("harmful", 655, "refused"),)),
    "or_bench_hard": Benchmark("or-bench-hard", (Part("benign", 1319, "answered"),)),
    "xstest": Benchmark("xstest", _XSTEST),
    "xstest_safe": Benchmark("xstest", _XSTEST[1:]),
    "strongreject": Benchmark("strongreject", (Part("harmful", 313, "resisted"),), max_tokens=2048),
    "fortress_benign": Benchmark("fortress-benign", (Part("benign", 500, "answered"),)),
}

# `xstest_safe` is a part of `xstest`; FORTRESS is not in the paper. The last suite consists of `inspect_evals` tasks.
SUITES: dict[Suite, tuple[str, ...]] = {
    "paper": tuple(name for name in BENCHMARKS if name not in ("xstest_safe", "fortress_benign")),
    "overrefusal": ("xstest_safe", "or_bench_hard", "fortress_benign"),
    "capability": tuple(f"inspect_evals/{name}" for name in ("ifeval", "arc_challenge", "gpqa_diamond", "mmlu_0_shot")),
}


def load(name: str, file: str = "", *, any_count: bool = False) -> list[Item]:
    """The rows of a set as items without replies.

    Args:
        name: Its name in `BENCHMARKS`.
        file: The user's copy, with the set's own columns; empty reads the hub.
        any_count: Whether to accept other numbers of rows than the published ones.

    Raises:
        DataError: For a set that cannot be read.
        RowCountError: If a part has another number of rows, or none.
    """
    benchmark = BENCHMARKS[name]
    where, rows = read_attacks(f"{benchmark.source}:{file}" if file else benchmark.source)
    parts = [part_of(benchmark, row.seed.label, row.seed.category) for row in rows]
    found = Counter(parts)
    for part in benchmark.parts:
        if not found[part] or (found[part] != part.rows and not any_count):
            kind = " ".join(filter(None, (part.category, part.label)))
            raise RowCountError(where, kind=kind, found=found[part], published=part.rows)
    items = []
    before = Counter[str]()  # how often each text occurred so far
    for row, belongs in zip(rows, parts, strict=True):
        if not belongs:
            continue
        request = hash_of(row.text)
        repeat = f"-{before[request]}" if before[request] else ""
        before[request] += 1
        item = replace(Item.about(row.seed), set=name, id=f"{request[:12]}{repeat}", method=row.method)
        items.append(replace(item, attack=row.text, request=request, judged=benchmark.judged))
    return items


def part_of(benchmark: Benchmark, label: Label, category: str) -> Part | None:
    """The part that a row belongs to; None if there is none."""
    return next((p for p in benchmark.parts if p.label == label and p.category in ("", category)), None)
