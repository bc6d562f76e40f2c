"""The files beside the weights: the base's own config, tokenizer and processor files, byte for byte if possible.

If transformers saved them again, they would use the names of its latest version, which older versions and other
programs do not read, and it may refuse a generation config that it has loaded. Only what must change is changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

_WANTED = ("*.json", "*.jinja", "tokenizer*", "*.model", "*.txt", "LICENSE*", "NOTICE*", "USE_POLICY*")
# Hashes and lists of other files, and the config of another program, which would then look for its own weights.
_UNWANTED = ("*.index.json", "MANIFEST.json", "params.json", "adapter_*")
_TEMPLATE = "chat_template.jinja"


def copy_files(base: Path, out: Path, *, code: bool) -> None:
    """Copy all but weights. Args: code: Python files too, for models that come with their own."""
    for pattern in (*_WANTED, *(["*.py"] if code else ()), "additional_chat_templates/*.jinja"):
        for file in base.glob(pattern):
            if file.is_file() and not any(file.match(unwanted) for unwanted in _UNWANTED):
                target = out / file.relative_to(base)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)


def write_template(out: Path, template: str) -> None:
    """Put a chat template wherever a loader may look for one."""
    (out / _TEMPLATE).write_text(template, encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        for settings in _edited(out / name):
            kept = settings.get("chat_template")
            if isinstance(kept, list):  # several by name; the others are for tools
                named = [entry for entry in kept if entry.get("name") != "default"]
                settings["chat_template"] = [{"name": "default", "template": template}, *named]
            elif kept:
                settings["chat_template"] = template


def complete(out: Path, *, dtype: str, stops: Collection[int]) -> None:
    """Update the files for this model, in a form that transformers 4 reads too.

    Args:
        dtype: Of the weights if it differs from the base's, else "".
        stops: Ids that ended a reply in training.
    """
    eos = None
    for config in _edited(out / "config.json"):
        for part in (config, config.get("text_config")):
            _name_for_older(part or {})
            for key in ("dtype", "torch_dtype"):
                if dtype and part and key in part:
                    part[key] = dtype
        eos = config.get("eos_token_id", (config.get("text_config") or {}).get("eos_token_id"))
    for settings in _edited(out / "tokenizer_config.json"):
        if settings.get("tokenizer_class") == "TokenizersBackend":
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        if isinstance(settings.get("extra_special_tokens"), list):
            settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    listed = _ids(eos)
    for generation in _edited(out / "generation_config.json"):
        listed = _ids(generation.get("eos_token_id")) or listed
        if not listed.issuperset(stops):
            generation["eos_token_id"] = sorted(listed.union(stops))
    if not listed.issuperset(stops) and not (out / "generation_config.json").exists():
        ends = {"eos_token_id": sorted(listed.union(stops))}
        (out / "generation_config.json").write_text(json.dumps(ends, indent=2) + "\n", encoding="utf-8")


def _name_for_older(config: dict[str, Any]) -> None:
    """Add the names that transformers 4 knows to those new in 5; without them, 4 would silently use its defaults."""
    if "dtype" in config:
        config.setdefault("torch_dtype", config["dtype"])
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope and "rope_theta" not in config:
        config["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            config.setdefault("rope_scaling", {key: value for key, value in rope.items() if key != "rope_theta"})


def _ids(eos: int | list[int] | None) -> set[int]:
    return set(eos) if isinstance(eos, list) else set() if eos is None else {eos}


def _edited(file: Path) -> Iterator[dict[str, Any]]:
    """Yield a JSON file's object once, and write it back if the loop body changed it; nothing if there is no file."""
    if not file.exists():
        return
    before = file.read_text(encoding="utf-8")
    tree: dict[str, Any] = json.loads(before)
    yield tree
    if tree != json.loads(before):
        file.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
