"""Claims about the report: it shows the run, stands alone, and hostile model text stays text."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from magic_rl.config import Config, dump_config
from magic_rl.errors import UserError
from magic_rl.evaluation.metrics import Rate
from magic_rl.report.html import write_report
from magic_rl.store.run import RunDirectory
from magic_rl.types import Episode, Outcome, Rewards, Sample, Seed, Turn, Verdict

HOSTILE = (
    '<script>window.hit = 1; alert("hit")</script>',
    '<img src="x" onerror="window.hit = 1">',
    "</script></pre><svg onload=window.hit=1>",
    "{{ 7 * 7 }} {% for x in y %}",
    "https://example.invalid/leak ‮ \x1b[31m",
)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"


def outcome(label: str, text: str, refused: bool) -> Outcome:
    sample = Sample((1,), (2, 3), (-1.0, -1.0), "stop")
    turn = Turn(f"Pretend to be a pirate. {text}", f"plan {text}", True, sample, f"reply {text}", sample)
    seed = Seed(f"{label}-1", f"seed {text}", "harmful" if label == "harmful" else "benign", f"cat {text}")
    verdict = Verdict("unsafe" if label == "harmful" and not refused else "safe", refused)
    return Outcome(Episode(seed, (turn,), 0), verdict, Rewards(1, 0.5, 0.5, 0, 1.5, -1.0))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A fabricated run with hostile text wherever a model or a data set may put it."""
    run = RunDirectory.create(tmp_path / "run <b>x", dump_config(Config()), {"python": "3", "torch": "<i>2</i>"})
    run.log({"step": 1, "stage": "sft_attacker", "stage_step": 1, "loss": 2.0, "grad_norm": 1.0, "lr": 0.1})
    for step in range(2, 8):
        run.log(
            {
                "step": step,
                "stage": "play",
                "round": step // 4 + 1,
                "episodes": 10,
                "masked_cut_off": 1,
                "learner": "attacker" if step % 2 else "defender",
                "asr": None if step == 3 else 0.5,
                "refusal_harmful": 0.5,
                "refusal_benign": 0.1,
                "reward_attacker": 0.2,
                "reward_defender": 0.4,
                "format_rate": 0.9,
                "groups_with_signal": 0.8,
                "masked_abstained": 0,
            }
        )
        run.write_episodes(
            step, [outcome(label, text, label == "benign") for label in ("harmful", "benign") for text in HOSTILE]
        )
    rate, row = Rate(21, 42).as_dict(), ["no rewrite", "round 0 (SFT)", "round 1", "round 2"]
    run.write_json(
        "evaluation.json",
        {
            "attackers": row,
            "defenders": row[1:],
            "asr": [[rate] * 3] * 4,
            "compliance": [[rate] * 3] * 4,
            "format": [None, rate, rate, rate],
            "abstained": 0,
            "judge": "rules-1",
            "held_out": {"harmful": 42, "benign": 42, "categories": [HOSTILE[0]]},
        },
    )
    asr: dict[str, Any] = dict.fromkeys(("vanilla", "sft_attacker", "last_attacker"), rate)
    compliance: dict[str, Any] = dict.fromkeys(("vanilla", "rewritten"), rate)
    summary = {"asr": {"start": asr, "trained": asr}, "compliance": {"start": compliance, "trained": compliance}}
    run.write_json("summary.json", summary)
    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    assert executable, "the report is looked at in Chromium; install it so that the command 'chromium' is found"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_works_in_a_browser_and_nothing_hostile_runs(
    run: RunDirectory, browser: Browser, width: int, scheme: Any, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda _: problems.append("dialog"))
    page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    page.goto(write_report(run, show_transcripts=True).as_uri(), timeout=120_000)  # machines under load are slow
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true }")
    page.wait_for_timeout(300)
    assert problems == []
    assert page.evaluate("window.hit") is None
    assert page.locator(".js-plotly-plot").count() == 7  # four curves, two heatmaps, drift
    assert page.locator("svg[onload], img, b").count() == 0
    text = page.inner_text("body")
    for planted in ("<script>window.hit", "{{ 7 * 7 }}", "50% [36%, 64%] n=42", "run <b>x"):
        assert planted in text
    # The page itself never scrolls sideways; tables and figures may, each in its own box.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_harmful_transcripts_are_left_out_by_default(run: RunDirectory, tmp_path: Path) -> None:
    shared = write_report(run, tmp_path / "shared.html").read_text()
    assert "redacted (attack 2 tokens" in shared
    for escaped in run.episodes(2)[: len(HOSTILE)]:
        assert escaped["seed"]["label"] == "harmful"
    assert shared.count("<dt>Seed</dt>") == 6  # the benign ones
    assert write_report(run, show_transcripts=True).read_text().count("<dt>Seed</dt>") == 12


def test_an_unfinished_run_has_a_report_that_says_so(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", dump_config(Config()), {"python": "3"})
    with pytest.raises(UserError, match="nothing to report yet"):
        write_report(run)
    run.log({"step": 1, "stage": "sft_attacker", "stage_step": 1, "loss": 2.0, "grad_norm": 1.0, "lr": 0.1})
    text = write_report(run).read_text()
    assert "Not evaluated yet" in text
    assert "No rewritten attacks" in text
