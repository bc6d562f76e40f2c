"""Claims about seeds from several sources at once."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from magic_rl.config import DataConfig
from magic_rl.data.seeds import load_seeds, read_seeds
from tests.data.test_named_data import SETS, hub, published, read, refused


def test_several_sources_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda: datasets.Dataset.from_list(SETS["strongreject"][0][0]))
    own = published(tmp_path / "own.csv", [{"text": "Paint a door?", "label": "benign", "category": "a"}])
    assert read(f"strongreject, {own}") == [("Open a door?", "harmful", "Violence"), ("Paint a door?", "benign", "a")]


def test_a_file_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    path = published(
        tmp_path / "a,b.csv", [{"text": "Paint?", "label": "benign"}, {"text": "Pry?", "label": "harmful"}]
    )
    assert len(load_seeds(DataConfig(seeds=str(path)))) == 2


def test_a_text_given_twice_is_kept_once_and_one_labelled_both_ways_not_at_all(tmp_path: Path) -> None:
    rows = [{"prompt": text, "type": "t", "label": "safe"} for text in ("One?", "one? ", "Two?", "Three?")]
    safe = published(tmp_path / "safe.csv", rows)
    own = published(tmp_path / "own.csv", [{"text": t, "label": "harmful"} for t in ("two?", "Four?")])
    found = read_seeds(DataConfig(seeds=f"xstest:{safe},{own}"))
    assert [(seed.text, seed.label) for seed in found.seeds] == [
        ("One?", "benign"),
        ("Three?", "benign"),
        ("Four?", "harmful"),
    ]
    assert (found.repeated, found.contradicting) == (1, 2)


def test_two_files_that_use_the_same_id_are_refused(tmp_path: Path) -> None:
    one = published(tmp_path / "one.csv", [{"id": "1", "text": "Paint?", "label": "benign"}])
    two = published(tmp_path / "two.csv", [{"id": "1", "text": "Pry?", "label": "harmful"}])
    assert refused(f"{one},{two}") == "data.seeds: two sources use the id '1'; rename it, or give rows no ids"


@pytest.mark.parametrize("seeds", [",", " , "])
def test_no_source_at_all_is_refused(seeds: str) -> None:
    assert refused(seeds).startswith("data.seeds: names no source")
