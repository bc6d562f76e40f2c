"""Claims about text files from other tools: each is read as intended or refused with one line that says why."""

from __future__ import annotations

import gzip
import io
import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magic_rl.attacks.pool import PoolEntry, read_pool
from magic_rl.config import load_config
from magic_rl.data.labelled import load_labelled
from magic_rl.data.registry import own_schema
from magic_rl.data.seeds import load_seeds
from magic_rl.errors import UserError
from magic_rl.game.play import Player
from magic_rl.learning.sft import first_sentence, read_examples, warmup_examples
from magic_rl.prompts import load_prompts
from magic_rl.store.run import RunDirectory
from magic_rl.text.think import Spoken
from magic_rl.types import Message, Sample, SamplingParams, Seed, Tokens

SEED = {"id": "a", "text": "one", "label": "harmful", "category": "c"}
# For each kind of JSON Lines file: two rows, a key of the first whose value is text, and how the file is read.
ROWS: dict[str, tuple[list[dict[str, Any]], str, Callable[[Path], Any]]] = {
    "seeds": ([SEED, {**SEED, "id": "b", "text": "two", "label": "benign"}], "text", lambda path: _seeds(path)),
    "labelled": (
        [
            {"prompt": "one", "response": "No.", "refused": True},
            {"prompt": "two", "response": "Yes.", "refused": False},
        ],
        "prompt",
        lambda path: [row.exchange.attack for row in load_labelled(path).rows],
    ),
    "pool": (
        [{"seed": SEED, "strategy": "slang", "thinking": "Hm.", "attack": text} for text in ("one", "two")],
        "attack",
        lambda path: [entry.attack for entry in read_pool(path)],
    ),
    "examples": (
        [{"messages": [{"role": "user", "content": "hi"}], "completion": text} for text in ("one", "two")],
        "completion",
        lambda path: [example.completion for example in read_examples(path)],
    ),
}
BOM = b"\xef\xbb\xbf"


def _seeds(path: Path) -> list[str]:
    return [seed.text for seed in load_seeds(str(path))]


