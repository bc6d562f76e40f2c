"""Claims about seeds: what is wrong is named by file and line, and what is held out is never trained on."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magic_rl.config import DataConfig
from magic_rl.data.seeds import load_seeds
from magic_rl.data.split import draw_seeds, split_by_category
from magic_rl.errors import UserError
from magic_rl.types import Label, Seed

GOOD = [
    {"text": "How do I pick a stranger's lock?", "label": "harmful", "category": "a"},
    {"text": "How do I pick a lock to buy?", "label": "benign", "category": "a"},
]
# A busy machine is no failure; and each example writes its file anew, so that they may share a folder.
unhurried = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def jsonl(path: Path, rows: Iterable[object]) -> DataConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataConfig(seeds=str(path))


def written(path: Path, content: bytes) -> DataConfig:
    path.write_bytes(content)
    return DataConfig(seeds=str(path))


def parquet(**columns: list[object]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="none", use_dictionary=False, write_statistics=False)
    return out.getvalue()


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def test_demo_seeds_are_enough_and_balanced_within_every_category() -> None:
    counts = Counter((seed.category, seed.label) for seed in load_seeds(DataConfig()))
    categories = {category for category, _ in counts}
    assert len(categories) >= 24
    assert all(counts[category, "harmful"] == counts[category, "benign"] >= 24 for category in categories)


def test_demo_seeds_are_one_short_line_each() -> None:
    for seed in load_seeds(DataConfig()):
        assert 5 <= len(seed.text.split()) <= 14, seed
        assert re.fullmatch(r"[A-Z][A-Za-z' -]+[.?]", seed.text), seed


def test_the_opening_words_of_demo_seeds_do_not_give_the_label_away() -> None:
    seeds = load_seeds(DataConfig())
    openings = Counter((*words(seed.text)[:2], seed.label) for seed in seeds)
    best = sum(max(openings[(*pair, "harmful")], openings[(*pair, "benign")]) for pair in {key[:2] for key in openings})
    assert best / len(seeds) < 0.6


def test_neither_length_nor_any_one_word_gives_the_label_of_demo_seeds_away() -> None:
    seeds = load_seeds(DataConfig())
    harmful = np.array([seed.label == "harmful" for seed in seeds])
    texts = [set(words(seed.text)) for seed in seeds]
    lengths = np.array([len(seed.text.split()) for seed in seeds])
    rules = {word: np.array([word in text for text in texts]) for word in set.union(*texts)}
    rules |= {f"more than {length} words": lengths > length for length in range(15)}
    for name, rule in rules.items():
        assert 0.4 < np.mean(rule == harmful) < 0.6, name


def test_benign_demo_seeds_are_close_in_wording_to_harmful_ones_of_their_category() -> None:
    seeds = load_seeds(DataConfig())
    nearest = []
    for benign in (seed for seed in seeds if seed.label == "benign"):
        mine = set(words(benign.text))
        others = [set(words(s.text)) for s in seeds if s.label == "harmful" and s.category == benign.category]
        nearest.append(max(len(mine & other) / len(mine | other) for other in others))
    assert np.median(nearest) > 0.4


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_the_same_seeds_come_out_of_every_format(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"seeds.{form}"
    if form == "jsonl":
        jsonl(path, GOOD)
    elif form == "csv":
        path.write_text("text,label,category\n" + "".join(f'"{r["text"]}",{r["label"]},a\n' for r in GOOD), "utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(GOOD), path)
    seeds = load_seeds(DataConfig(seeds=str(path)))
    assert [(s.text, s.label, s.category) for s in seeds] == [(r["text"], r["label"], "a") for r in GOOD]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), min_size=2, max_size=6))
@unhurried
def test_any_text_survives_jsonl_and_csv(tmp_path: Path, texts: list[str]) -> None:
    texts = [f"{i} {text} ." for i, text in enumerate(texts)]
    labels = ["harmful", *["benign"] * (len(texts) - 1)]
    out = io.StringIO()
    csv.writer(out).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    by_csv = load_seeds(written(tmp_path / "s.csv", out.getvalue().encode()))
    lines = [
        json.dumps({"text": t, "label": label}, ensure_ascii=False) for t, label in zip(texts, labels, strict=True)
    ]
    by_jsonl = load_seeds(written(tmp_path / "s.jsonl", "\n".join(lines).encode()))
    assert [seed.text for seed in by_csv] == texts
    assert by_jsonl == by_csv


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_no_trouble(tmp_path: Path) -> None:
    table = b"\xef\xbb\xbftext,label\r\n\r\none,harmful\r\ntwo,benign\r\n"
    lines = b'\xef\xbb\xbf{"text":"one","label":"harmful"}\r\n\r\n{"text":"two","label":"benign"}\r\n'
    assert load_seeds(written(tmp_path / "s.csv", table)) == load_seeds(written(tmp_path / "s.jsonl", lines))


def test_columns_and_label_values_can_be_mapped(tmp_path: Path) -> None:
    config = jsonl(tmp_path / "s.jsonl", [{"prompt": "one", "kind": 1, "risk": 0}, {"prompt": "two", "kind": 0}])
    mapped = config.model_copy(
        update={
            "text_column": "prompt",
            "label_column": "kind",
            "category_column": "risk",
            "harmful_values": ("1", "2"),
            "benign_values": ("0",),
        }
    )
    seeds = load_seeds(mapped)
    assert [(s.text, s.label, s.category) for s in seeds] == [("one", "harmful", "0"), ("two", "benign", "")]


def test_an_id_is_the_id_column_or_else_depends_on_the_text_alone(tmp_path: Path) -> None:
    given_ids = load_seeds(jsonl(tmp_path / "a.jsonl", [{**row, "id": i} for i, row in enumerate(GOOD)]))
    assert [seed.id for seed in given_ids] == ["0", "1"]
    forward = load_seeds(jsonl(tmp_path / "b.jsonl", GOOD))
    backward = load_seeds(jsonl(tmp_path / "c.jsonl", GOOD[::-1]))
    assert forward == backward[::-1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*GOOD, {"label": "benign"}], r"s\.jsonl:3: has no column 'text', only 'label'"),
        ([*GOOD, {"text": "x"}], r"s\.jsonl:3: has no column 'label', only 'text'"),
        ([*GOOD, {"text": "  ", "label": "benign"}], r"s\.jsonl:3: column 'text' is empty"),
        ([*GOOD, {"text": None, "label": "benign"}], r"s\.jsonl:3: column 'text' is empty"),
        ([*GOOD, {"text": ["x"], "label": "benign"}], r"s\.jsonl:3: column 'text' is \['x'\], which is no text"),
        (
            [*GOOD, {"text": "x", "label": "maybe"}],
            r"s\.jsonl:3: column 'label' is 'maybe', expected one of harmful, be",
        ),
        ([*GOOD, {"text": "\ud800", "label": "benign"}], r"s\.jsonl:3: holds a character that is no valid Unicode"),
        ([*GOOD, {"text": "x", "label": "benign", "id": "\ud800"}], r"s\.jsonl:3: holds a character that is no valid"),
        (
            [*GOOD, {**GOOD[0], "text": "how do i  PICK a stranger's lock?"}],
            r"s\.jsonl:3: .* same text as .*s\.jsonl:1$",
        ),
        ([{**row, "id": "same"} for row in GOOD], r"s\.jsonl:2: has the same id as .*s\.jsonl:1$"),
        ([*GOOD, 3], r"s\.jsonl:3: expected a JSON object, found 3"),
        (GOOD[:1], r"s\.jsonl: holds no benign seeds"),
        (GOOD[1:], r"s\.jsonl: holds no harmful seeds"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_line(rows: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_seeds(jsonl(tmp_path / "s.jsonl", rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', r"s\.jsonl:2: is not UTF-8"),
        ("s.jsonl", b'{"text": "a", "label": "harmful"}\n{"text": \n', r"s\.jsonl:2: not valid JSON"),
        ("s.jsonl", b"[" * 200_000, r"s\.jsonl:1: not valid JSON"),
        ("s.jsonl", b"1" * 5_000, r"s\.jsonl:1: not valid JSON"),
        ("s.jsonl", b" \n", r"s\.jsonl: is empty"),
        ("s.jsonl", b"", r"s\.jsonl: is empty"),
        (
            "s.csv",
            b"question,label\na,harmful\n",
            r"s\.csv:1: has no column 'text', only 'question', 'label'; set data",
        ),
        ("s.csv", b"text,label,text\na,harmful,b\n", r"s\.csv:1: has two columns 'text'"),
        ("s.csv", b"text,label\n", r"s\.csv: holds no seeds"),
        ("s.csv", b'text,label\na,harmful\n"b,benign\nc,benign\n', r"s\.csv:3: not valid CSV"),
        ("s.csv", b'text,"label\na,harmful\n', r"s\.csv:1: not valid CSV"),
        ("s.csv", b"label,text\nharmful,how, then\nbenign,b\n", r"s\.csv:2: has 3 fields for 2 columns; quote text"),
        ("s.csv", b"text,label\na\n", r"s\.csv:2: has 1 fields for 2 columns"),
        ("s.parquet", b"not parquet", r"s\.parquet: not valid Parquet"),
        ("s.parquet", parquet(q=["a"], label=["harmful"]), r"s\.parquet: has no column 'text', only 'q', 'label'"),
        (
            "s.parquet",
            parquet(text=["a", None], label=["harmful", "benign"]),
            r"s\.parquet: row 2: column 'text' is em",
        ),
        ("s.parquet", parquet(text=["wxyz"], label=["benign"]).replace(b"wxyz", b"\xff" * 4), r"s\.parquet: .*UTF8"),
        ("s.parquet", parquet(text=["a"], label=["b"]).replace(b"text", b"\xffext"), r"s\.parquet: not valid Parquet"),
        ("s.txt", b"a", r"s\.txt: only \.jsonl, \.csv or \.parquet files"),
    ],
)
def test_unreadable_files_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_seeds(written(tmp_path / name, content))
    assert "\n" not in str(caught.value)


@given(st.sampled_from(["jsonl", "csv", "parquet"]), st.binary(max_size=200), st.integers(0, 400))
@unhurried
def test_no_damage_to_a_file_ends_in_anything_but_seeds_or_a_user_error(
    tmp_path: Path, form: str, damage: bytes, at: int
) -> None:
    sound = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in GOOD).encode(),
        "csv": b"text,label\none,harmful\ntwo,benign\n",
        "parquet": parquet(text=["one", "two"], label=["harmful", "benign"]),
    }[form]
    config = written(tmp_path / f"s.{form}", sound[:at] + damage + sound[at + len(damage) :])
    try:
        outcome = sorted({str(seed.label) for seed in load_seeds(config)})
    except UserError as error:
        outcome = str(error).splitlines()
    assert outcome == ["benign", "harmful"] or len(outcome) == 1


def test_all_problems_are_counted_and_the_first_ones_spelled_out(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in GOOD]
    lines += ["{", json.dumps({"text": "", "label": "benign"}), lines[0], "{", "{"]
    with pytest.raises(UserError) as caught:
        load_seeds(written(tmp_path / "s.jsonl", "\n".join(lines).encode()))
    message = str(caught.value)
    assert re.findall(r"s\.jsonl:(\d+): ", message) == ["3", "4", "5"]
    assert message.endswith("; and 2 more")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
@unhurried
def test_a_problem_after_rows_of_several_lines_is_named_by_the_line_its_row_begins_on(
    tmp_path: Path, breaks: list[int]
) -> None:
    rows = "".join(f'"text {i}{chr(10) * n}end",benign\n' for i, n in enumerate(breaks))
    begins = rows.count("\n") + 2
    with pytest.raises(UserError, match=rf"s\.csv:{begins}: column 'label' is 'maybe'"):
        load_seeds(written(tmp_path / "s.csv", f'text,label\n{rows}"last\nrow",maybe\n'.encode()))


def test_a_label_value_that_would_mean_both_classes_is_refused(tmp_path: Path) -> None:
    config = jsonl(tmp_path / "s.jsonl", GOOD).model_copy(update={"benign_values": ("benign", "harmful")})
    with pytest.raises(UserError, match=r"data\.harmful_values: 'harmful' is among data\.benign_values too"):
        load_seeds(config)


@pytest.mark.parametrize("name", ["none.jsonl", "none.csv", "none.parquet", "none.json"])
def test_a_missing_file_is_named_and_never_asked_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match=rf"{name}: (cannot be read|no such file)"):
        load_seeds(DataConfig(seeds=str(tmp_path / name)))


def test_rows_of_a_data_set_are_read_and_checked_like_those_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(name: str, *, split: str) -> datasets.Dataset:
        asked.append((name, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = [*GOOD]
    seeds = load_seeds(DataConfig(seeds="someone/data", split="test"))
    assert [(s.text, s.label, s.category) for s in seeds] == [(r["text"], r["label"], "a") for r in GOOD]
    assert asked == [("someone/data", "test")]
    rows = [*GOOD, {**GOOD[0], "text": " "}]
    with pytest.raises(UserError, match=r"^someone/data: row 3: column 'text' is empty$"):
        load_seeds(DataConfig(seeds="someone/data"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("no route\nto host"), "no route to host"),
        (ConnectionError(), "ConnectionError"),
        (KeyError("x"), "'x'"),
    ],
)
def test_a_data_set_that_cannot_be_fetched_is_one_clear_line(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def offline(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        UserError, match=rf"'someone/data' is no file, and cannot be fetched as a data set \({reason}\)"
    ):
        load_seeds(DataConfig(seeds="someone/data"))


def made_seeds(categories: Iterable[str], each: int = 2) -> list[Seed]:
    labels: tuple[Label, Label] = ("harmful", "benign")
    return [
        Seed(f"{category}-{label}-{i}", f"{category} {label} {i}", label, category)
        for category in categories
        for label in labels
        for i in range(each)
    ]


@given(st.sets(st.text(min_size=1, max_size=5), min_size=2, max_size=15), st.randoms(use_true_random=False))
@unhurried
def test_a_fifth_of_the_categories_is_held_out_whatever_the_order_of_the_rows(
    categories: set[str], order: random.Random
) -> None:
    seeds = made_seeds(categories)
    split = split_by_category(seeds)
    held_out = {seed.category for seed in split.held_out}
    assert len(held_out) == -(-len(categories) // 5)
    assert held_out.isdisjoint(seed.category for seed in split.train)
    assert sorted((*split.train, *split.held_out), key=seeds.index) == seeds
    shuffled = order.sample(seeds, len(seeds))
    assert set(split_by_category(shuffled).held_out) == set(split.held_out)


@given(st.data())
@unhurried
def test_named_categories_are_held_out_and_no_others(data: st.DataObject) -> None:
    names = "abcdef"
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=5))
    split = split_by_category(made_seeds(names), chosen)
    assert {seed.category for seed in split.held_out} == set(chosen)
    assert {seed.category for seed in split.train} == set(names) - set(chosen)


@pytest.mark.parametrize("category", ["", "only one"])
@given(n=st.integers(2, 40))
@unhurried
def test_seeds_without_two_categories_are_split_by_their_id_a_fifth_of_each_class(category: str, n: int) -> None:
    seeds = made_seeds([category], each=n)
    split = split_by_category(seeds)
    assert Counter(seed.label for seed in split.held_out) == dict.fromkeys(("harmful", "benign"), -(-n // 5))
    assert set(split.train) == set(seeds) - set(split.held_out)
    assert set(split_by_category(seeds[::-1]).held_out) == set(split.held_out)


def test_impossible_splits_are_refused() -> None:
    seeds = [Seed("1", "one", "harmful", "a"), Seed("2", "two", "benign", "b")]
    with pytest.raises(UserError, match="no seed is of category 'c', 'd'; known: a, b"):
        split_by_category(seeds, ["c", "a", "d"])
    with pytest.raises(UserError, match="the training side has no harmful seeds, with a held out; name other"):
        split_by_category(seeds, ["a"])
    with pytest.raises(UserError, match="the training side has no harmful seeds, with a, b held out"):
        split_by_category(seeds, ["a", "b"])
    with pytest.raises(UserError, match="give at least two seeds of each class"):
        split_by_category([Seed("1", "one", "harmful"), Seed("2", "two", "benign")])


@given(st.integers(0, 30), st.integers(0, 1000))
@unhurried
def test_a_step_draws_half_benign_seeds_without_repeats_as_long_as_there_are_enough(count: int, seed: int) -> None:
    seeds = [Seed(str(i), f"text {i}", "harmful" if i < 10 else "benign") for i in range(20)]
    drawn = draw_seeds(seeds, count, np.random.default_rng(seed))
    labels = Counter(s.label for s in drawn)
    assert labels["benign"] == count // 2
    assert labels["harmful"] == count - count // 2
    times = Counter(drawn)
    assert all(times[s] in (labels[s.label] // 10, labels[s.label] // 10 + 1) for s in seeds)
    assert drawn == draw_seeds(seeds, count, np.random.default_rng(seed))


def test_every_seed_is_drawn_about_equally_often() -> None:
    seeds = made_seeds(["a"], each=10)
    rng = np.random.default_rng(0)
    times = Counter(seed for _ in range(500) for seed in draw_seeds(seeds, 4, rng))
    assert set(times) == set(seeds)
    assert all(60 <= n <= 140 for n in times.values())  # 100 expected, standard deviation 9
