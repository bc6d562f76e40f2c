"""`magic-rl pool build` with a writer model behind a server."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from magic_rl.attacks.pool import read_pool
from magic_rl.cli.main import app
from tests.attacks.test_writer import REFUSAL, in_json, proper, seed_of, strategy_of
from tests.support.stub_server import Reply, Request, Stub, completion


@contextmanager
def serving(answer: Callable[[Request], Reply]) -> Iterator[Callable[[Path], list[str]]]:
    """A server, and the command that builds a pool with it."""
    with Stub(answer) as stub:
        yield lambda folder: [
            *("pool", "build", "--out", str(folder / "pool.jsonl"), "--strategies", "slang,atbash"),
            *("--set", f"attacker.writer.url={stub.url}", "--set", "attacker.writer.model=big"),
            *("--set", f"data.seeds={folder / 'seeds.jsonl'}", "--set", "attacker.writer.concurrency=1"),
            *("--set", "attacker.writer.attempts=1", "--set", f"store.answers={folder / 'answers'}"),
        ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with seeds; two of each label are for training."""
    rows = [
        {"id": f"{label}{i}", "text": f"{label} request number {i} on {topic}", "label": label, "category": topic}
        for topic in ("sheds", "bread")
        for label in ("harmful", "benign")
        for i in range(2)
    ]
    rows = [{**row, "id": f"{row['category']}-{row['id']}"} for row in rows]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def honest(asked: Request) -> Reply:
    return Reply(body=completion(proper(asked.text)))


