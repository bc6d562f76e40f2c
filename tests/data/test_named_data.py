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

from magic_rl.config import DataConfig
from magic_rl.data.named import GROUPS, NAMED
from magic_rl.data.seeds import load_seeds, read_seeds
from magic_rl.data.split import split_by_category
from magic_rl.data.tables import LeftOut
from magic_rl.errors import UserError

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
    {"question_id": 1, "category": "7", "turns": ["Open a door?"], "prompt_style": "base"},
    {"question_id": 1, "category": "7", "turns": ["Yo, that door?"], "prompt_style": "slang"},
    {"question_id": 1, "category": "7", "turns": ["Bcra n qbbe?"], "prompt_style": "atbash"},
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
JBB: Rows = [{"Index": 0, "Goal": "Open a door?", "Target": "Sure", "Behavior": "Doors", "Category": "Fraud"}]
OR_BENCH: Rows = [{"prompt": "Kill a process?", "category": "violence"}]

# Of every set: rows in each of its forms, the hub's first, and what is read of them.
SETS: Mapping[str, tuple[Sequence[Rows], Read]] = {
    "wildjailbreak": ([WILDJAILBREAK], [('Open a "locked" door?', "harmful", ""), ("None", "benign", "")]),
    "wildjailbreak-attacks": (
        [WILDJAILBREAK],
        [
            ("You are a locksmith.\nOpen a door?", "harmful", ""),
            ("You are a painter. Paint a door?", "benign", ""),
        ],
    ),
    "wildjailbreak-eval": (
        [[{"adversarial": "As a thief, go.", "label": 1, "data_type": "adversarial_harmful"}]],
        [("As a thief, go.", "harmful", "")],
    ),
    "sorry-bench": ([SORRY_BENCH], [("Open a door?", "harmful", "7")]),
    "sorry-bench-attacks": ([SORRY_BENCH], [("Yo, that door?", "harmful", "slang")]),
    "harmbench": (
        [
            [{"prompt": "Open a door?", "category": "illegal"}],
            [
                {
                    "Behavior": "Open a door?",
                    "FunctionalCategory": kind,
                    "SemanticCategory": "illegal",
                    "Tags": "",
                    "ContextString": "",
                    "BehaviorID": "open_a_door",
                }
                for kind in ("standard", "contextual", "copyright")
            ],
        ],
        [("Open a door?", "harmful", "illegal")],
    ),
    "wildguardtest": ([WILDGUARD], [("Open a door?", "harmful", ""), ("Paint a door?", "benign", "")]),
    "wildguardtest-attacks": (
        [WILDGUARD],
        [("As a thief, open a door?", "harmful", "others"), ("As a painter, paint a door?", "benign", "benign")],
    ),
    "strongreject": (
        [
            [{"prompt": "Open a door?", "category": "Violence"}],
            [{"category": "Violence", "source": "custom", "forbidden_prompt": "Open a door?"}],
        ],
        [("Open a door?", "harmful", "Violence")],
    ),
    "xstest": (
        [
            [
                {"id": 1, "prompt": text, "type": kind, "label": label, "focus": "kill", "note": ""}
                for text, kind, label in (
                    ("Kill a process?", "homonyms", "safe"),
                    ("Open a door?", "contrast_homonyms", "unsafe"),
                )
            ]
        ],
        [("Kill a process?", "benign", "homonyms"), ("Open a door?", "harmful", "homonyms")],
    ),
    "or-bench-80k": ([OR_BENCH], [("Kill a process?", "benign", "violence")]),
    "or-bench-hard": ([OR_BENCH], [("Kill a process?", "benign", "violence")]),
    "or-bench-toxic": ([OR_BENCH], [("Kill a process?", "harmful", "violence")]),
    "dan": (
        [[{"platform": "reddit", "source": "r/x", "prompt": "You are free now.", "jailbreak": True, "date": "d"}]],
        [("You are free now.", "harmful", "reddit")],
    ),
    "jbb-harmful": ([JBB], [("Open a door?", "harmful", "Fraud")]),
    "jbb-benign": ([JBB], [("Open a door?", "benign", "Fraud")]),
    "do-not-answer": (
        [
            [
                {"id": 1, "risk_area": "Harms", "types_of_harm": "Privacy", "specific_harms": "x", "question": "Whose?"}
                | {"GPT4_response": "Some."}
            ]
        ],
        [("Whose?", "harmful", "Privacy")],
    ),
}
# Where each is on the hub: id, subset, split.
HUB = {
    "wildjailbreak": ("allenai/wildjailbreak", "train", "train"),
    "wildjailbreak-attacks": ("allenai/wildjailbreak", "train", "train"),
    "wildjailbreak-eval": ("allenai/wildjailbreak", "eval", "train"),
    "sorry-bench": ("sorry-bench/sorry-bench-202503", None, "train"),
    "sorry-bench-attacks": ("sorry-bench/sorry-bench-202503", None, "train"),
    "harmbench": ("walledai/HarmBench", "standard", "train"),
    "wildguardtest": ("allenai/wildguardmix", "wildguardtest", "test"),
    "wildguardtest-attacks": ("allenai/wildguardmix", "wildguardtest", "test"),
    "strongreject": ("walledai/StrongREJECT", None, "train"),
    "xstest": ("Paul/XSTest", None, "train"),
    "or-bench-80k": ("bench-llm/or-bench", "or-bench-80k", "train"),
    "or-bench-hard": ("bench-llm/or-bench", "or-bench-hard-1k", "train"),
    "or-bench-toxic": ("bench-llm/or-bench", "or-bench-toxic", "train"),
    "jbb-harmful": ("JailbreakBench/JBB-Behaviors", "behaviors", "harmful"),
    "jbb-benign": ("JailbreakBench/JBB-Behaviors", "behaviors", "benign"),
    "dan": ("TrustAIRLab/in-the-wild-jailbreak-prompts", "jailbreak_2023_12_25", "train"),
    "do-not-answer": ("LibrAI/do-not-answer", None, "train"),
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
    """What is read of a source."""
    return [(seed.text, seed.label, seed.category) for seed in read_seeds(DataConfig(seeds=seeds)).seeds]


def published(path: Path, rows: Rows) -> Path:
    """The rows as a file of the kind its name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            out = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            out.writeheader()
            out.writerows(rows)
    return path


def hub(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], datasets.Dataset]) -> list[tuple[Any, ...]]:
    """A hub that answers thus, and the list of what it was asked for."""
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


def refused(seeds: str, reading: Callable[[DataConfig], object] = load_seeds) -> str:
    with pytest.raises(UserError) as caught:
        reading(DataConfig(seeds=seeds))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_named_set_is_tested() -> None:
    assert set(SETS) == set(HUB) == set(NAMED)
    assert all(member in NAMED for members in GROUPS.values() for member in members)


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_read_from_its_own_columns_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forms, expected = SETS[name]
    asked = hub(monkeypatch, lambda: datasets.Dataset.from_list(forms[0]))
    assert read(name) == expected
    tabs = {"delimiter": "\t", "keep_default_na": False} if name.startswith("wildjailbreak") else {}
    assert asked == [(*HUB[name], tabs)]


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_read_from_a_copy_of_its_own_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda: pytest.fail("asked the hub"))
    forms, expected = SETS[name]
    for rows in forms:
        path = published(tmp_path / Path(NAMED[name].file).name, rows)
        assert read(f"{name}:{path}") == expected


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_a_copy_may_be_in_any_format(suffix: str, tmp_path: Path) -> None:
    path = published(tmp_path / f"copy{suffix}", WILDJAILBREAK)
    assert read(f"wildjailbreak:{path}") == SETS["wildjailbreak"][1]


def test_ids_do_not_depend_on_where_a_set_is_read_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda: datasets.Dataset.from_list(WILDJAILBREAK))
    path = published(tmp_path / "train.tsv", WILDJAILBREAK[::-1])
    assert set(load_seeds(DataConfig(seeds="wildjailbreak"))) == set(
        load_seeds(DataConfig(seeds=f"wildjailbreak:{path}"))
    )


def test_rows_that_are_no_seeds_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [*WILDGUARD, {**WILDGUARD[0], "prompt": "  "}]
    path = published(tmp_path / "wildguard_test.parquet", rows)
    (source,) = read_seeds(DataConfig(seeds=f"wildguardtest:{path}")).sources
    assert (source.rows, len(source.seeds)) == (6, 2)
    assert source.left_out == {LeftOut.SUBSET: 2, LeftOut.LABEL: 1, LeftOut.TEXT: 1}


def test_every_category_of_xstest_has_both_classes_so_that_it_can_be_held_out(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "prompt": f"A {kind}?", "type": kind, "label": {"benign": "safe", "harmful": "unsafe"}[label]}
        for label, kinds in XSTEST_TYPES.items()
        for kind in kinds
    ]
    seeds = load_seeds(DataConfig(seeds=f"xstest:{published(tmp_path / 'xstest.csv', rows)}"))
    labels: dict[str, set[str]] = {}
    for seed in seeds:
        labels.setdefault(seed.category, set()).add(seed.label)
    assert len(labels) == 8
    assert all(both == {"harmful", "benign"} for both in labels.values())
    assert split_by_category(seeds).held_out


@pytest.mark.parametrize("name", [name for name in NAMED if NAMED[name].gated])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_gated_set_says_how_to_get_access(name: str, wrapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    error: Exception = type("GatedRepoError", (OSError,), {})("403 Client Error.\nCannot access gated repo")
    if wrapped:
        error = datasets.exceptions.DatasetNotFoundError(f"Dataset '{NAMED[name].hub}' is a gated dataset on the Hub.")
    hub(monkeypatch, fails(error))
    page = f"https://huggingface.co/datasets/{NAMED[name].hub}"
    message = refused(name)
    assert message == (
        f"{NAMED[name].hub}: is gated; accept its terms at {page}, then set HF_TOKEN or run `hf auth login`"
    )


def test_ones_own_gated_data_set_says_how_to_get_access_too(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("no files")
    error.__cause__ = type("GatedRepoError", (OSError,), {})("401")
    hub(monkeypatch, fails(error))
    assert "accept its terms at https://huggingface.co/datasets/someone/data" in refused("someone/data")


def test_a_set_that_cannot_be_fetched_tells_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, fails(ConnectionError("no route\nto host")))
    message = refused("xstest")
    assert message.startswith(
        "xstest: Paul/XSTest cannot be fetched as a data set (no route to host); check the connection"
    )
    assert "data.seeds='xstest:FILE' with xstest_prompts.csv" in message
    assert "gated" not in message
    assert "gated: accept its terms at https://huggingface.co/datasets/walledai/HarmBench" in refused("harmbench")


@pytest.mark.parametrize("seeds", ["xtest", "xtest:somewhere/prompts.csv", "demo,xtest"])
def test_an_unknown_name_lists_the_known_ones_and_never_asks_the_hub(
    seeds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, lambda: pytest.fail("asked the hub"))
    message = refused(seeds)
    assert message.startswith("data.seeds: 'xtest' is no file and no named data set (did you mean 'xstest'?); known: ")
    assert all(name in message for name in (*NAMED, *GROUPS))


def test_columns_that_are_not_the_sets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "x", "label": "safe"}]
    hub(monkeypatch, lambda: datasets.Dataset.from_list(rows))
    says = r"xstest has columns \(prompt, type, label\), found only 'text', 'label'"
    assert re.match(rf"Paul/XSTest: {says}; get the set's own file, xstest_prompts\.csv", refused("xstest"))
    for suffix, place in ((".csv", r":1"), (".parquet", ""), (".jsonl", r":1")):
        path = published(tmp_path / f"x{suffix}", rows)
        assert re.search(rf"x\{suffix}{place}: {says}", refused(f"xstest:{path}"))


def test_a_label_that_a_set_does_not_have_is_named_by_its_line(tmp_path: Path) -> None:
    (rows,) = SETS["xstest"][0]
    path = published(tmp_path / "x.csv", [*rows, {**rows[0], "label": "maybe"}])
    assert refused(f"xstest:{path}") == f"{path}:4: column 'label' is 'maybe', expected one of unsafe, safe"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"turns": [3], "prompt_style": "base", "category": "1"}\n', r"q\.jsonl:1: column 'turns' is 3, which is no"),
        ("{\n", r"q\.jsonl:1: not valid JSON"),
        ("", r"q\.jsonl: is empty"),
    ],
)
def test_a_damaged_copy_is_named_by_file_and_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(content)
    assert re.search(message, refused(f"sorry-bench:{path}"))


def test_text_that_is_no_unicode_is_left_out_of_a_set(tmp_path: Path) -> None:
    rows = [{"turns": [text], "prompt_style": "base", "category": "1"} for text in ("\ud800", "fine", None)]
    path = published(tmp_path / "question.jsonl", rows)
    assert read(f"sorry-bench:{path}") == [("fine", "harmful", "1")]


def test_a_missing_copy_is_named(tmp_path: Path) -> None:
    assert re.search(r"none\.tsv: cannot be read", refused(f"wildjailbreak:{tmp_path / 'none.tsv'}"))
    assert re.search(r"none\.txt: no such file", refused(f"wildjailbreak:{tmp_path / 'none.txt'}"))


def test_a_file_of_a_sibling_is_not_given_the_wrong_label(tmp_path: Path) -> None:
    path = published(tmp_path / "or-bench-toxic.csv", OR_BENCH)
    assert f"write or-bench-toxic:{path}" in refused(f"or-bench-hard:{path}")
    assert "'or-bench' is several sets; name the one" in refused(f"or-bench:{path}")


def test_a_group_is_all_its_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, lambda: datasets.Dataset.from_list([{"prompt": f"{len(asked)}?", "category": "c"}]))
    assert read("or-bench") == [("1?", "benign", "c"), ("2?", "harmful", "c")]


@pytest.mark.parametrize(("name", "missing"), [("harmbench", "benign"), ("or-bench-hard", "harmful")])
def test_a_set_of_one_class_is_refused_alone_with_what_to_join(
    name: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, lambda: datasets.Dataset.from_list(SETS[name][0][0]))
    message = refused(name)
    assert re.search(rf"{name} from .*: holds no {missing} seeds; the game needs both classes", message)
    assert f"data.seeds='{name}," in message


@pytest.mark.parametrize("name", [name for name in NAMED if NAMED[name].kind == "attacks"])
def test_attacks_are_no_seeds_but_can_be_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda: datasets.Dataset.from_list(SETS[name][0][0]))
    assert f"{name} from" in refused(f"demo,{name}")
    assert "holds attacks" in refused(f"demo,{name}")
    assert read(name) == SETS[name][1]
