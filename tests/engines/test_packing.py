"""Claims about how sequences are laid out in rows, and about rows that continue a prompt computed separately."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from magic_rl.engines.local import scoring
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.packing import pack
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.types import PPO, CrossEntropy, Datum
from tests.support.tiny_engine import PROMPTS, engine, trained


def test_a_shared_prompt_is_encoded_once() -> None:
    ((row,),) = (b.rows for b in pack([((1, 2, 3), (4, 5)), ((1, 2, 3), (6, 7, 8)), ((9,), (4, 4))], budget=100))
    assert row.ids.tolist() == [[1, 2, 3, 4, 6, 7, 9, 4]]
    assert row.positions.tolist() == [[0, 1, 2, 3, 3, 4, 0, 1]]
    assert row.targets.tolist() == [4, 5, 6, 7, 8, 4, 4]


def test_a_common_beginning_of_sequences_is_encoded_once() -> None:
    ((row,),) = (b.rows for b in pack([((1, 2, 3), (4, 5, 6)), ((1, 2, 3), (4, 7, 8)), ((1, 2, 9), (4, 4))], 100))
    assert row.ids.tolist() == [[1, 2, 3, 4, 5, 7, 9, 4]]
    assert row.positions.tolist() == [[0, 1, 2, 3, 4, 4, 2, 3]]
    assert row.predict.tolist() == [2, 3, 4, 2, 3, 5, 6, 7]
    assert row.targets.tolist() == [4, 5, 6, 4, 7, 8, 4, 4]


def test_a_prompt_too_long_for_all_its_completions_is_still_encoded_once() -> None:
    prompt = (1, 2, 3, 4)
    (batch,) = pack([(prompt, (5, 6, 7, 8)), (prompt, (5, 6, 9)), (prompt, (6, 6, 6))], budget=10)
    assert batch.prefix == (1, 2, 3)  # its last token predicts the first ones of every row
    one, two = batch.rows
    assert one.ids.tolist() == [[4, 5, 6, 7]]
    assert one.positions.tolist() == [[3, 4, 5, 6]]
    assert one.predict.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert one.targets.tolist() == [5, 6, 7, 8, 5, 6, 9]
    assert two.ids.tolist() == [[4, 6, 6]]
    assert two.sequences == [2]
    assert batch.tokens == 3 + 4


def test_a_prompt_longer_than_the_budget_still_has_several_completions_a_row() -> None:
    (batch,) = pack([((1,) * 100, (i, i, i)) for i in range(10)], budget=20)
    assert [len(row.sequences) for row in batch.rows] == [5, 5]


def test_completions_of_a_one_token_prompt_may_take_several_rows() -> None:
    (batch,) = pack([((1,), (i, i, i, i)) for i in range(2, 6)], budget=7)
    assert batch.prefix == ()
    assert [row.ids.tolist() for row in batch.rows] == [[[1, 2, 2, 2, 3, 3, 3]], [[1, 4, 4, 4, 5, 5, 5]]]


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj",)])
@pytest.mark.parametrize("above", [None, 1])
def test_scores_and_gradients_of_split_groups_are_those_of_whole_ones(
    tiny_model: Path, targets: Any, above: int | None
) -> None:
    sequences = [(prompt, (*range(g, g + 9),)) for prompt in (*PROMPTS, (3,)) for g in range(20, 26)]
    results = []
    for budget in (8192, 20):
        config = EngineConfig.model_validate(
            {"device": "cpu", "dtype": "float32", "threads": 1, "tokens_per_batch": budget, "recompute_above": above}
        )
        policy = trained(LocalEngine(tiny_model, LoraConfig(rank=4, target_modules=targets), config))
        assert any(len(batch.rows) > 1 for batch in pack(sequences, budget)) == (budget == 20)
        scored = torch.tensor([p for row in policy.logprobs(sequences) for p in row])
        policy.forward_backward([Datum(*sequence, 0.1) for sequence in sequences], CrossEntropy())
        gradients = torch.cat([p.grad.flatten() for p in policy._parameters.values() if p.grad is not None])
        results.append((scored, gradients))
    (scored, gradients), (others, other_gradients) = results
    assert torch.allclose(scored, others, rtol=1e-4)
    assert (gradients - other_gradients).norm() <= 1e-4 * gradients.norm()


def test_a_failure_between_rows_leaves_the_layers_as_they_were(tiny_model: Path) -> None:
    local = engine(tiny_model, budget=1)
    local.config = local.config.model_copy(update={"recompute_above": 1})
    policy = local.new_policy("policy")
    datums = [
        Datum((1, 2, 3), tokens, 1.0, (1.0,) * len(tokens), (-1.0,) * n) for tokens, n in (((4, 5, 6), 3), ((7, 8), 1))
    ]
    with pytest.raises(ValueError, match="per-token values"):
        policy.forward_backward(datums, PPO())
    layers = scoring.recomputable(local.model)
    assert layers
    assert not any("forward" in vars(layer) for layer in layers)


def test_a_sequence_without_a_completion_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a prompt and a completion"):
        list(pack([((1,), ())], budget=10))


def test_a_long_tree_is_not_joined_with_many_short_ones() -> None:
    long, short = ((1,) * 90, (2, 3)), [((i, i), (4, 5)) for i in range(10, 40)]
    rows = [row for batch in pack([long, *short], budget=200) for row in batch.rows]
    assert sorted(index for row in rows for index in row.sequences) == list(range(31))
    (with_the_long_one,) = (row for row in rows if 0 in row.sequences)
    assert len(with_the_long_one.sequences) == 200**2 // 90**2
