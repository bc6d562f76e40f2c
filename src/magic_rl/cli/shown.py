"""Text of models, servers and data sets on a terminal: one line of signs that cannot steer it."""

from __future__ import annotations

import shutil
import unicodedata


def shown(text: str, width: int = 0) -> str:
    """The text on one line, without control, invisible or direction signs; at most `width` characters, 0: all."""
    line = " ".join("".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text).split())
    return line if not width or len(line) <= width else f"{line[: width - 1]}…"


def columns(default: int) -> int:
    """Width of the terminal; where there is none, a width that tables read well at."""
    return shutil.get_terminal_size((default, 24)).columns