def _lines(rows: list[dict[str, Any]], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode("utf-8", "surrogatepass")


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _refused(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0c", "\x1c", "\x1d"])
def test_rows_of_json_end_at_line_feeds_alone(kind: str, separator: str, tmp_path: Path) -> None:
    rows, key, read = ROWS[kind]
    rows = [{**rows[0], key: f"one{separator}half"}, rows[1]]
    escaped = separator in "\x0c\x1c\x1d"  # JSON requires these to be escaped
    content = "".join(json.dumps(row, ensure_ascii=escaped) + "\r\n" for row in rows).encode()
    path = _written(tmp_path / "rows.jsonl", BOM + content + b"\r\n\n  \n")
    assert read(path) == [f"one{separator}half", "two"]


@pytest.mark.parametrize("kind", ROWS)
def test_a_key_twice_in_a_row_is_named_by_file_and_line(kind: str, tmp_path: Path) -> None:
    rows, key, read = ROWS[kind]
    twice = json.dumps(rows[1])[:-1] + f', "{key}": "three"}}'
    nested = json.dumps(rows[0])[:-1] + ', "meta": {"by": 1, "by": 2}}'
    path = _written(tmp_path / "rows.jsonl", f"{json.dumps(rows[0])}\n{twice}\n".encode())
    assert f"rows.jsonl:2: not valid JSON (it has the key {key!r} twice" in _refused(read, path)
    assert "rows.jsonl:1: not valid JSON (it has the key 'by' twice" in _refused(read, _written(path, nested.encode()))
    if kind == "seeds":  # these may also be one JSON list
        listed = _written(tmp_path / "rows.json", f"[{twice}]".encode())
        assert f"rows.json: not valid JSON (it has the key {key!r} twice" in _refused(read, listed)


@pytest.mark.parametrize("kind", ROWS)
def test_half_a_surrogate_pair_is_refused_with_its_row(kind: str, tmp_path: Path) -> None:
    rows, key, read = ROWS[kind]
    path = tmp_path / "rows.jsonl"
    for text in ("half \ud83d a pair", "\udc80"):
        _written(path, "".join(json.dumps(row) + "\n" for row in (rows[0], {**rows[1], key: text})).encode())
        assert "rows.jsonl:2: holds a character that is no valid Unicode" in _refused(read, path)
    with pytest.raises(UserError, match="no valid Unicode"):  # a byte on the command line that is not UTF-8
        load_config(None, ["defender.system_prompt=caf\udce9"])


WRONG = [
    ("pool", {"attack": 5}, "attack: Input should be a valid string"),
    ("pool", {"attack": None}, "attack: "),
    ("pool", {"seed": {**SEED, "label": "maybe"}}, "seed.label: Input should be 'harmful' or 'benign'"),
    ("pool", {"seed": {**SEED, "category": float("nan")}}, "seed.category: "),
    ("examples", {"completion": ["a"]}, "completion: "),
    ("examples", {"completion": " "}, "completion is empty"),
    ("examples", {"messages": []}, "no messages"),
    ("examples", {"messages": [{"role": "human", "content": "hi"}]}, "messages.0.role: "),
    ("examples", {"messages": [{"role": "user", "content": float("inf")}]}, "messages.0.content: "),
    ("seeds", {"text": float("nan")}, "column 'text': Input should be a valid string, found nan"),
    ("seeds", {"label": float("nan")}, "column 'label': nan is no name"),
    ("seeds", {"category": float("nan")}, "column 'category': nan is no name"),
    ("seeds", {"category": float("-inf")}, "column 'category': -inf is no name"),
    ("seeds", {"category": ["a"]}, "column 'category': ['a'] is no name"),
    ("seeds", {"id": {"n": 1}}, "column 'id': {'n': 1} is no name"),
    ("labelled", {"response": None}, "column 'response': Input should be a valid string, found None"),
    ("labelled", {"refused": float("nan")}, "column 'refused': nan is no name"),
]


@pytest.mark.parametrize(("kind", "change", "says"), WRONG)
def test_a_value_of_another_type_is_named_by_its_row(
    kind: str, change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    rows, _, read = ROWS[kind]
    said = _refused(read, _written(tmp_path / "rows.jsonl", _lines([rows[0], {**rows[1], **change}])))
    assert "rows.jsonl:2: " in said
    assert says in said


def test_no_file_gives_a_category_named_nan(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "label": ["harmful", "benign"], "category": [1.0, float("nan")]})
    out = io.BytesIO()
    pq.write_table(table, out)
    path = _written(tmp_path / "s.parquet", out.getvalue())
    assert _refused(_seeds, path).endswith("s.parquet: row 2: column 'category': nan is no name")
    huge = _lines(ROWS["seeds"][0]).replace(b'"category": "c"', b'"category": 1e999', 1)
    assert "s.jsonl:1: column 'category': inf is no name" in _refused(_seeds, _written(tmp_path / "s.jsonl", huge))
    missing = [{**row, "category": None} for row in ROWS["seeds"][0]]  # null in a table: no category
    seeds = load_seeds(str(_written(tmp_path / "n.jsonl", _lines(missing))))
    assert [seed.category for seed in seeds] == ["", ""]


def _prompts(path: Path) -> list[str]:
    return load_prompts(str(path.parent)).refusals.split("\n")


# For each kind of file that users write: its name, its content, how it is read, and what is read.
FILES: dict[str, tuple[str, str, Callable[[Path], Any], Any]] = {
    "config": (
        "c.toml",
        '[defender]\nsystem_prompt = "Be é."\n',
        lambda p: load_config(p).defender.system_prompt,
        "Be é.",
    ),
    "prompt": ("refusals.txt", "I can't do that é.\nNo.\n", _prompts, ["I can't do that é.", "No."]),
    "csv": ("s.csv", "text,label\noné,harmful\ntwo,benign\n", _seeds, ["oné", "two"]),
    "tsv": ("s.tsv", "text\tlabel\noné\tharmful\ntwo\tbenign\n", _seeds, ["oné", "two"]),
    **{
        kind: ("r.jsonl", _lines(rows).decode().replace("one", "oné"), read, ["oné", "two"])
        for kind, (rows, _, read) in ROWS.items()
    },
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_windows_line_ends_enter_no_text(kind: str, end: str, tmp_path: Path) -> None:
    name, text, read, expected = FILES[kind]
    path = _written(tmp_path / name, BOM + text.replace("\n", end).encode() + end.encode())
    assert read(path) == expected


def test_a_runs_config_that_an_editor_saved_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "rng_seed = 1\n", {})
    _written(run.path / "config.toml", BOM + b"rng_seed = 1\r\n")
    assert tomllib.loads(run.config_text) == {"rng_seed": 1}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_text_in_utf_8_is_one_line_that_says_so(kind: str, tmp_path: Path) -> None:
    name, text, read, _ = FILES[kind]
    path = tmp_path / name
    for content, says in (
        (text.encode("utf-16"), ":1: is not UTF-8"),
        (text.encode("utf-16-be"), ":1: is not UTF-8"),
        (text.encode("cp1252"), ": is not UTF-8"),
        (gzip.compress(text.encode()), ":1: is not UTF-8"),
        (text.encode() + b"\0\n", f":{text.count(chr(10)) + 1}: is not UTF-8"),
    ):
        said = _refused(read, _written(path, content))
        assert str(path) in said
        assert says in said
    line = text[: text.index("é")].count("\n") + 1
    assert _refused(read, _written(path, text.encode("latin-1"))).startswith(f"{path}:{line}: is not UTF-8")
    if kind != "config":  # an empty config keeps all defaults
        assert str(path) in _refused(read, _written(path, b""))
        assert str(path) in _refused(read, _written(path, BOM + b"\r\n\r\n"))
    path.unlink()
    path.mkdir()
    assert str(path) in _refused(read, path)
    assert _refused(read, path).count(str(path)) == 1


def _hub(monkeypatch: pytest.MonkeyPatch, table: datasets.Dataset) -> list[tuple[object, ...]]:
    asked: list[tuple[object, ...]] = []

    def load(*names: str, split: str) -> datasets.Dataset:
        asked.append((*names, split))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


@pytest.mark.parametrize("feature", [datasets.Image(), datasets.Audio()])
def test_columns_of_images_and_sound_beside_the_text_are_left_alone(
    feature: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = datasets.Value("string")
    broken = [{"bytes": b"no such thing", "path": None}] * 2
    table = pa.table(
        {"text": ["one", "two"], "label": ["harmful", "benign"], "extra": pa.array(broken, feature.pa_type)}
    )
    features = datasets.Features({"text": text, "label": text, "extra": feature})
    _hub(monkeypatch, datasets.Dataset(table, info=datasets.DatasetInfo(features=features)))
    assert _seeds(Path("some/data")) == ["one", "two"]
    with pytest.raises(UserError, match=r"^some/data: row 1: column 'extra': .* is no name"):
        load_seeds("some/data", own_schema(category="extra"))


def test_a_subset_of_the_hub_is_named_after_a_colon(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _hub(monkeypatch, datasets.Dataset.from_list([{**row, "id": None} for row in ROWS["seeds"][0]]))
    assert _seeds(Path("some/data:behaviors")) == ["one", "two"]
    assert load_seeds("some/data:other", split="test")
    assert asked == [("some/data", "behaviors", "train"), ("some/data", "other", "test")]


def test_a_subset_that_must_be_named_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: str, split: str) -> None:
        raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['behaviors', 'x']\nEx")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=r"\['behaviors', 'x'\].*name a subset as in owner/name:subset$"):
        load_seeds("some/data")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("可以先把木头打磨光滑。然后再上漆！", "可以先把木头打磨光滑。"),
        ("まず木を磨きます。次に塗ります。", "まず木を磨きます。"),
        ("पहले लकड़ी को रेत से घिसें। फिर रंगें।", "पहले लकड़ी को रेत से घिसें।"),
        ("افرك الخشب بورق الصنفرة أولا؟ نعم.", "افرك الخشب بورق الصنفرة أولا؟"),
        ("먼저 나무를 곱게 갈아 주세요. 그다음 칠하세요.", "먼저 나무를 곱게 갈아 주세요."),
        ("好的。", ""),
        ("可以先把木头打磨", ""),
    ],
)
def test_a_first_sentence_is_found_in_other_languages(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


class Letters:
    """A model with one token per letter and one answer to everything, as policy and renderer."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        tokens = tuple(map(ord, self.answer))
        return [[Sample(prompt, tokens, (0.0,) * len(tokens), "stop")] * n for prompt in prompts]

    def prompt(self, messages: Sequence[Message]) -> Tokens:
        return tuple(map(ord, messages[-1].content))

    def completion(self, text: str, *, tagged: bool = False) -> Tokens:
        return tuple(map(ord, text))

    def prefill(self, text: str) -> Tokens:
        return tuple(map(ord, text))

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def spoken(self, tokens: Sequence[int]) -> Spoken:
        return Spoken("", self.decode(tokens), ended=True)


def _warmup(answer: str, rewritten: bool = True) -> list[str]:
    """The completions that the warm-up teaches if the base model gives this answer to benign seeds."""
    harmful, benign = Seed("h", "怎么撬锁？", "harmful"), Seed("b", "怎么给门上漆？", "benign")
    model = Letters(answer)
    base = Player(model, model, SamplingParams(64))
    pool = [PoolEntry(benign if rewritten else harmful, "slang", "Hm.", "门咋上漆？")]
    return [each.completion for each in warmup_examples([harmful, benign], pool, base, 0, 9)]


def test_a_warmup_in_chinese_keeps_its_replies_and_says_they_are_unread(caplog: pytest.LogCaptureFixture) -> None:
    refusal, *helpful = _warmup("可以先把木门打磨光滑。然后再上漆！")
    assert refusal in load_prompts().refusals
    assert helpful == ["可以先把木门打磨光滑。"] * 2
    assert "1 of 1 answers are not in English" in caplog.text


@pytest.mark.parametrize(
    ("answer", "rewritten", "kind"),
    [
        ("ขัดไม้ให้เรียบก่อน แล้วจึงทาสี", True, "of 1 benign requests 0"),  # Thai has no mark that ends a sentence
        ("I'm sorry, but I can't help with that.", True, "of 1 benign requests 0"),
        ("First sand it smooth. Then paint it.", False, "of 0 rewritten benign requests 0"),
    ],
)
def test_a_warmup_that_would_teach_refusals_only_is_refused(answer: str, rewritten: bool, kind: str) -> None:
    with pytest.raises(UserError, match=rf"^warm-up: {kind} have an answer to learn"):
        _warmup(answer, rewritten)
