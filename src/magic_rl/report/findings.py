"""One self-contained HTML page about an audit. Model text is hostile here too, as in a run's report: see `page`."""

from __future__ import annotations

from pathlib import Path

from magic_rl.evidence.findings import Audit, category, strategy
from magic_rl.report.page import render
from magic_rl.store import atomic

PAGE_FILE = "findings.html"


def write_page(audit: Audit, folder: Path) -> None:
    """Write `findings.html`. Raises: StoreError: If it cannot be written."""
    page = render("findings.html.j2", audit=audit, category=category, strategy=strategy)
    atomic.write_file(folder / PAGE_FILE, page.encode("utf-8", "backslashreplace"))
