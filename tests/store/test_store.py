"""The run directory: nothing is half-written, damage is noticed, and a rewind leaves no trace of later steps."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from magic_rl.errors import StoreError
from magic_rl.store.run import Checkpoint, RunDirectory, refuse_taken
from magic_rl.types import Episode, Outcome, Rewards, Role, Sample, Seed, Turn, Verdict

ROLES: tuple[Role, Role] = ("attacker", "defender")


class Weights:
    """A policy of two files, one of them in a folder, whose bytes depend on a number."""

    def __init__(self, number: int, size: int = 1000) -> None:
        self.number, self.size = number, size

    def save(self, directory: Path) -> None:
        (directory / "adapter.safetensors").write_bytes(self.number.to_bytes(4, "big") * self.size)
        (directory / "optimiser").mkdir()
        (directory / "optimiser" / "moments.safetensors").write_bytes(self.number.to_bytes(4, "big") * self.size)

    def is_whole_in(self, directory: Path) -> bool:
        expected = self.number.to_bytes(4, "big") * self.size
        files = ("adapter.safetensors", "optimiser/moments.safetensors")
        return all((directory / name).read_bytes() == expected for name in files)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", "rng_seed = 1\n", {"python": "3.13"})


def save(run: RunDirectory, *steps: int) -> None:
    for step in steps:
        run.save_checkpoint(step, {role: Weights(step) for role in ROLES}, {"stage": "play", "number": step})


def newest(run: RunDirectory) -> Checkpoint:
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None
    return checkpoint


def is_whole(checkpoint: Checkpoint) -> bool:
    step = checkpoint.step
    whole = all(Weights(step).is_whole_in(checkpoint.policy(role)) for role in ROLES)
    return whole and checkpoint.state == {"stage": "play", "number": step}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outcome(text: str = "Some question") -> Outcome:
    sample = Sample(prompt=(1, 2), tokens=(3, 4, 5), logprobs=(-0.1, -0.2, -0.3), finish="stop")
    turn = Turn(text, "secret", True, None, "I cannot\nhelp", sample)
    episode = Episode(Seed("s1", "Some request", "harmful", "fraud"), (turn,), group=3)
    return Outcome(episode, Verdict(refused=True), Rewards(1.0, 0.5, 0.5, 0.0, 1.5, -1.0))


def test_a_new_run_keeps_its_config_and_versions(run: RunDirectory) -> None:
    opened = RunDirectory.open(run.path)
    assert opened.config_text == "rng_seed = 1\n"
    assert opened.versions == {"python": "3.13"}
    assert (opened.metrics(), opened.timings(), opened.checkpoints(), opened.episode_steps()) == ([], [], [], [])
    assert opened.latest_checkpoint() is None
    with pytest.raises(StoreError, match="holds no run"):
        RunDirectory.open(run.path.parent)
    with pytest.raises(StoreError, match="no such run or folder"):
        RunDirectory.open(run.path / "none")


def test_a_run_may_be_created_in_an_empty_directory_but_never_over_anything(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty", "", {})
    before = contents(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    for taken, why in (("empty", "already exists$"), ("file", "already exists, and holds no run")):
        with pytest.raises(StoreError, match=why):
            RunDirectory.create(tmp_path / taken, "other", {})
    assert contents(tmp_path) == {**before, "file": b""}


def test_a_run_that_cannot_be_created_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"):
        refuse_taken(tmp_path / "file" / "run")
    with pytest.raises(StoreError, match="cannot be written"):
        RunDirectory.create(tmp_path / "file" / "run", "", {})
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(StoreError, match="current directory"):
        RunDirectory.create(Path(), "", {})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "here"]


def test_rows_come_back_in_order_and_numbers_that_are_not_finite_as_null(run: RunDirectory) -> None:
    run.log({"step": 1, "stage": "play", "loss": float("nan"), "kl": float("-inf"), "asr": None})
    run.log({"step": 2, "loss": 0.1 + 0.2, "learner": "défenseur"})
    run.log_timing({"step": 1, "seconds": 0.5})
    assert run.metrics() == [
        {"step": 1, "stage": "play", "loss": None, "kl": None, "asr": None},
        {"step": 2, "loss": 0.1 + 0.2, "learner": "défenseur"},
    ]
    assert run.timings() == [{"step": 1, "seconds": 0.5}]
    assert b"NaN" not in (run.path / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("row", [{"loss": 1.0}, {"step": "1"}, {"step": True}, {"step": 1.0}])
def test_a_row_without_a_step_is_refused(run: RunDirectory, row: dict[str, float | str | bool]) -> None:
    with pytest.raises(ValueError, match="step"):
        run.log(row)
    assert run.metrics() == []


def test_a_row_torn_anywhere_is_left_out_and_removed_on_rewind(run: RunDirectory) -> None:
    path = run.path / "metrics.jsonl"
    run.log({"step": 1, "loss": 0.5})
    whole = path.read_bytes()
    run.log({"step": 2, "loss": 0.25})
    row = path.read_bytes()[len(whole) :]
    for length in range(1, len(row) - 1):
        path.write_bytes(whole + row[:length])
        assert run.metrics() == [{"step": 1, "loss": 0.5}]
        run.rewind(2)
        assert path.read_bytes() == whole
    path.write_bytes(whole + row[:-1])  # only the end of the line is missing
    run.rewind(2)
    assert path.read_bytes() == whole + row


@pytest.mark.parametrize("broken", [b"{", b"", b"[1]", b'{"loss": 1}', b"\xff\xfe", b"\x00\x00"])
def test_a_broken_line_that_is_not_torn_is_an_error_with_file_and_line(run: RunDirectory, broken: bytes) -> None:
    path = run.path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + broken + b'\n{"step": 3}\n')
    before = path.read_bytes()
    for act in (run.metrics, lambda: run.rewind(1)):
        with pytest.raises(StoreError, match=r"metrics\.jsonl:2: "):
            act()
    assert path.read_bytes() == before


def test_episodes_come_back_as_plain_rows_without_token_ids(run: RunDirectory) -> None:
    hostile = '</script>\u2028\x1b[2J{"step": 1}\n\ud800'
    kept = outcome()
    run.write_episodes(7, [kept, outcome(hostile)])
    first, second = run.episodes(7)
    assert run.episode_steps() == [7]
    (turn,) = first.pop("turns")
    parts = {"seed": kept.episode.seed, "verdict": kept.verdict, "rewards": kept.rewards}
    plain = {name: json.loads(json.dumps(asdict(part))) for name, part in parts.items() if part}
    assert first == {"step": 7, "group": 3, "masked": None, **plain}
    ended = {"attack_finish": None, "attack_tokens": 0, "reply_finish": "stop", "reply_tokens": 3}
    texts = {"attack": "Some question", "thinking": "secret", "reply": "I cannot\nhelp", "reply_thinking": ""}
    assert turn == {**texts, **ended, "well_formed": True, "reply_well_formed": True}
    assert second["turns"][0]["attack"] == hostile
    assert (run.path / "episodes" / "step-000007.jsonl").read_bytes().isascii()
    assert run.episodes(8) == []


def test_documents_are_replaced_whole(run: RunDirectory) -> None:
    assert run.read_json("payoffs.json") is None
    run.write_json("payoffs.json", {"asr": [0.5, float("nan")]})
    with pytest.raises(TypeError):
        run.write_json("payoffs.json", {"asr": object()})
    assert run.read_json("payoffs.json") == {"asr": [0.5, None]}
    (run.path / "payoffs.json").write_bytes(b'{"asr"')
    with pytest.raises(StoreError, match=r"payoffs\.json: not JSON"):
        run.read_json("payoffs.json")


def test_the_newest_checkpoint_loads_and_older_ones_beyond_keep_are_gone(tmp_path: Path) -> None:
    for keep, kept in ((1, [30]), (2, [20, 30]), (9, [3, 10, 20, 30])):
        run = RunDirectory.create(tmp_path / str(keep), "", {}, keep=keep)
        save(run, 3, 10, 20, 30)
        assert run.checkpoints() == kept
        checkpoint = newest(run)
        assert checkpoint.step == 30
        assert is_whole(checkpoint)
        with pytest.raises(StoreError, match="no policy 'shared'"):
            checkpoint.policy("shared")


def test_a_save_that_fails_leaves_the_checkpoints_as_they_were(run: RunDirectory) -> None:
    class Failing:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def save(self, directory: Path) -> None:
            (directory / "half").write_bytes(b"half")
            raise self.error

    save(run, 1, 2)
    before = contents(run.path)
    with pytest.raises(StoreError, match=r"step-000003: cannot be written \(No space left"):
        run.save_checkpoint(3, {"attacker": Weights(3), "defender": Failing(OSError(28, "No space left"))}, {})
    with pytest.raises(RuntimeError):
        run.save_checkpoint(2, {"attacker": Failing(RuntimeError("bug"))}, {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.save_checkpoint(3, {}, {"window": [float("nan")]})
    assert contents(run.path) == before


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


FILES = ("attacker/adapter.safetensors", "defender/optimiser/moments.safetensors", "state.json", "MANIFEST.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip, halve, empty, Path.unlink])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    run: RunDirectory, name: str, damage: Callable[[Path], None]
) -> None:
    save(run, 1, 2)
    damage(run.path / "checkpoints" / "step-000002" / name)
    with pytest.warns(UserWarning, match=r"step-000002: corrupted checkpoint"):
        checkpoint = newest(run)
    assert checkpoint.step == 1
    assert is_whole(checkpoint)


def test_everything_is_on_the_disk_before_it_gets_its_name(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    named: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def watched_rename(path: Path, target: Path) -> Path:
        assert all(entry.stat().st_ino in synced for entry in (path, *path.rglob("*")))
        named.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    monkeypatch.setattr(Path, "replace", watched_rename)
    save(run, 1)
    run.write_episodes(1, [outcome()])
    assert named == ["state.json", "MANIFEST.json", "step-000001", "step-000001.jsonl"]
    assert {run.path.joinpath(name).stat().st_ino for name in ("checkpoints", "episodes")} <= synced


def test_no_byte_of_a_manifest_can_change_its_meaning_unnoticed(run: RunDirectory) -> None:
    save(run, 1)
    path = run.path / "checkpoints" / "step-000001" / "MANIFEST.json"
    whole = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(len(whole)):
            changed = whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :]
            path.write_bytes(changed)
            try:
                same = json.loads(changed) == json.loads(whole)
            except ValueError:
                same = False
            if not same:
                with pytest.raises(StoreError):
                    run.latest_checkpoint()


def test_a_checkpoint_under_the_name_of_another_step_is_corrupted(run: RunDirectory) -> None:
    save(run, 1)
    shutil.copytree(run.path / "checkpoints" / "step-000001", run.path / "checkpoints" / "step-000009")
    with pytest.warns(UserWarning, match="step-000009"):
        assert newest(run).step == 1


def test_when_every_checkpoint_is_corrupted_the_user_is_told(run: RunDirectory) -> None:
    save(run, 1, 2)
    for step in (1, 2):
        flip(run.path / "checkpoints" / f"step-{step:06d}" / "state.json")
    with pytest.warns(UserWarning, match="corrupted"), pytest.raises(StoreError, match="every checkpoint is corrupted"):
        run.latest_checkpoint()
