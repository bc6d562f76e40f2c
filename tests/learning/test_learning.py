"""Claims about the path from rewards to gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magic_rl.errors import UserError
from magic_rl.game.schedule import Schedule
from magic_rl.game.settings import ScheduleConfig
from magic_rl.learning.advantages import group_advantages
from magic_rl.learning.datums import build_datums
from magic_rl.learning.metrics import outcome_metrics
from magic_rl.learning.settings import OptimiserConfig
from magic_rl.learning.sft import first_sentence, read_examples
from magic_rl.learning.updates import adam_step
from magic_rl.types import Episode, Outcome, Rewards, Sample, Seed, Turn, Verdict


def test_advantages_are_centred_and_scaled_by_the_sample_deviation() -> None:
    advantages = group_advantages([1.0, 3.0, 5.0, 7.0], [0, 0, 1, 1])
    scale = 1 / (math.sqrt(2) + 1e-6)
    assert advantages == pytest.approx([-scale, scale, -scale, scale])


def test_equal_rewards_teach_nothing_even_where_their_mean_is_rounded() -> None:
    assert group_advantages([0.1] * 3, [0] * 3) == [0.0, 0.0, 0.0]


def test_masked_episodes_count_in_no_mean() -> None:
    masked = group_advantages([1.0, None, 3.0, None], [0, 0, 0, 1])
    assert masked == [pytest.approx(-0.7071063), None, pytest.approx(0.7071063), None]
    assert group_advantages([None, 2.0], [0, 0]) == [None, 0.0]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_advantages_of_a_group_sum_to_zero(rewards: list[float]) -> None:
    advantages = [a for a in group_advantages(rewards, [0] * len(rewards), scale_by_std=False) if a is not None]
    assert sum(advantages) == pytest.approx(0, abs=1e-9)


def outcome(reply_tokens: int, group: int = 0, masked: bool = False, reward: float = 1.5) -> Outcome:
    attack = Sample((1, 2), (3, 4, 5), (-1.0, -1.0, -1.0), "stop")
    reply = Sample((6,), tuple(range(reply_tokens)), (-0.5,) * reply_tokens, "stop")
    turn = Turn("attack", "plan", True, attack, "reply", reply)
    episode = Episode(Seed("s", "text", "harmful"), (turn,), group)
    if masked:
        return Outcome(episode, None, None, "cut_off")
    rewards = Rewards(1.0, 0.5, 0.5, 0.0, reward, -reward)
    return Outcome(episode, Verdict("safe", True), rewards)


def test_sequence_weights_make_a_mean_over_sequences_of_means_over_tokens() -> None:
    datums = build_datums([outcome(2), outcome(4)], [1.0, -1.0], "defender")
    assert [datum.weight for datum in datums] == [1 / 4, 1 / 8]
    assert sum(datum.weight * len(datum.tokens) for datum in datums) == pytest.approx(1)


def test_token_weights_make_a_mean_over_all_tokens() -> None:
    datums = build_datums([outcome(2), outcome(4)], [1.0, -1.0], "defender", reduction="token")
    assert [datum.weight for datum in datums] == [1 / 6, 1 / 6]


def test_a_sample_without_advantage_is_left_out_but_counts_in_the_mean() -> None:
    datums = build_datums([outcome(2), outcome(4)], [1.0, 0.0], "defender")
    assert [datum.weight for datum in datums] == [1 / 4]
    assert len(build_datums([outcome(2), outcome(4)], [1.0, 0.0], "defender", keep_zero=True)) == 2


def test_a_policy_learns_from_the_ids_it_sampled_and_from_no_masked_episode() -> None:
    (datum,) = build_datums([outcome(2), outcome(2, masked=True)], [1.0, None], "attacker")
    assert (datum.prompt, datum.tokens, datum.logprobs) == ((1, 2), (3, 4, 5), (-1.0, -1.0, -1.0))


def test_metrics_leave_masked_episodes_out_and_count_them() -> None:
    metrics = outcome_metrics([outcome(2), outcome(2, masked=True)])
    assert (metrics["episodes"], metrics["masked_cut_off"], metrics["asr"]) == (2, 1, 0.0)
    assert metrics["refusal_benign"] is None
    assert outcome_metrics([outcome(2, masked=True)])["asr"] is None


def test_a_safe_reply_that_its_quality_or_length_costs_dear_is_still_safe() -> None:
    assert outcome_metrics([outcome(2, reward=-0.5)])["safe_rate"] == 1.0


def test_the_format_rate_counts_only_what_the_attacker_wrote() -> None:
    whole = outcome(2)
    (turn,) = whole.episode.turns
    broken = replace(whole, episode=replace(whole.episode, turns=(replace(turn, well_formed=False),)))
    plain = replace(whole, episode=replace(whole.episode, turns=(replace(turn, attack_sample=None),)))
    assert outcome_metrics([whole, broken, plain, plain])["format_rate"] == 0.5
    assert outcome_metrics([plain])["format_rate"] is None


def test_the_learning_rate_warms_up_in_the_players_own_steps() -> None:
    optimiser = OptimiserConfig(lr=1.0, warmup_steps=4)
    assert [adam_step(optimiser, taken, 6).lr for taken in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_the_learning_rate_can_fall_to_the_players_last_step() -> None:
    optimiser = OptimiserConfig(lr=1.0, decay="linear")
    turns = ScheduleConfig(rounds=2, defender_steps=2)
    planned = Schedule.start(turns).planned(turns)
    assert [adam_step(optimiser, taken, planned).lr for taken in range(4)] == [1.0, 0.75, 0.5, 0.25]
    warmed = optimiser.model_copy(update={"warmup_steps": 2})
    assert [adam_step(warmed, taken, planned).lr for taken in range(4)] == [0.5, 1.0, 1.0, 0.5]


def test_a_first_sentence_is_whole_or_nothing() -> None:
    assert first_sentence("Add two eggs to it. Then wait.") == "Add two eggs to it."
    assert first_sentence("Wait. Then go on") == ""
    assert first_sentence("a text that was cut") == ""


def test_examples_of_another_shape_are_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}], "completion": "ho"}\n{"prompt": "hi"}\n')
    with pytest.raises(UserError, match=r"examples\.jsonl:2: not an example"):
        read_examples(path)
