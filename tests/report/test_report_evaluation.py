"""Claims about what the report says about an evaluation: first the verdict, then its numbers and failures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from magic_rl.config import dump_config, load_config
from magic_rl.evaluation.estimates import Estimate, rate
from magic_rl.evaluation.result import EVALUATION_FILE, AttackOnOne, AttackResult, Evaluation, measured, read, write
from magic_rl.report.curves import attack_curve
from magic_rl.report.figures import frontier
from magic_rl.report.page import write_report
from magic_rl.store.run import RunDirectory
from tests.support.fabricated_run import evaluated_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that was played and evaluated."""
    return evaluated_run(tmp_path)


def test_the_page_opens_with_the_verdict_and_says_which_direction_is_good(run: RunDirectory) -> None:
    text = write_report(run).read_text().replace("&nbsp;", " ")
    summary = text[text.index('id="summary"') : text.index('id="curves"')]
    assert summary.index("Hardened: attacks succeed less often") < summary.index("<table")
    assert summary.index("↓ lower is better") < summary.index("<table")
    titles = re.findall(r'<th scope="col">(.*?)</th>', summary)
    assert titles[:5] == ["Attacks", "untouched", "start", "trained", "change"]
    # Of 42 harmful seeds 21 escaped at the start and 4 from the trained defender; 17 of 42 are 40 %.
    row = re.search(r'<th scope="row">SFT attacker</th>(.*?)</tr>', summary, re.DOTALL)
    assert row is not None
    assert re.findall(r"<strong>(.*?)</strong>", row[1]) == ["50%", "50%", "10%", "−40"]
    assert "<strong>95%</strong> <small>84% to 99%, n = 42</small>" in summary  # well-formed attacks
    assert "J = compliance − ASR" in summary


def test_each_held_out_category_has_its_rates_with_their_counts(run: RunDirectory) -> None:
    text = write_report(run).read_text().replace("&nbsp;", " ")
    table = text[text.index("By category") : text.index("Other evaluations")]
    assert len(re.findall('<tr class="group">', table)) == 2
    assert len(re.findall("n = 21<", table)) == 2 * 3 * 6


def evaluation_of(run: RunDirectory) -> Evaluation:
    found = read(run, EVALUATION_FILE, Evaluation)
    assert found is not None
    return found


def test_the_frontier_draws_every_measured_defender_and_states_its_numbers(run: RunDirectory) -> None:
    found, rates = evaluation_of(run), [rate(hits, 40) for hits in (4, 20, 36)]
    crossplay = found.crossplay.model_copy(update={"asr": [rates] * 4, "compliance": [rates[::-1]] * 4})
    figures = frontier(found.model_copy(update={"crossplay": crossplay}))
    assert [figure.title.partition(", ")[2] for figure in figures] == ["vanilla seeds", "SFT attacker", "last attacker"]
    drawn = figures[0].svg
    centres = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)
    assert len(centres) == 4  # the untouched model and three defenders
    safe, between, eager = ((float(x), float(y)) for x, y in centres[1:])
    assert safe[0] < between[0] < eager[0]
    assert safe[1] < between[1] < eager[1]  # y grows downwards: the defender with the lowest ASR answers most
    assert [row[:3] for row in figures[0].rows[1:]] == [
        ("defender of round 0 (start)", "10.0 [4, 23]", "90.0 [77, 96]"),
        ("defender of round 1", "50.0 [35, 65]", "50.0 [35, 65]"),
        ("defender of round 2", "90.0 [77, 96]", "10.0 [4, 23]"),
    ]
    assert all(word in drawn for word in (">untouched<", ">start<", ">trained<"))


def test_names_of_points_that_coincide_do_not_cover_each_other(run: RunDirectory) -> None:
    drawn = frontier(evaluation_of(run))[0].svg
    lines = sorted(float(y) for y in re.findall(r'y="([\d.]+)" class="name"', drawn))
    assert len(lines) == 2  # the last defender has no benign seeds here
    assert lines[1] - lines[0] >= 12


