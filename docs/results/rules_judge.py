"""How far the rules judge agrees with people: the tables of docs/JUDGE.md.

    python docs/results/rules_judge.py
    python docs/results/rules_judge.py pyrit/lib/python3.11/site-packages/pyrit/datasets/scorer_evals

Without a folder it judges the hand-labelled replies of tests/judges; a verdict is right if safety and refusal both are.
With PyRIT's folder of labelled replies it judges its refusals and objectives: short replies, long ones, and long ones
with the rules for short replies.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from magic_rl.evaluation.agreement import Agreement
from magic_rl.evaluation.estimates import Estimate, rate
from magic_rl.judges.rules import RulesJudge, long, reading
from magic_rl.types import Exchange, Label, Seed, Verdict

OWN = Path(__file__).parents[2] / "tests" / "judges"
REFUSALS = ("refusal_scorer/refusal.csv", "sample/mini_refusal.csv")
Row = tuple[str, str, bool]  # what was asked, the reply, and what people say


def judged(label: Label, asked: str, reply: str) -> Verdict:
    """The verdict on a reply to a plain request."""
    (verdict,) = RulesJudge().judge([Exchange(Seed("", asked, label), asked, reply)])
    return verdict


def shown(*rates: Estimate) -> str:
    """Rates in percent, with intervals."""
    return " ".join(f"{100 * each.value:6.1f} [{100 * each.low:.1f}, {100 * each.high:.1f}]" for each in rates)


def own() -> None:
    """Print the agreement on replies labelled by hand."""
    for name in ("replies.jsonl", "short_replies.jsonl"):
        rows = [json.loads(line) for line in (OWN / name).read_text(encoding="utf-8").splitlines()]
        for part in ("dev", "held_out"):
            some, right = [row for row in rows if row["part"] == part], 0
            for row in some:
                verdict = judged(row["label"], row["seed"], row["reply"])
                expected = (row["safety"], row.get("refused", verdict.refused), None)  # not all are labelled for both
                right += (verdict.safety, verdict.refused, verdict.abstained) == expected
            print(f"{name:<20} {part:<9} n {len(some):>3}  accuracy {shown(rate(right, len(some)))}")


def rows_of(files: Sequence[Path]) -> list[Row]:
    """The distinct rows of PyRIT's tables, in which lines that begin with "# " are comments."""
    found: dict[tuple[str, str], bool] = {}
    for file in files:
        lines = [line for line in file.open(encoding="utf-8", newline="") if not line.startswith("# ")]
        for row in csv.DictReader(lines):
            yes = row["human_score"].strip().lower() in ("1", "1.0", "true", "yes")
            found.setdefault((row["objective"], row["assistant_response"]), yes)
    return [(*texts, yes) for texts, yes in found.items()]


def answer(question: str, row: Row) -> bool | None:
    """The rules' answer to a question about a row; None if they abstain."""
    verdict = judged("harmful" if question == "objective" else "benign", row[0], row[1])
    if verdict.abstained is not None:
        return None
    if question == "objective":
        return verdict.safety != "safe"
    return bool(verdict.refused) or ("something else" in question and verdict.on_topic is False)


def pyrit(folder: Path) -> None:
    """Print the agreement on replies labelled by people for PyRIT."""
    refusals = rows_of([folder / name for name in REFUSALS])
    sets = {
        "refusal": refusals,
        "refusal, or an answer to something else": refusals,
        "objective": rows_of(sorted((folder / "objective").glob("*.csv"))),
    }
    least = long.LONG
    for question, rows in sets.items():
        short, longer = (
            [row for row in rows if (len(reading.words(reading.normal(row[1]))) >= least) == is_long]
            for is_long in (0, 1)
        )
        for which, some, limit in (
            ("short", short, least),
            ("long", longer, least),
            ("long, as if short", longer, sys.maxsize),
        ):
            long.LONG = limit
            agreed = Agreement.of([yes for *_, yes in some], [answer(question, row) for row in some])
            rates = agreed.rates()
            said = shown(rates["accuracy"], rates["precision"], rates["recall"])
            print(f"{question:<40} {which:<18} n {rates['accuracy'].n:>3}  {said}  abstained {agreed.abstained}")
        long.LONG = least


if __name__ == "__main__":
    if len(sys.argv) > 1:
        pyrit(Path(sys.argv[1]))
    else:
        own()
