"""Others' tools, set up for an endpoint: a folder for each, with its config and the command that runs it.

The folders are files of this package. In them `@URL@` stands for the endpoint, `@MODEL@` for the model's name there.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from magic_rl.errors import UserError

_HERE = Path(__file__).parent / "tools"
TOOLS = tuple(sorted(folder.name for folder in _HERE.iterdir()))
_ADDRESS = re.compile(r"https?://[\w.:\[\]-]+(/[\w./~-]*)?")
_NAME = re.compile(r"[\w./:@+-]+")


def write_recipes(url: str, out: Path, model: str, only: Collection[str] = ()) -> list[Path]:
    """Write the folders.

    Args:
        url: Of an OpenAI-compatible endpoint; it ends where `/chat/completions` would follow, usually in `/v1`.
        out: Folder for them, one by the name of each tool.
        model: What the endpoint calls the model.
        only: Names of tools; empty: all of `TOOLS`.

    Returns:
        The folders.

    Raises:
        UserError: For an unknown tool, an address or a name that would not stand in a config as it is, or a folder that
            is there already.
    """
    if unknown := sorted(set(only) - set(TOOLS)):
        raise UserError(f"{unknown[0]}: no recipe for it; there are {', '.join(TOOLS)}")
    if not _ADDRESS.fullmatch(url):
        raise UserError(f"{url!r}: no address of an endpoint, such as http://127.0.0.1:8000/v1")
    if not urlsplit(url).path.strip("/"):
        raise UserError(f"{url!r}: ends at the host, where no tool finds /chat/completions; add the path, such as /v1")
    if not _NAME.fullmatch(model):
        raise UserError(f"model {model!r}: has signs that no config takes; serve it under a plainer name")
    folders = {tool: out / tool for tool in TOOLS if tool in (only or TOOLS)}
    for folder in folders.values():
        if folder.exists():
            raise UserError(f"{folder}: already exists; choose another folder")
    for tool, folder in folders.items():
        folder.mkdir(parents=True)
        for file in sorted((_HERE / tool).iterdir()):
            text = file.read_text(encoding="utf-8").replace("@URL@", url.rstrip("/")).replace("@MODEL@", model)
            (folder / file.name).write_text(text, encoding="utf-8")
    return list(folders.values())
