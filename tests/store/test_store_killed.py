"""The run directory under fire: one writer at a time, which may be killed at any instant."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from magic_rl.errors import StoreError
from magic_rl.store.lock import is_locked, locked
from magic_rl.store.run import RunDirectory
from tests.store.test_store import Weights, contents, is_whole, save
from tests.support import ROOT


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", "", {})


HOLDER = """
import sys, time
from pathlib import Path
from magic_rl.store.run import RunDirectory
with RunDirectory.open(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(run: RunDirectory) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_one_process_a_run_and_a_killed_one_frees_it(run: RunDirectory, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(StoreError, match=f"in use by process {holder.pid}"), run.lock():
        pass
    holder.kill()
    holder.wait()
    with run.lock(), pytest.raises(StoreError, match=f"in use by process {os.getpid()}"), run.lock():
        pass
    with run.lock():
        pass


def test_a_lock_on_a_run_that_is_gone_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="gone: no such directory"), locked(tmp_path / "gone"):
        pass
    assert not is_locked(tmp_path / "gone")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips syncing to save time: a kill, unlike a power cut, loses nothing that was written."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


# Forks a child for every k; the child kills itself when it is about to touch the file system for the k-th time.
KILLED_EVERYWHERE = """
import os, shutil, signal, sys
from pathlib import Path
from tests.store.test_store import Weights, outcome, save
from magic_rl.store.run import RunDirectory

parent = Path(sys.argv[1])
os.fsync = lambda _: None
template = RunDirectory.create(parent / "template", "rng_seed = 1", {})
template.log({"step": 1})
template.save_player("attacker", 0, Weights(1), 1)
save(template, 1, 2)
for k in range(10_000):
    path = parent / str(k)
    run = None
    if sys.argv[2] != "create":
        run = RunDirectory(shutil.copytree(template.path, path), keep=1)
    child = os.fork()
    if child == 0:
        left = k
        def kill(event, args):
            global left
            if event in TOUCHING and (event != "open" or str(parent) in str(args[0])):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
        TOUCHING = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
        sys.addaudithook(kill)
        if run is None:
            RunDirectory.create(path, "rng_seed = 1", {})
        elif sys.argv[2] == "checkpoint":
            save(run, 3)
        elif sys.argv[2] == "player":
            run.save_player("attacker", 0, Weights(2), 2)
        else:
            run.log({"step": 2})
            run.write_episodes(2, [outcome()])
            run.rewind(0)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        print(k)
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
"""


def kill_everywhere(tmp_path: Path, what: str) -> list[Path]:
    """Run directories of processes that were killed while doing `what`, each at a later instant than the one before."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path), what],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    kills = int(done.stdout)
    assert kills > 10
    return [tmp_path / str(k) for k in range(kills + 1)]


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(".tmp-*"))


@pytest.mark.usefixtures("unsynced")
def test_killed_at_any_touch_of_the_disk_it_leaves_one_whole_checkpoint(tmp_path: Path) -> None:
    found = []
    for path in kill_everywhere(tmp_path, "checkpoint"):
        run = RunDirectory.open(path, keep=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            checkpoint = run.latest_checkpoint()
        assert checkpoint is not None
        assert is_whole(checkpoint)
        found.append(checkpoint.step)
        with run.lock():
            assert not leftovers(path)
            save(run, 3)
            assert run.checkpoints() == [3]
    assert found == sorted(found)
    assert set(found) == {2, 3}


@pytest.mark.usefixtures("unsynced")
def test_killed_at_any_touch_of_the_disk_a_run_has_its_config_or_does_not_exist(tmp_path: Path) -> None:
    paths = kill_everywhere(tmp_path, "create")
    assert RunDirectory.open(paths[-1]).config_text == "rng_seed = 1"
    assert not paths[0].exists()
    for path in paths:
        if path.exists():
            assert contents(path) == contents(paths[-1])
        else:
            RunDirectory.create(path, "rng_seed = 1", {})
    assert not leftovers(tmp_path)


@pytest.mark.usefixtures("unsynced")
def test_killed_at_any_touch_of_the_disk_a_player_is_whole_or_not_there(tmp_path: Path) -> None:
    for path in kill_everywhere(tmp_path, "player"):
        run = RunDirectory.open(path)
        if run.players("attacker"):
            folder = run.player("attacker", 0)
            assert Weights(1).is_whole_in(folder) or Weights(2).is_whole_in(folder)
        with run.lock():
            assert not leftovers(path)
            run.save_player("attacker", 0, Weights(2), 2)
        assert Weights(2).is_whole_in(run.player("attacker", 0))


@pytest.mark.usefixtures("unsynced")
def test_killed_at_any_touch_of_the_disk_a_rewind_can_be_repeated(tmp_path: Path) -> None:
    for path in kill_everywhere(tmp_path, "rewind"):
        run = RunDirectory.open(path)
        with run.lock():
            run.rewind(0)
        assert not leftovers(path)
        assert (run.metrics(), run.episode_steps(), run.checkpoints(), run.players("attacker")) == ([], [], [], [])
