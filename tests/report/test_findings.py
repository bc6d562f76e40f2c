"""The page of an audit: model text is shown as text, at the width of a phone and of a desktop."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from magic_rl.attacks.pool import PoolEntry
from magic_rl.evidence.attackers import PoolAttacker
from magic_rl.evidence.findings import found_in
from magic_rl.evidence.redteam import play
from magic_rl.report.findings import write_page
from tests.support.pages import opened
from tests.support.scripted_target import SEEDS, log_of

PLANTED = '<script>window.hit = 1</script> & "quoted" \u202e{{ 7 * 7 }}'


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_planted_script_is_text_in_the_page(tmp_path: Path, browser: Browser, width: int) -> None:
    pool = [
        PoolEntry(seed, PLANTED, "", f"{seed.text} {PLANTED} {way}") for seed in SEEDS for way in ("soft", "long" * 99)
    ]
    log, _ = log_of(lambda request: f"yes {PLANTED}" if "soft" in request.messages[0].content else "no", tmp_path)
    play(log, PoolAttacker(pool), SEEDS, 2, exhaustive=True)
    for show_text in (False, True):
        write_page(found_in(log, {"attacker": PLANTED, "stopped": PLANTED}, show_text=show_text), tmp_path)
        size = {"width": width, "height": 900}
        with opened(browser, tmp_path / "findings.html", viewport=size) as (page, problems):
            assert problems == []
            assert page.evaluate("window.hit") is None
            assert page.locator("script").count() == 0
            text = page.inner_text("body")
            assert '<script>window.hit = 1</script> & "quoted" \\u202e{{ 7 * 7 }}' in text
            assert ("harmful request number 0" in text) == show_text
            assert page.evaluate("document.documentElement.scrollWidth") <= width
