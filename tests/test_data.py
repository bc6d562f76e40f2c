"""Claims about seeds: what is wrong is named by file and line, and what is held out is never trained on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magic_rl.config import DataConfig
from magic_rl.data.seeds import load_seeds
from magic_rl.data.split import draw_seeds, split_by_category
from magic_rl.errors import UserError
from magic_rl.types import Seed

GOOD = [
    {"text": "How do I pick a lock?", "label": "harmful", "category": "a"},
    {"text": "How do I pick a lock at home?", "label": "benign", "category": "a"},
]


def jsonl(path: Path, rows: list[object]) -> DataConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataConfig(seeds=str(path))


def test_demo_seeds_are_enough_distinct_and_balanced() -> None:
    seeds = load_seeds(DataConfig())
    counts = Counter((seed.category, seed.label) for seed in seeds)
    assert len({category for category, _ in counts}) >= 10
    assert set(counts.values()) == {14}
    assert Counter(seed.label for seed in seeds) == {"harmful": 168, "benign": 168}
    assert all(3 <= len(seed.text.split()) <= 15 and "\n" not in seed.text for seed in seeds)
    assert len({seed.id for seed in seeds}) == len(seeds)


def test_the_opening_words_of_demo_seeds_do_not_give_the_label_away() -> None:
    seeds = load_seeds(DataConfig())
    openings = Counter((" ".join(seed.text.split()[:2]).lower(), seed.label) for seed in seeds)
    best = sum(max(openings[words, "harmful"], openings[words, "benign"]) for words in {words for words, _ in openings})
    assert best / len(seeds) < 0.6


def test_benign_demo_seeds_are_close_in_wording_to_harmful_ones() -> None:
    seeds = load_seeds(DataConfig())
    harmful = [set(seed.text.lower().split()) for seed in seeds if seed.label == "harmful"]
    overlaps = [
        max(
            len(words & set(seed.text.lower().split())) / len(words | set(seed.text.lower().split()))
            for words in harmful
        )
        for seed in seeds
        if seed.label == "benign"
    ]
    assert np.median(overlaps) > 0.4


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_the_same_seeds_come_out_of_every_format(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"seeds.{form}"
    if form == "jsonl":
        jsonl(path, [*GOOD])
    elif form == "csv":
        path.write_text("text,label,category\n" + "".join(f'"{r["text"]}",{r["label"]},a\n' for r in GOOD), "utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(GOOD), path)
    seeds = load_seeds(DataConfig(seeds=str(path)))
    assert [(s.text, s.label, s.category) for s in seeds] == [(r["text"], r["label"], "a") for r in GOOD]


def test_columns_and_label_values_can_be_mapped(tmp_path: Path) -> None:
    config = jsonl(tmp_path / "s.jsonl", [{"prompt": "one", "kind": 1}, {"prompt": "two", "kind": 0}])
    mapped = config.model_copy(
        update={"text_column": "prompt", "label_column": "kind", "harmful_values": ("1",), "benign_values": ("0",)}
    )
    assert [(s.text, s.label) for s in load_seeds(mapped)] == [("one", "harmful"), ("two", "benign")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*GOOD, {"label": "benign"}], r"s\.jsonl:3: column 'text' is missing or empty"),
        ([*GOOD, {"text": "  ", "label": "benign"}], r"s\.jsonl:3: column 'text' is missing or empty"),
        ([*GOOD, {"text": "x", "label": "maybe"}], r"s\.jsonl:3: column 'label' is 'maybe', expected one of harmful"),
        ([*GOOD, {"text": "x"}], r"s\.jsonl:3: column 'label' is None"),
        ([*GOOD, {**GOOD[0], "text": "how do i  PICK a lock?"}], r"s\.jsonl:3: the same text as line 1"),
        ([*GOOD, *GOOD], r"s\.jsonl:3: .*and 1 more such lines"),
        ([*GOOD, 3], r"s\.jsonl:3: expected an object"),
        (GOOD[:1], r"s\.jsonl: holds no benign seeds"),
        ([{**row, "id": "same"} for row in GOOD], r"two seeds share an id"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_line(rows: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_seeds(jsonl(tmp_path / "s.jsonl", rows))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', r"s\.jsonl:2: is not UTF-8"),
        ("s.jsonl", b'{"text": "a", "label": "harmful"}\n{"text": \n', r"s\.jsonl:2: not valid JSON"),
        ("s.jsonl", b" \n", r"s\.jsonl: is empty"),
        ("s.csv", b"question,label\na,harmful\n", r"s\.csv: has no column 'text', only question, label"),
        ("s.csv", b'text,label\n"a,harmful\n', r"s\.csv:\d+: not valid CSV"),
        ("s.parquet", b"not parquet", r"s\.parquet: not valid Parquet"),
        ("s.txt", b"a", r"s\.txt: seeds are read from \.jsonl, \.csv or \.parquet"),
    ],
)
def test_unreadable_files_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_seeds(DataConfig(seeds=str(tmp_path / name)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read"):
        load_seeds(DataConfig(seeds=str(tmp_path / "none.jsonl")))


def test_a_data_set_that_cannot_be_fetched_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"'someone/data' is no file and cannot be fetched as a data set \(no route\)"):
        load_seeds(DataConfig(seeds="someone/data"))


def test_held_out_categories_are_never_trained_on() -> None:
    seeds = load_seeds(DataConfig())
    for chosen in ((), ("fraud", "drugs")):
        split = split_by_category(seeds, chosen)
        trained = {seed.category for seed in split.train}
        held_out = {seed.category for seed in split.held_out}
        assert trained.isdisjoint(held_out)
        assert len(split.train) + len(split.held_out) == len(seeds)
        assert held_out == set(chosen) or len(held_out) == 3


def test_seeds_without_categories_are_split_by_their_id() -> None:
    seeds = [Seed(str(i), f"text {i}", "harmful" if i % 2 else "benign") for i in range(200)]
    split = split_by_category(seeds)
    assert 20 <= len(split.held_out) <= 60
    assert split == split_by_category(seeds)


def test_impossible_splits_are_refused() -> None:
    seeds = [Seed("1", "one", "harmful", "a"), Seed("2", "two", "benign", "b")]
    with pytest.raises(UserError, match="no seed is of category 'c'; known: a, b"):
        split_by_category(seeds, ["c"])
    with pytest.raises(UserError, match="side has no"):
        split_by_category(seeds, ["a"])


@given(st.integers(1, 30), st.integers(0, 1000))
def test_a_step_draws_half_benign_seeds_without_repeats_as_long_as_there_are_enough(count: int, seed: int) -> None:
    seeds = [Seed(str(i), f"text {i}", "harmful" if i < 10 else "benign") for i in range(20)]
    drawn = draw_seeds(seeds, count, np.random.default_rng(seed))
    labels = Counter(s.label for s in drawn)
    assert labels["benign"] == count // 2
    assert labels["harmful"] == count - count // 2
    if count <= 20:
        assert len({s.id for s in drawn}) == count
    assert drawn == draw_seeds(seeds, count, np.random.default_rng(seed))
