"""Tools of the field, set up for an endpoint: a folder per tool, with its config and the command that runs it.

The folders are templates in this package. In them `@URL@` stands for the endpoint, `@MODEL@` for the model's name
there.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from magic_rl.errors import UserError
from magic_rl.store import atomic

_HERE = Path(__file__).parent / "tools"
TOOLS = tuple(sorted(folder.name for folder in _HERE.iterdir()))
_ADDRESS = re.compile(r"https?://[\w.:\[\]-]+(/[\w./~-]*)?")
_NAME = re.compile(r"[\w./:@+-]+")


def write_recipes(url: str, out: Path, model: str, only: Collection[str] = ()) -> list[Path]:
    """Write the folders.

    Args:
        url: URL of an OpenAI-compatible endpoint, without `/chat/completions`; it usually ends in `/v1`.
        out: Where the folders go, each named like its tool.
        model: The endpoint's name for the model.
        only: Names of tools; empty: all of `TOOLS`.

    Returns:
        The folders.

    Raises:
        UserError: For an unknown tool, an address or a name that would have to be escaped in a config, or a folder
            that exists already or cannot be written.
    """
    if unknown := sorted(set(only) - set(TOOLS)):
        raise UserError(f"{unknown[0]}: no recipe for it; there are {', '.join(TOOLS)}")
    if not _ADDRESS.fullmatch(url):
        raise UserError(f"{url!r}: is not the address of an endpoint, such as http://127.0.0.1:8000/v1")
    if not urlsplit(url).path.strip("/"):
        raise UserError(f"{url!r}: ends at the host, where no tool finds /chat/completions; add the path, such as /v1")
    if not _NAME.fullmatch(model):
        raise UserError(f"model {model!r}: has characters that a config cannot hold; serve it under a plainer name")
    folders = {tool: out / tool for tool in TOOLS if tool in (only or TOOLS)}
    for folder in folders.values():
        if folder.exists():
            raise UserError(f"{folder}: already exists; choose another folder")
    for tool, folder in folders.items():
        atomic.make_folder(folder)
        for file in sorted((_HERE / tool).iterdir()):
            text = file.read_text(encoding="utf-8").replace("@URL@", url.rstrip("/")).replace("@MODEL@", model)
            atomic.write_file(folder / file.name, text.encode())
    return list(folders.values())
