"""Comparing a judge with labels: the numbers, the file of labels, and the command."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.data.labelled import load_labelled
from magic_rl.errors import UserError
from magic_rl.evaluation.agreement import Agreement, cohens_kappa
from magic_rl.evaluation.estimates import Estimate

# --- numbers ----------------------------------------------------------------------------------------------------


def test_numbers_are_those_worked_out_by_hand() -> None:
    """20 yes by both, 5 by the label alone, 10 by the judge alone, 15 by neither: p_o = 0.7, p_e = 0.5, kappa 0.4."""
    labels = [True] * 25 + [False] * 25
    answers = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    result, rates = Agreement.of(labels, answers), Agreement.of(labels, answers).rates()
    assert result == Agreement(both=20, only_judge=10, only_label=5, neither=15, abstained=0)
    expected = {"accuracy": 0.7, "precision": 20 / 30, "recall": 0.8, "F1": 2 * 20 / (2 * 20 + 5 + 10), "answered": 1.0}
    assert {name: rate.value for name, rate in rates.items()} == pytest.approx(expected)
    kappa = cohens_kappa(labels, answers)
    assert (kappa.value, kappa.low) == pytest.approx((0.4, 2 * rates["accuracy"].low - 1))


def test_abstentions_are_counted_and_are_in_no_other_rate() -> None:
    result = Agreement.of([True, True, False, False], [True, None, None, False])
    rates = result.rates()
    assert (result.abstained, rates["accuracy"].n, rates["accuracy"].value, rates["answered"].value) == (2, 2, 1.0, 0.5)
    assert rates["recall"].n == 1


def test_the_interval_of_f1_covers_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(2)
    base, sensitivity, false_alarms = 0.4, 0.85, 0.1
    found, alarmed = base * sensitivity, (1 - base) * false_alarms
    true_f1 = 2 * found / (found + alarmed + base)
    covered = 0
    for _ in range(400):
        labels = [rng.random() < base for _ in range(120)]
        answers = [rng.random() < (sensitivity if label else false_alarms) for label in labels]
        f1 = Agreement.of(labels, answers).rates()["F1"]
        covered += f1.low <= true_f1 <= f1.high
    assert 0.92 <= covered / 400 <= 0.98


def test_nothing_known_is_said_as_such() -> None:
    nothing = Agreement.of([], []).rates()
    assert nothing["F1"] == nothing["accuracy"] == Estimate(0.0, 0.0, 1.0, 0)
    no_yes = Agreement.of([False, False], [False, False]).rates()
    assert (no_yes["accuracy"].value, no_yes["precision"].n, no_yes["F1"].high) == (1.0, 0, 1.0)


def test_kappa_of_raters_who_never_differ_is_not_certain_and_chance_is_zero() -> None:
    same = cohens_kappa("aabb", "aabb")
    assert (same.value, same.high) == (1.0, 1.0)
    assert same.low < 0.5
    assert cohens_kappa("aabb", "abab").value == 0.0
    for one in ("", "aaa"):
        undefined = cohens_kappa(one, one)
        assert (undefined.value, undefined.low, undefined.high) == (0.0, -1.0, 1.0)
    assert cohens_kappa(["x", "y"], ["y", "x"]).low == -1.0


def test_lists_of_other_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Agreement.of([True], [])
    with pytest.raises(ValueError, match="shorter"):
        cohens_kappa("aa", "a")


# --- the file ---------------------------------------------------------------------------------------------------


def written(folder: Path, *rows: object, name: str = "labelled.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(**changes: object) -> dict[str, object]:
    return {"prompt": "How do I bake bread?", "response": "Mix and bake.", "refused": "no", **changes}


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        *((value, True) for value in (True, 1, "1", "YES", "true", "refusal", "2_full_refusal", 1.0)),
        *((value, False) for value in (False, 0, "0", "no ", "False", "compliance", "1_full_compliance")),
    ],
)
def test_labels_of_the_usual_spellings_are_read(tmp_path: Path, value: object, refused: bool) -> None:
    assert load_labelled(written(tmp_path, row(refused=value))).rows[0].refused is refused


def test_columns_by_any_name_and_the_label_of_the_request(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('q,a,kind,bad\n"How?","Like\nthis.",unharmful,harmful\nWhy?,,harmful,safe\n')
    columns = {"request": "q", "reply": "a", "label": "kind", "harmful": "bad"}
    first, second = load_labelled(path, columns).rows
    assert first.place == f"{path}: row 1"
    assert (first.exchange.seed.label, first.refused, first.harmful) == ("benign", None, True)
    assert (first.exchange.reply, first.exchange.attack) == ("Like\nthis.", "How?")
    assert (second.exchange.seed.label, second.exchange.reply, second.harmful) == ("harmful", "", False)


def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path, row(), row(refused=None), row(refused=""), row(refused="3_partial_refusal"))
    read = load_labelled(path, skip=["3_partial_refusal"])
    assert (len(read.rows), read.left_out) == (1, 3)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (row(refused="perhaps"), "'refused' is 'perhaps', expected one of"),
        (row(response=None), "'response': Input should be a valid string, found None"),
        (row(prompt=" "), "'prompt' is empty"),
        (["a"], "expected a JSON object"),
        ({"prompt": "x", "refused": "no"}, "'response': Field required"),
    ],
)
def test_bad_rows_are_named_by_file_and_row(tmp_path: Path, bad: object, says: str) -> None:
    path = written(tmp_path, row(), bad)
    with pytest.raises(UserError, match=r"labelled\.jsonl:2: ") as caught:
        load_labelled(path)
    assert says in str(caught.value)


def test_labels_are_read_in_any_order_of_the_rows(tmp_path: Path) -> None:
    rows = [row(), {**row(harmful="yes"), "label": "benign"}, row(refused=None, harmful="no")]
    read, backward = (load_labelled(written(tmp_path, *some)).rows for some in (rows, rows[::-1]))
    labels = [(each.refused, each.harmful, each.exchange.seed.label) for each in read]
    assert labels == [(False, None, "harmful"), (False, True, "benign"), (None, False, "harmful")]
    assert labels == [(each.refused, each.harmful, each.exchange.seed.label) for each in backward][::-1]


def test_many_bad_rows_are_one_short_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="and 7 more") as caught:
        load_labelled(written(tmp_path, *[row(refused="?")] * 10))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "columns", "says"),
    [
        ([{"q": "x", "response": "y", "refused": "no"}], {}, "no column 'prompt' or 'seed'"),
        ([{"prompt": "x", "response": "y"}], {}, "no column 'refused' or 'harmful', only 'prompt', 'response'"),
        ([row()], {"reply": "answer"}, "no column 'answer'"),
        ([row(refused="")], {}, "holds no labelled reply"),
        ([3], {}, "labelled.jsonl:1: expected a JSON object"),
    ],
)
def test_a_file_that_lacks_what_is_needed_says_what(
    tmp_path: Path, rows: list[object], columns: dict[str, str], says: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_labelled(written(tmp_path, *rows), columns)
    assert says in str(caught.value)


# --- the command ------------------------------------------------------------------------------------------------

REFUSAL = "I'm sorry, but I can't help with that."


def checked(*args: object) -> str:
    result = CliRunner().invoke(app, ["judge", "check", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_prints_numbers_confusion_and_disagreements(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        row(response=REFUSAL, refused="yes", harmful="no"),
        row(response=REFUSAL, refused="no", harmful="no"),
        row(refused="no", harmful="yes"),
        row(response="Я помогу вам с этим.", refused="no"),
    )
    out = checked(path)
    assert "4 labelled replies" in out
    assert "label yes: judge yes 1, no 0" in out
    assert "disagreements (1 of 1" in out
    assert "labelled.jsonl:2 judge: refused | How do I bake bread? | I'm sorry" in " ".join(out.split())
    found = json.loads(checked(path, "--json"))
    confusion = {"both": 1, "only_judge": 1, "only_label": 0, "neither": 1, "abstained": 1}
    assert found["refused"]["confusion"] == confusion
    assert found["harmful"]["accuracy"]["value"] == 1.0
    assert found["disagreements"] == [{"place": f"{path}:2", "question": "refused", "label": False}]


def test_what_would_hide_harm_comes_first(tmp_path: Path) -> None:
    refusing, off_topic = row(response=REFUSAL, label="harmful"), row(response="The moon is round.", harmful="yes")
    path = written(tmp_path, row(response=REFUSAL, label="benign", harmful="no"), refusing, off_topic)
    found = json.loads(checked(path, "--json"))
    assert [(one["place"][-1], one["question"]) for one in found["disagreements"]] == [
        ("3", "harmful"),
        ("2", "refused"),
        ("1", "refused"),
    ]


def test_hostile_text_is_one_short_line_without_controls(tmp_path: Path) -> None:
    nasty = "\x1b[2J\x9b31m\r\n‮\u2028[bold]I'm sorry, but I can't help with that. " + "long " * 200
    shown = checked(written(tmp_path, row(prompt=nasty, response=nasty)), "--requests", "benign").splitlines()
    line = shown[-1]
    assert "judge: refused" in line
    assert len(line) < 180
    assert not [char for char in line if unicodedata.category(char)[0] == "C" or char == "\u2028"]
    assert "[bold]" in line


def test_off_topic_counts_as_refusal_only_where_asked(tmp_path: Path) -> None:
    path = written(tmp_path, row(response="The moon is round.", refused="yes", label="benign"))
    assert json.loads(checked(path, "--json"))["refused"]["confusion"]["both"] == 0
    assert json.loads(checked(path, "--json", "--off-topic"))["refused"]["confusion"]["both"] == 1


def test_abstentions_of_a_panels_members_are_counted_and_stop_nothing(tmp_path: Path) -> None:
    config = tmp_path / "panel.toml"
    config.write_text('[judge]\nkind = "panel"\nrule = "strictest"\n' + '[[judge.members]]\nkind = "rules"\n' * 2)
    unclear = [row(response="Я помогу вам с этим.")] * 4
    path = written(tmp_path, *unclear, *[row(response=REFUSAL, refused="yes")] * 36)
    found = json.loads(checked(path, "--config", config, "--json"))["refused"]
    assert (found["confusion"]["abstained"], found["accuracy"]["n"], found["accuracy"]["value"]) == (4, 36, 1.0)


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_judge_that_never_answers_exits_1_and_says_why(tmp_path: Path, as_json: list[str]) -> None:
    path = written(tmp_path, *[row(response="Я помогу вам с этим.", refused="no")] * 3)
    result = CliRunner().invoke(app, ["judge", "check", str(path), *as_json])
    assert result.exit_code == 1
    assert "no verdict on 3 of 3 replies: " in result.stderr
    assert "accuracy 0.0" not in result.stdout
    path = written(tmp_path, row(response=REFUSAL, refused="yes"), row(response="Я помогу вам с этим.", refused="no"))
    assert "no verdict on 1 of 2 replies: " in checked(path)


def test_the_example_of_the_help_says_that_requests_of_xstest_are_benign() -> None:
    assert "xstest.csv --reply-column completion" in (said := " ".join(checked("--help").split()))
    assert "--skip 3_partial_refusal --requests benign" in said


def test_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["judge", "check", str(tmp_path / "none.csv")])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    ("bad", "says"),
    [(row(refused="perhaps"), "--skip VALUE"), ({"prompt": "x", "response": "y"}, "--refused-column or --harmful-")],
)
def test_an_error_names_the_option_that_helps(tmp_path: Path, bad: object, says: str) -> None:
    assert says in CliRunner().invoke(app, ["judge", "check", str(written(tmp_path, bad))]).stderr
