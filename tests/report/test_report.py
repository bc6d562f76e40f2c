"""Claims about the report: it shows the run, stands alone, and hostile model text stays text."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from magic_rl.config import Config, dump_config
from magic_rl.errors import UserError
from magic_rl.report import svg
from magic_rl.report.curves import curves
from magic_rl.report.page import visible, write_report
from magic_rl.store.run import RunDirectory
from tests.support.fabricated_run import begun_run, evaluated_run, outcome, play_row
from tests.support.pages import opened


@pytest.fixture
def begun(tmp_path: Path) -> RunDirectory:
    """A run that has taken one step before the game."""
    return begun_run(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that was played and evaluated."""
    return evaluated_run(tmp_path)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_works_in_a_browser_and_nothing_hostile_runs(
    run: RunDirectory, browser: Browser, width: int, scheme: Any
) -> None:
    report, size = write_report(run, show_transcripts=True), {"width": width, "height": 900}
    with opened(browser, report, viewport=size, color_scheme=scheme) as (page, problems):
        assert problems == []
        assert page.evaluate("window.hit") is None
        assert (
            page.locator("script, img, link, base, form, input, a[href^='javascript'], svg[onload], b, i").count() == 0
        )
        # Figures: six curves, a frontier per attacker and the drift; the two heatmaps are tables.
        drawn = page.locator("section svg[role=img]")
        assert drawn.count() == 10
        assert all(figure.bounding_box()["height"] > 100 for figure in drawn.all()[:6])
        assert page.locator("table.heat td").count() == 2 * 4 * 3
        text = page.inner_text("body")
        planted = (
            "<script>window.hit",
            "{{ 7 * 7 }} {% for x in y %} {# hidden #}",
            "run <b>x",
            "<i>2</i>",
            "&lt;script&gt;",
        )
        for needed in (*planted, "50%\n36%–64%", "n = 42", "−40", "Hardened: ", "\\u202e \\u001b[31m \\ud800 \\u200b"):
            assert needed in text
        # The page itself never scrolls sideways; tables and figures may, each inside its box.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        levels = [
            int(tag[1]) for tag in page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)")
        ]
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.browser
def test_the_policy_of_the_page_stops_a_script_even_if_one_got_in(run: RunDirectory, browser: Browser) -> None:
    report = write_report(run)
    planted = '<script>window.hit = 1</script><img src="x" onerror="window.hit = 2"></main>'
    report.write_text(report.read_text().replace("</main>", planted))
    with opened(browser, report) as (page, refused):
        assert page.evaluate("window.hit") is None
        assert page.evaluate("document.querySelector('img').naturalWidth") == 0
        assert any("script" in message and "Content Security Policy" in message for message in refused)
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.card')).borderTopWidth") == "1px"
        )  # ours applies


def test_harmful_transcripts_are_left_out_by_default(run: RunDirectory, tmp_path: Path) -> None:
    hidden_words = "a plan nobody should read"
    run.write_episodes(
        7, [outcome("harmful", hidden_words, refused=False), outcome("benign", "a kind word", refused=True)]
    )
    shared = write_report(run, tmp_path / "deep" / "shared.html").read_text()
    assert hidden_words not in shared.replace(f"cat {hidden_words}", "")
    assert f"redacted: attack of {len(f'Pretend to be a pirate. {hidden_words}')} characters" in shared
    assert "reply a kind word" in shared
    whole = write_report(run, show_transcripts=True).read_text()
    assert f"reply {hidden_words}" in whole
    assert "Do not pass it on" in whole


def test_samples_are_the_same_each_time_and_spread_over_the_rounds(run: RunDirectory) -> None:
    page = write_report(run).read_text()
    assert page == write_report(run).read_text()
    shown = re.findall(r"<summary>Round (\d), step (\d)", page)
    assert len(shown) == 12
    assert shown[0] == ("1", "2")
    assert shown[5] == ("2", "7")


def test_all_model_text_is_behind_a_click(run: RunDirectory) -> None:
    page = write_report(run, show_transcripts=True).read_text()
    folded = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    for words in ("Pretend to be a pirate", "plan &lt;", "reply &lt;", "seed &lt;"):
        assert words in page
        assert words not in folded


def test_an_unfinished_run_has_a_report_that_says_so(begun: RunDirectory) -> None:
    text = write_report(begun).read_text()
    for needed in (
        "Not evaluated yet",
        "Not measured yet",
        "step 1",
        "Training has not ended",
        "0 of 0 are shown",
        "Before the game",
    ):
        assert needed in text


def test_the_length_and_helpfulness_of_replies_are_stated_for_each_defender(run: RunDirectory) -> None:
    text = write_report(run).read_text().replace("&nbsp;", " ")
    assert "<strong>10.0</strong> <small>5.0 to 15.0, n = 3</small>" in text
    assert "<strong>0.62</strong>" in text
    assert text.count("not scored by this judge") == 3


def test_the_agreement_of_a_panel_is_stated_with_its_interval(run: RunDirectory) -> None:
    text = write_report(run).read_text().replace("&nbsp;", " ")
    assert "<strong>0.61</strong> <small>0.40 to 0.80, n = 84</small>" in text


def test_a_run_without_data_is_refused_in_one_line(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", dump_config(Config()), {"python": "3"})
    with pytest.raises(UserError, match="nothing to report yet"):
        write_report(run)


def test_a_report_that_cannot_be_written_leaves_nothing_behind(begun: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "taken.html").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"taken\.html: cannot be written"):
        write_report(begun, tmp_path / "taken.html")
    assert sorted(tmp_path.iterdir()) == before


def test_a_curve_breaks_where_nothing_was_measured() -> None:
    drawn = svg.curve([(0, 1), (1, None), (2, 3), (3, 4)], "attacker")
    assert 'd="M0 1h0M2 3h0L3 4"' in drawn


def test_curves_show_only_what_was_measured() -> None:
    unmeasured = dict.fromkeys(("asr", "refusal_harmful", "format_rate", "attack_tokens", "reply_tokens"))
    figures = {figure.title: figure for figure in curves([play_row(step, **unmeasured) for step in (2, 3, 4)])}
    assert set(figures) == {"Attack success and refusals", "Rewards", "Format and signal", "Masked episodes"}
    rates = figures["Attack success and refusals"]
    assert rates.head == ("Round", "Learns", "Steps", "benign seeds refused")
    assert rates.rows == (
        ("1", "defender", "2–2", "10%"),
        ("1", "attacker", "3–3", "10%"),
        ("2", "defender", "4–4", "10%"),
    )


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (0.0, 0.0, (0.0, 0.2)),
        (-0.3, 1.9, (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)),
        (0.0, 7.0, (0.0, 2.0, 4.0, 6.0, 8.0)),
        (0.0, 250.0, (0.0, 50.0, 100.0, 150.0, 200.0, 250.0)),
    ],
)
def test_axes_have_round_marks_that_hold_the_data(low: float, high: float, marks: tuple[float, ...]) -> None:
    assert svg.ticks(low, high) == marks


def test_signs_that_cannot_be_seen_are_written_as_codes() -> None:
    assert visible("a\u202eb\x1b[0m\U000e0041\n\tमल\u200d") == "a\\u202eb\\u001b[0m\\ue0041\n\tमल\u200d"
