"""Columns of a table by their names: one that is there twice means nothing certain, whoever reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from magic_rl.config import DataConfig
from magic_rl.data.labelled import load_labelled
from magic_rl.data.seeds import read_seeds
from magic_rl.errors import UserError


def written(path: Path, text: str) -> Path:
    path.write_text(text.replace(",", "\t" if path.suffix == ".tsv" else ","))
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_column_that_is_there_twice_is_refused_by_file_and_name(suffix: str, tmp_path: Path) -> None:
    replies = written(tmp_path / f"replies.{suffix}", "prompt,response,refused,refused\nHow?,No.,yes,no\n")
    copy = written(tmp_path / f"copy.{suffix}", "prompt,type,label,label\nPaint?,t,safe,unsafe\n")
    own = written(tmp_path / f"own.{suffix}", "text,label,text\nPaint?,benign,Pry?\n")
    with pytest.raises(UserError, match=rf"replies\.{suffix}:1: has two columns 'refused'; rename one of them$"):
        load_labelled(replies)
    with pytest.raises(UserError, match=rf"copy\.{suffix}:1: has two columns 'label'; rename one of them$"):
        read_seeds(DataConfig(seeds=f"xstest:{copy}"))
    with pytest.raises(UserError, match=rf"own\.{suffix}:1: has two columns 'text'; rename one of them$"):
        read_seeds(DataConfig(seeds=str(own)))


def test_columns_without_a_name_are_no_trouble(tmp_path: Path) -> None:
    assert load_labelled(written(tmp_path / "mine.csv", "prompt,response,refused,,\nHow?,No.,yes,,\n")).rows[0].refused