def test_the_command_writes_a_pool_with_a_server_and_cleans_up(folder: Path) -> None:
    with serving(honest) as command:
        result = CliRunner().invoke(app, command(folder), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    entries = read_pool(folder / "pool.jsonl")
    assert [e.strategy for e in entries] == ["slang", "atbash"] * 4
    assert {p.name for p in folder.iterdir() if "answers" not in p.name} == {"seeds.jsonl", "pool.jsonl"}
    assert "8 rewrites of 4 seeds: 4 harmful, 4 benign" in result.stdout
    assert "left out 0\nwriter: big, 8 calls, 80 tokens" in result.stdout
    assert "rewrites 4/4 rejected 0, calls 4, tokens 40" in result.stderr


def test_a_pool_holds_training_seeds_alone(tmp_path: Path) -> None:
    rows = [
        {"id": f"{topic}-{label}", "text": f"{label} request on {topic}", "label": label, "category": topic}
        for topic in ("sheds", "bread", "soap")
        for label in ("harmful", "benign")
    ]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [
        f"data.seeds={tmp_path / 'seeds.jsonl'}",
        'data.held_out_categories=["bread"]',
        'data.validation_categories=["soap"]',
    ]
    args = ["pool", "build", "--out", str(tmp_path / "pool.jsonl"), *(part for s in settings for part in ("--set", s))]
    assert CliRunner().invoke(app, args).exit_code == 0
    assert {entry.seed.category for entry in read_pool(tmp_path / "pool.jsonl")} == {"sheds"}


def test_the_command_lists_what_it_left_out(folder: Path) -> None:
    def refusing(asked: Request) -> Reply:
        harmful = strategy_of(asked.text) and "harmful" in seed_of(asked.text)
        return Reply(body=completion(REFUSAL)) if harmful else honest(asked)

    with serving(refusing) as command:
        result = CliRunner().invoke(app, command(folder), catch_exceptions=False)
    assert result.exit_code == 0
    assert f"left out 2 (2 the writer refused): {folder / 'pool.rejected.jsonl'}" in result.stdout
    rows = [json.loads(line) for line in (folder / "pool.rejected.jsonl").read_text().splitlines()]
    assert [(row["strategy"], row["reason"]) for row in rows] == [("slang", "the writer refused")] * 2
    assert len(read_pool(folder / "pool.jsonl")) == 6


def test_a_pool_of_which_nothing_is_left_is_an_error(folder: Path) -> None:
    with serving(lambda _: Reply(body=completion(in_json("")))) as command:
        result = CliRunner().invoke(app, [*command(folder), "--strategies", "slang"])
    assert result.exit_code == 2
    assert "no rewrite can be used; left out 4 (4 empty)" in result.stderr
    assert not (folder / "pool.jsonl").exists()


@pytest.mark.parametrize("budget", ["attacker.writer.max_calls=3", "attacker.writer.max_total_tokens=30"])
def test_a_spent_budget_is_one_line_and_the_same_command_goes_on(folder: Path, budget: str) -> None:
    answered = []

    def counting(asked: Request) -> Reply:
        answered.append(asked.text)
        return honest(asked)

    with serving(counting) as command:
        args = [*command(folder), "--set", budget]
        results = [CliRunner().invoke(app, args, catch_exceptions=False) for _ in range(3)]
    assert [result.exit_code for result in results] == [2, 2, 0]
    (line,) = [line for line in results[0].stderr.splitlines() if line.startswith("error")]
    assert re.search(r"attacker\.writer: all \d+ \w+ are spent; the answers so far are kept in .*/answers", line)
    assert len(answered) == len(set(answered)) == 8
    assert len(read_pool(folder / "pool.jsonl")) == 8


def test_ctrl_c_is_one_line_that_says_how_to_go_on(folder: Path) -> None:
    answered = []

    def interrupting(asked: Request) -> Reply:
        answered.append(asked.text)
        if len(answered) == 4:
            os.kill(os.getpid(), signal.SIGINT)
            return Reply(delay=9)
        return honest(asked)

    with serving(interrupting) as command:
        result = CliRunner().invoke(app, command(folder))
        assert result.exit_code == 130
        assert result.stderr.splitlines()[-1].startswith("stopped; the answers so far are kept in")
        assert not (folder / "pool.jsonl").exists()
        assert CliRunner().invoke(app, command(folder)).exit_code == 0
    assert len(answered) == 8 + 1
    assert len(read_pool(folder / "pool.jsonl")) == 8


def test_a_server_that_cannot_be_used_leaves_nothing_behind(folder: Path) -> None:
    with serving(lambda _: Reply(status=401)) as command:
        result = CliRunner().invoke(app, [*command(folder), "--set", "attacker.writer.model="])
        assert (result.exit_code, "attacker.writer.model: " in result.stderr) == (2, True)
        result = CliRunner().invoke(app, command(folder))
        assert (result.exit_code, "refuses the key" in result.stderr) == (2, True)
    assert {p.name for p in folder.iterdir() if "answers" not in p.name} == {"seeds.jsonl"}


def test_a_model_in_this_process_writes_too(tmp_path: Path, tiny_config: Path, tiny_model: Path) -> None:
    out = tmp_path / "pool.jsonl"
    model = f"attacker.writer.model={tiny_model}"
    args = [
        "pool",
        "build",
        "--out",
        str(out),
        "--config",
        str(tiny_config),
        "--set",
        model,
        "--set",
        "store.answers=false",
    ]
    result = CliRunner().invoke(app, [*args, "--strategies", "slang,caesar"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    rejected = [json.loads(line) for line in (tmp_path / "pool.rejected.jsonl").read_text().splitlines()]
    assert {row["strategy"] for row in rejected} == {"slang"}  # the model speaks noise
    assert [e.strategy for e in read_pool(out)].count("caesar") == 8
    assert len(read_pool(out)) + len(rejected) == 16


def test_a_writer_that_never_finishes_thinking_stops_the_pool(folder: Path) -> None:
    with serving(lambda _: Reply(body=completion(None, finish="length"))) as command:
        result = CliRunner().invoke(app, command(folder))
    assert "attacker.writer: 1 calls failed (the answer was cut off at 2048 tokens), more than the 5%" in result.stderr
