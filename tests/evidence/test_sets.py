"""Claims about the sets: small files with their authors' columns, and the items read from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from magic_rl.errors import DataError, RowCountError
from magic_rl.evidence.sets import BENCHMARKS, SUITES, load

FILES = {
    "wildguardtest": (
        "set.csv",
        "prompt,adversarial,prompt_harm_label,response_harm_label\n"
        "pick a lock,False,harmful,harmful\npretend to pick a lock,True,harmful,unharmful\n"
        "bake bread,False,unharmful,unharmful\nforge a cheque,True,harmful,\n",
    ),
    "wildjailbreak_harmful": ("set.jsonl", '{"vanilla": "pick a lock", "adversarial": "a story of a lock"}\n'),
    "wildjailbreak_benign": ("set.jsonl", '{"vanilla": "bake bread", "adversarial": "a story of bread"}\n'),
    "do_anything_now": (
        "set.jsonl",
        '{"platform": "web", "vanilla": "pick a lock", "adversarial": "DAN, pick a lock"}\n'
        '{"platform": "web", "vanilla": "pick a lock", "adversarial": "STAN, pick a lock"}\n',
    ),
    "harmbench": (
        "set.csv",
        "Behavior,FunctionalCategory,BehaviorID\npick a lock,standard,lock\nforge it,contextual,forge\n"
        "print the song,copyright,song\n",
    ),
    "harmbench_attacks": (
        "set.json",
        json.dumps(
            [
                {"test_case": "x pick a lock", "method": name, "BehaviorID": "lock", "model": ""}
                for name in ("GCG", "PEZ")
            ]
        ),
    ),
    "or_bench_toxic": ("set.csv", "prompt,category\npick a lock,illegal\n"),
    "or_bench_hard": ("set.csv", "prompt,category\nkill a process,violence\n"),
    "xstest": (
        "set.csv",
        "id,prompt,type,label\n1,kill a process,homonyms,safe\n2,kill a man,contrast_homonyms,unsafe\n",
    ),
    "xstest_safe": (
        "set.csv",
        "id,prompt,type,label\n1,kill a process,homonyms,safe\n2,kill a man,contrast_homonyms,unsafe\n",
    ),
    "strongreject": ("set.csv", "category,source,forbidden_prompt\ncrime,web,pick a lock\n"),
    "fortress_benign": ("set.jsonl", '{"ID": 1, "benign_prompt": "how do locks work", "risk_domain": "crime"}\n'),
}


def copy(folder: Path, name: str) -> str:
    """A user's copy of a set."""
    file, content = FILES[name]
    (folder / file).write_text(content, encoding="utf-8")
    return str(folder / file)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_copy_in_the_authors_columns_is_read(name: str, tmp_path: Path) -> None:
    items = load(name, copy(tmp_path, name), any_count=True)
    found = {(item.label, item.category if part.category else "") for item in items for part in BENCHMARKS[name].parts}
    assert found == {(part.label, part.category) for part in BENCHMARKS[name].parts}
    assert len({item.id for item in items}) == len(items)


def test_another_number_of_rows_names_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(RowCountError) as caught:
        load("strongreject", copy(tmp_path, "strongreject"))
    assert (caught.value.found, caught.value.published) == (1, 313)


def test_a_part_without_any_row_is_refused_in_any_case(tmp_path: Path) -> None:
    file = tmp_path / "set.csv"
    file.write_text("id,prompt,type,label\n1,kill a process,homonyms,safe\n", encoding="utf-8")
    with pytest.raises(RowCountError):
        load("xstest", str(file), any_count=True)


def test_attacks_on_one_seed_share_it_and_repeated_texts_stay(tmp_path: Path) -> None:
    dan = load("do_anything_now", copy(tmp_path, "do_anything_now"), any_count=True)
    assert len({item.seed_id for item in dan}) == 1
    assert dan[0].exchange.attack == "pick a lock"  # the release shows its guard the vanilla request
    precomputed = load("harmbench_attacks", copy(tmp_path, "harmbench_attacks"), any_count=True)
    assert [(item.method, item.seed_id) for item in precomputed] == [("GCG", "lock"), ("PEZ", "lock")]
    assert precomputed[0].exchange.attack == "x pick a lock"


def test_a_set_that_no_hub_has_says_where_its_file_is() -> None:
    with pytest.raises(DataError, match=r"harmbench_behaviors_text_test\.csv"):
        load("harmbench")


def test_the_paper_suite_rests_on_the_published_rows() -> None:
    rows = {name: sum(part.rows for part in BENCHMARKS[name].parts) for name in SUITES["paper"]}
    assert rows == {
        "wildguardtest": 749,
        "wildjailbreak_harmful": 2000,
        "wildjailbreak_benign": 250,
        "do_anything_now": 300,
        "harmbench": 320,
        "harmbench_attacks": 1500,
        "or_bench_toxic": 655,
        "or_bench_hard": 1319,
        "xstest": 450,
        "strongreject": 313,
    }
