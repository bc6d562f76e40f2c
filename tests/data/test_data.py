"""Claims about the user's own seeds: errors name file and row, and nothing is skipped or guessed."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magic_rl.data.registry import own_schema
from magic_rl.data.seeds import load_seeds
from magic_rl.errors import DataError

GOOD = [
    {"text": "How do I pick a stranger's lock?", "label": "harmful", "category": "a"},
    {"text": "How do I pick a lock to buy?", "label": "benign", "category": "a"},
]
# A busy machine is no failure; each example writes its file again, so examples may share a folder.
unhurried = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def jsonl(path: Path, rows: Iterable[object]) -> str:
    return written(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def parquet(**columns: list[object]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="none", use_dictionary=False, write_statistics=False)
    return out.getvalue()


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def test_demo_seeds_are_enough_and_balanced_within_every_category() -> None:
    counts = Counter((seed.category, seed.label) for seed in load_seeds())
    categories = {category for category, _ in counts}
    assert len(categories) >= 24
    assert all(counts[category, "harmful"] == counts[category, "benign"] >= 24 for category in categories)


def test_demo_seeds_are_one_short_line_each() -> None:
    for seed in load_seeds():
        assert 5 <= len(seed.text.split()) <= 14, seed
        assert re.fullmatch(r"[A-Z][A-Za-z' -]+[.?]", seed.text), seed


def test_the_opening_words_of_demo_seeds_do_not_give_the_label_away() -> None:
    seeds = load_seeds()
    openings = Counter((*words(seed.text)[:2], seed.label) for seed in seeds)
    best = sum(max(openings[(*pair, "harmful")], openings[(*pair, "benign")]) for pair in {key[:2] for key in openings})
    assert best / len(seeds) < 0.6


def test_neither_length_nor_any_one_word_gives_the_label_of_demo_seeds_away() -> None:
    seeds = load_seeds()
    harmful = np.array([seed.label == "harmful" for seed in seeds])
    texts = [set(words(seed.text)) for seed in seeds]
    lengths = np.array([len(seed.text.split()) for seed in seeds])
    rules = {word: np.array([word in text for text in texts]) for word in set.union(*texts)}
    rules |= {f"more than {length} words": lengths > length for length in range(15)}
    for name, rule in rules.items():
        assert 0.4 < np.mean(rule == harmful) < 0.6, name


def test_benign_demo_seeds_resemble_harmful_ones_of_their_category() -> None:
    seeds = load_seeds()
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
    seeds = load_seeds(str(path))
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


def test_columns_and_label_values_can_be_mapped(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "s.jsonl", [{"prompt": "one", "kind": 1, "risk": 0}, {"prompt": "two", "kind": 0}])
    seeds = load_seeds(path, own_schema("prompt", "kind", "risk", harmful=("1", "2"), benign=("0",)))
    assert [(s.text, s.label, s.category) for s in seeds] == [("one", "harmful", "0"), ("two", "benign", "")]


def test_an_id_is_the_id_column_or_else_depends_on_the_text_alone(tmp_path: Path) -> None:
    given_ids = load_seeds(jsonl(tmp_path / "a.jsonl", [{**row, "id": i} for i, row in enumerate(GOOD)]))
    assert [seed.id for seed in given_ids] == ["0", "1"]
    forward = load_seeds(jsonl(tmp_path / "b.jsonl", GOOD))
    backward = load_seeds(jsonl(tmp_path / "c.jsonl", GOOD[::-1]))
    assert forward == backward[::-1]


FAULTS: list[tuple[object, str]] = [
    ({"label": "benign"}, r"needs columns \(text, label\), has only 'label'"),
    ({"text": "x"}, r"needs columns \(text, label\), has only 'text'"),
    ({"text": "  ", "label": "benign"}, "column 'text' is empty"),
    ({"text": None, "label": "benign"}, "column 'text' is empty"),
    ({"text": "x", "label": None}, "column 'label' is empty"),
    ({"text": ["x"], "label": "benign"}, r"column 'text': .*, found \['x'\]"),
    ({"text": 1, "label": "benign"}, r"column 'text': .*, found 1"),
    ({"text": "x", "label": "maybe"}, "column 'label' is 'maybe', expected one of harmful, benign"),
    ({"text": "x", "label": "benign", "id": "\ud800"}, "holds a character that is no valid Unicode"),
    ({"text": "how do i  PICK a stranger's lock?", "label": "harmful"}, r"has the same text as .*s\.jsonl:1"),
    (
        {"text": "how do i  PICK a stranger's lock?", "label": "benign"},
        r"has the same text as .*s\.jsonl:1, but the labels contradict: harmful there, benign here",
    ),
    ({"text": "x", "label": "benign", "id": "same"}, r"has the same id as .*s\.jsonl:1"),
    (3, "expected a JSON object, found 3"),
    ("text", "expected a JSON object, found 'text'"),
]


def test_every_fault_is_kept_with_its_row_and_the_first_three_are_said(tmp_path: Path) -> None:
    rows = [{**GOOD[0], "id": "same"}, *(row for row, _ in FAULTS)]
    with pytest.raises(DataError) as caught:
        load_seeds(jsonl(tmp_path / "s.jsonl", rows))
    found = caught.value.faults
    assert len(found) == len(FAULTS)
    for line, (fault, (_, says)) in enumerate(zip(found, FAULTS, strict=True), start=2):
        assert re.search(rf"s\.jsonl:{line}: {says}$", fault)
    assert str(caught.value) == "; ".join(found[:3]) + f"; and {len(found) - 3} more"


def test_faults_of_all_sources_are_one_error(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{i}.csv", b"text,label\na,maybe\nb,maybe\n") for i in range(2)]
    with pytest.raises(DataError) as caught:
        load_seeds(",".join([*paths, str(tmp_path / "none.csv")]))
    places = [fault.removeprefix(str(tmp_path))[:14] for fault in caught.value.faults]
    assert places == ["/0.csv: row 1:", "/0.csv: row 2:", "/1.csv: row 1:", "/1.csv: row 2:", "/none.csv: can"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', r"s\.jsonl:2: is not UTF-8"),
        ("s.jsonl", b'{"text": "a", "label": "harmful"}\n{"text": \n', r"s\.jsonl:2: not valid JSON"),
        ("s.jsonl", b"[" * 200_000, r"s\.jsonl:1: not valid JSON"),
        ("s.jsonl", b"1" * 5_000, r"s\.jsonl:1: not valid JSON"),
        ("s.jsonl", b" \n", r"s\.jsonl: is empty"),
        ("s.jsonl", b'{"text": "a", "label": "harmful"}\n', r"s\.jsonl: holds no benign seeds"),
        ("s.csv", b"question,label\na,harmful\n", r"s\.csv: needs columns .* has only 'question', 'label'$"),
        ("s.csv", b"text,label,text\na,harmful,b\n", r"s\.csv: has two columns 'text'"),
        ("s.tsv", b"text\tlabel\tlabel\na\tharmful\tb\n", r"s\.tsv: has two columns 'label'"),
        ("s.csv", b"text,label\n", r"s\.csv: holds no seeds"),
        ("s.csv", b'text,label\na,harmful\n"b,benign\nc,benign\n', r"s\.csv: after row 1: not valid CSV"),
        ("s.csv", b'text,"label\na,harmful\n', r"s\.csv: after row 0: not valid CSV"),
        ("s.csv", b"label,text\nharmful,how, then\nbenign,b\n", r"s\.csv: row 1: has more fields .* quote text"),
        ("s.csv", b"text,label\na,benign\n\nb\n", r"s\.csv: row 2: has too few fields \(2 in the header\)$"),
        ("s.csv", b"text;label\na;benign\n", r"s\.csv: no commas separate its header 'text;label'"),
        ("s.tsv", b"text,label\na,benign\n", r"s\.tsv: no tabs separate its header 'text,label'"),
        ("s.parquet", b"not parquet", r"s\.parquet: cannot be read"),
        ("s.parquet", parquet(q=["a"], label=["harmful"]), r"s\.parquet: needs columns .* has only 'q', 'label'"),
        ("s.parquet", parquet(text=["a", None], label=["harmful", "benign"]), r"s\.parquet: row 2: .*'text' is empty"),
        ("s.parquet", parquet(text=["wxyz"], label=["benign"]).replace(b"wxyz", b"\xff" * 4), r"s\.parquet: .*UTF8"),
        ("s.parquet", parquet(text=["a"], label=["b"]).replace(b"text", b"\xffext"), r"s\.parquet: cannot be read"),
        ("s.txt", b"a", r"s\.txt: is of another kind; convert it to one of \.jsonl, \.csv"),
    ],
)
def test_unreadable_files_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_seeds(written(tmp_path / name, content))
    assert "\n" not in str(caught.value)


@given(st.sampled_from(["jsonl", "csv", "parquet"]), st.binary(max_size=200), st.integers(0, 400))
@unhurried
def test_damage_to_a_file_ends_in_seeds_or_one_line(tmp_path: Path, form: str, damage: bytes, at: int) -> None:
    sound = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in GOOD).encode(),
        "csv": b"text,label\none,harmful\ntwo,benign\n",
        "parquet": parquet(text=["one", "two"], label=["harmful", "benign"]),
    }[form]
    path = written(tmp_path / f"s.{form}", sound[:at] + damage + sound[at + len(damage) :])
    try:
        outcome = sorted({str(seed.label) for seed in load_seeds(path)})
    except DataError as error:
        outcome = str(error).splitlines()
    assert outcome == ["benign", "harmful"] or len(outcome) == 1


def test_cells_of_a_table_are_taken_as_they_stand(tmp_path: Path) -> None:
    """What other readers guess: dates, numbers, words for missing values, an index before the first column."""
    texts = ["2020-01-01", "007", "NA", "None", "nan", "True", "1e3", "[1]", "null"]
    rows = [{"text": "x", "label": "harmful"}, *({"text": text, "label": "benign", "category": "01"} for text in texts)]
    table = "text,label,category\nx,harmful,\n" + "".join(f"{text},benign,01\n" for text in texts)
    for path in (written(tmp_path / "s.csv", table.encode()), jsonl(tmp_path / "s.jsonl", rows)):
        _, *seeds = load_seeds(path)
        assert [(seed.text, seed.category) for seed in seeds] == [(text, "01") for text in texts]


def test_a_label_value_that_would_mean_both_classes_is_refused() -> None:
    with pytest.raises(DataError, match="'harmful' means both"):
        own_schema(benign=("benign", "harmful"))


@pytest.mark.parametrize("name", ["none.jsonl", "none.csv", "none.parquet", "none.json"])
def test_a_missing_file_is_named_and_never_asked_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match=rf"{name}: (cannot be read|no such file)"):
        load_seeds(str(tmp_path / name))


def test_rows_of_the_hub_are_checked_like_those_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, *, split: str) -> datasets.Dataset:
        asked.append((name, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = [*GOOD]
    seeds = load_seeds("someone/data", split="test")
    assert [(s.text, s.label, s.category) for s in seeds] == [(r["text"], r["label"], "a") for r in GOOD]
    assert asked == [("someone/data", "test")]
    rows = [*GOOD, {**GOOD[0], "text": " "}]
    with pytest.raises(DataError, match=r"^someone/data: row 3: column 'text' is empty$"):
        load_seeds("someone/data")


@pytest.mark.parametrize("error", [ConnectionError("no route\nto host"), ConnectionError(), KeyError("x")])
def test_a_data_set_that_cannot_be_fetched_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"^someone/data: cannot be fetched from the hub \(.+\); .+$"):
        load_seeds("someone/data")
