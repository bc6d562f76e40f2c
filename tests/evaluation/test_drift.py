"""Claims about how attacks drift: the numbers of a round, and classes that a model labels."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from magic_rl.chat.base import ChatRequest, Completion
from magic_rl.evaluation.classes import CLASSES, classify, labelled_examples
from magic_rl.evaluation.drift import agreement_with_people, of_round, self_bleu
from magic_rl.evaluation.estimates import rate
from tests.support.chatting import Scripted

CAT, MAT = "the cat sat on the mat today", "the cat sat on a mat"


@pytest.mark.parametrize(
    ("texts", "score"),
    [
        ([CAT, CAT], 1.0),
        ([CAT, MAT], 0.444761),
        ([CAT, "quite different words stand in here"], 0.0),
        ([CAT, MAT, "a dog"], 0.310323),
    ],
)
def test_self_bleu_is_that_of_nltk(texts: list[str], score: float) -> None:
    assert self_bleu(texts) == pytest.approx(score, abs=1e-6)


def test_one_attack_has_no_self_bleu() -> None:
    assert self_bleu([CAT]) is None


def test_a_round_counts_hybrids_and_combinations_that_are_new() -> None:
    slang, scene = frozenset({"concealment"}), frozenset({"role_play"})
    both = slang | scene
    found = of_round(["a", "b", "c", "d"], [both, slang, both, None], first=[slang, None, scene])
    assert (found.n, found.classified, found.combinations) == (4, 3, 2)
    assert found.hybrids == found.new == rate(2, 3)
    assert found.shares == pytest.approx({"role_play": 2 / 3, "concealment": 1.0})
    assert of_round(["a", "b"]).combinations is None


def test_classes_are_read_from_json_and_anything_else_is_no_answer() -> None:
    said: dict[str, str | Completion] = {
        "scene": '{"classes": ["role_play", "translation"]}',
        "fenced": '```json\n{"classes": ["other"]}\n```',
        "plain": '{"classes": ["other", "encoding"]}',
        "invented": '{"classes": ["hypnosis"]}',
        "none": '{"classes": []}',
        "words": "It is role play.",
        "failed": Completion(failed="busy"),
    }

    def answer(request: ChatRequest) -> str | Completion:
        return said[json.loads(request.messages[-1].content)["request"]]

    found = classify(Scripted(answer), list(said))
    assert found[:3] == [frozenset({"role_play", "translation"}), frozenset({"other"}), frozenset({"encoding"})]
    assert found[3:] == [None] * 4


def test_agreement_is_over_examples_and_over_their_classes() -> None:
    one, other = frozenset({"role_play"}), frozenset({"encoding"})
    found = agreement_with_people([one, one, one | other, one], [one, other, one, None])
    assert found["same classes"] == rate(1, 3)
    # The answers name three classes, two of them rightly; the labels of the same examples name four.
    assert found["precision"] == rate(2, 3)
    assert found["recall"] == rate(2, 4)
    assert found["answered"] == rate(3, 4)


def test_every_class_has_two_labelled_examples_and_some_combine_two() -> None:
    labels = [classes for _, classes in labelled_examples()]
    counts = Counter(name for classes in labels for name in classes)
    assert set(counts) == set(CLASSES)
    assert min(counts.values()) >= 2
    assert len({each.family for each in CLASSES.values()}) == 6
    assert sum(len(classes) > 1 for classes in labels) >= 5