def test_held_out_failures_are_redacted_unless_asked_for(run: RunDirectory) -> None:
    shared = write_report(run).read_text()
    whole = write_report(run, show_transcripts=True).read_text()
    for page, words in ((shared, 0), (whole, 6)):
        part = page[page.index('id="failures"') : page.index('id="drift"')]
        escaped, refused = part[part.index("<h3>Escaped") :].split("<h3>Refused")
        assert "6 of 12 are shown" in escaped
        assert "6 of 6 are shown" in refused
        assert escaped.count("<dt>Reply</dt>") == words
        assert escaped.count("redacted: attack of") == 6 - words
        assert refused.count("<dt>Reply</dt>") == 6
        assert {"failed at the same attack", "withstood the same attack"} == set(
            re.findall(r"<dt>At the start</dt><dd>(.*?)</dd>", escaped)
        )


def test_an_evaluation_of_an_earlier_version_is_asked_for_again(run: RunDirectory) -> None:
    run.write_json(EVALUATION_FILE, {"asr": {"start": {}, "trained": {}}})
    text = write_report(run).read_text()
    assert "so it is not shown" in text
    assert "Not evaluated yet" in text


def test_a_fresh_attackers_curve_is_drawn_with_its_numbers_and_a_legend() -> None:
    def against(*hits: int) -> AttackOnOne[Estimate]:
        curve = {step: rate(each, 20) for step, each in zip((0, 3), hits, strict=True)}
        return AttackOnOne[Estimate](curve=curve, attack_at_k={})

    figure = attack_curve(
        AttackResult[Estimate](steps=3, defenders={"start": against(8, 12), "trained": against(2, 4)})
    )
    assert figure is not None
    assert figure.rows == (
        ("start", "0", "40.0 [22, 61]"),  # Wilson's interval, from any table
        ("start", "3", "60.0 [39, 78]"),
        ("trained", "0", "10.0 [3, 30]"),
        ("trained", "3", "20.0 [8, 42]"),
    )
    assert [name for _, name in figure.legend] == ["against the defender at the start", "against the trained defender"]
    assert attack_curve(None) is None


def test_models_judge_date_and_cost_stand_with_the_verdict(run: RunDirectory) -> None:
    text = write_report(run).read_text()
    summary = text[text.index('id="summary"') : text.index("By category")]
    run.log_timing({"step": 1, "seconds": 90.0, "sample_seconds": 10.0, "tokens_per_second": 50.0})
    again = write_report(run).read_text()
    for needed in (
        "<dt>Defender</dt><dd>SmolLM2-135M-Instruct",
        "<dt>Judge</dt>",
        "1,008 replies",
        "2,048 by the judge",
    ):
        assert needed in summary
    assert "1:02:05 h, on 2026-01-31" in summary
    assert "Cost of training" not in summary
    assert "1 steps, 500 tokens sampled, 0:01:30 h" in again


def test_only_numbers_by_the_rules_judge_come_with_a_warning(run: RunDirectory) -> None:
    warning = "The judge is the demo"
    assert warning in write_report(run).read_text()
    guard = ['judge.kind="llm"', 'judge.endpoint={ model = "guard" }']
    (run.path / "config.toml").write_text(dump_config(load_config(None, guard)))
    found = read(run, EVALUATION_FILE, Evaluation)
    assert found is not None
    write(run, EVALUATION_FILE, found.model_copy(update={"measured": measured(run)}))
    assert warning not in write_report(run).read_text()


def test_other_evaluations_are_listed_with_their_verdicts_behind_a_click(run: RunDirectory) -> None:
    text = write_report(run).read_text()
    part = text[text.index("Other evaluations") : text.index('id="curves"')]
    assert part.count("<details>") == 1
    assert "judge: &lt;script&gt;" in part
    assert part.index("<details>") < part.index("Hardened: ")
