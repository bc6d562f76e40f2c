"""The same numbers as plain transformers, for each kind of model, on tiny random ones in float32."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from magic_rl.engines.base import ComputePath
from magic_rl.engines.local.decoding import SharedDecoder
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.parity import choose_path
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.types import PPO, Datum, SamplingParams, Tokens
from tests.support.tiny_engine import engine, gradients, plain, plain_logprobs, trained

# Two turns of one conversation share their beginning; lengths are ragged and go beyond a sliding window of 8.
TURN: Tokens = tuple(range(5, 14))
SECOND_TURN: Tokens = (*TURN, 60, 61, 62, 20, 21)
PROMPTS: list[Tokens] = [TURN, SECOND_TURN, (7, 8)]

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama, tied": (LlamaForCausalLM, {"config": LlamaConfig, "tie_word_embeddings": True}),
    "qwen2": (Qwen2ForCausalLM, {"config": Qwen2Config}),
    "qwen2, sliding": (Qwen2ForCausalLM, {"config": Qwen2Config, "use_sliding_window": True, **WINDOWS}),
    "qwen3": (Qwen3ForCausalLM, {"config": Qwen3Config, "head_dim": 16}),
    "mistral, sliding": (MistralForCausalLM, {"config": MistralConfig, "sliding_window": 8}),
    "gemma3": (Gemma3ForCausalLM, {"config": Gemma3TextConfig, "head_dim": 16, **WINDOWS}),
}


def folder_of(tiny_model: Path, out: Path, model: PreTrainedModel) -> Path:
    """A model folder with the tokenizer of the tiny one."""
    shutil.copytree(tiny_model, out, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="module", params=MODELS, ids=str)
def folder(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, settings = MODELS[request.param]
    torch.manual_seed(0)
    ends = dict.fromkeys(("eos_token_id", "pad_token_id"), AutoTokenizer.from_pretrained(tiny_model).eos_token_id)
    config = settings["config"](
        vocab_size=300, bos_token_id=None, **ends, **SMALL, **{k: v for k, v in settings.items() if k != "config"}
    )
    return folder_of(tiny_model, tmp_path_factory.mktemp("architecture") / "model", kind(config))


@pytest.mark.parametrize("path", [ComputePath("shared"), ComputePath("padded"), ComputePath("equal lengths")])
def test_logprobs_sampled_and_scored_equal_those_of_plain_transformers(
    folder: Path, path: ComputePath, tmp_path: Path
) -> None:
    local = engine(folder, rows=8)  # two prompts at a time; a third takes the place of the first to finish
    assert local.path.shares
    if not path.shares:
        local.path = path
        local.model.get_base_model().set_attn_implementation("sdpa")
    policy = trained(local)
    reference = plain(folder, policy, tmp_path)
    samples = [s for group in policy.sample(PROMPTS, 4, SamplingParams(24), rng_seed=3) for s in group]
    scored = policy.logprobs([(s.prompt, s.tokens) for s in samples])
    for sample, ours in zip(samples, scored, strict=True):
        with torch.inference_mode():
            expected = plain_logprobs(reference, sample.prompt, sample.tokens).tolist()
        assert ours == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert sample.logprobs == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_what_all_prompts_begin_with_is_encoded_once_a_call(folder: Path, tmp_path: Path) -> None:
    instructions = tuple(range(40, 60))  # longer than the sliding window
    prompts = [(*instructions, *ending) for ending in ((1, 2, 3), (1, 4), (5,), (6, 7, 8, 9), (1, 2, 3, 3))]
    local = engine(folder, rows=4)  # two prompts at a time
    policy = trained(local)
    fed: list[int] = []
    embedding = local.model.get_input_embeddings()
    hook = embedding.register_forward_pre_hook(lambda _, args: fed.append(args[0].shape[1]))
    samples = [s for group in policy.sample(prompts, 2, SamplingParams(12), rng_seed=3) for s in group]
    hook.remove()
    encoded = [tokens for tokens in fed if tokens > 1]  # the other passes decode
    assert len(encoded) > 2
    assert sum(encoded) <= len(instructions) + sum(len(prompt) - len(instructions) for prompt in prompts)
    reference = plain(folder, policy, tmp_path)
    for sample in samples:
        with torch.inference_mode():
            expected = plain_logprobs(reference, sample.prompt, sample.tokens).tolist()
        assert sample.logprobs == pytest.approx(expected, rel=1e-4, abs=1e-5)


@torch.inference_mode()
def test_a_group_that_joins_others_sees_its_own_tokens_alone(folder: Path) -> None:
    local = engine(folder)
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    decoder = SharedDecoder(local.model.get_base_model(), 2)
    sequences: list[Tokens] = []

    def check(logits: torch.Tensor) -> None:
        expected = torch.stack([own(torch.tensor([ids])).logits[0, -1] for ids in sequences])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)

    def feed(first: int) -> None:
        tokens = list(range(first, first + len(sequences)))
        sequences[:] = [(*ids, token) for ids, token in zip(sequences, tokens, strict=True)]
        check(decoder.go_on(torch.tensor(tokens)))

    def drop(ended: set[int], *, more: bool) -> None:
        decoder.drop(torch.tensor([row in ended for row in range(len(sequences))]), more=more)
        sequences[:] = [ids for row, ids in enumerate(sequences) if row not in ended]

    with local.model.disable_adapter():
        decoder.admit([(7, 8), TURN])
        sequences += [(7, 8), (7, 8), TURN, TURN]
        for step in range(5):
            feed(20 + 4 * step)
        decoder.admit([SECOND_TURN])
        sequences += [SECOND_TURN] * 2
        for step in range(12):  # beyond the sliding window of 8
            feed(100 + 6 * step)
        # One row has ended; the others go on, including the other one of its group.
        drop({2}, more=True)
        for step in range(3):
            feed(160 + 6 * step)
        # The first prompt has finished; a fourth takes its place, and the columns before it are freed.
        drop({0, 1}, more=True)
        decoder.admit([(9, 9, 9)])
        sequences += [(9, 9, 9)] * 2
        for step in range(3):
            feed(200 + 6 * step)
        drop({1, 4}, more=False)  # one row of each group is left
        for step in range(3):
            feed(230 + 6 * step)


def test_greedy_output_equals_generate(folder: Path, tmp_path: Path) -> None:
    policy = trained(engine(folder))
    reference = plain(folder, policy, tmp_path)
    samples = policy.sample(PROMPTS, 1, SamplingParams(20, temperature=0.0), rng_seed=0)
    for prompt, (sample,) in zip(PROMPTS, samples, strict=True):
        out = reference.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)
        assert out[0, len(prompt) :].tolist() == list(sample.tokens)


@pytest.mark.parametrize("budget", [0, 30, 1])  # prompts with all their completions in a row, with some, with one
def test_loss_and_every_adapter_gradient_equal_those_without_packing(folder: Path, budget: int) -> None:
    results = []
    for shares in (True, False):
        local = engine(folder)
        local.tokens_per_batch = budget or local.tokens_per_batch
        policy = trained(local)
        if not shares:
            local.path = ComputePath("padded")
            local.model.get_base_model().set_attn_implementation("eager")
        datums = [
            Datum(prompt, tuple(range(30 + i, 30 + i + length)), 0.1, ((-1.0) ** i,) * length, (-5.5,) * length)
            for i, (prompt, length) in enumerate(zip(PROMPTS * 3, (3, 17, 5, 9, 1, 20, 4, 12, 7), strict=True))
        ]
        # Some begin alike, one continues the first turn as the second does, two are the same.
        alike: list[tuple[Tokens, Tokens]] = [
            (TURN, (60, 61, 9, 10)),
            (TURN, (60, 61, 11)),
            (TURN, (60,)),
            (SECOND_TURN, (30, 31, 5)),
            (SECOND_TURN, (30, 31, 5)),
        ]
        datums += [
            Datum(prompt, completion, 0.1, (i - 1.5,) * len(completion), (-5.5,) * len(completion))
            for i, (prompt, completion) in enumerate(alike)
        ]
        metrics = policy.forward_backward(datums, PPO())
        results.append((metrics, gradients(policy)))
    (ours, found), (theirs, expected) = results
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert len(found) == len(expected) > 0
    for one, two in zip(found, expected, strict=True):
        assert (one - two).norm() <= 1e-4 * two.norm()


def test_a_model_of_another_kind_takes_the_plain_path_and_says_so(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=300, hidden_size=32, state_size=4, num_hidden_layers=2, eos_token_id=256)
    folder = folder_of(tiny_model, tmp_path / "model", MambaForCausalLM(config))
    saved = tmp_path / "saved"
    saved.mkdir()
    with caplog.at_level(logging.WARNING, logger="magic_rl"):
        local = LocalEngine(
            folder, LoraConfig(rank=4, target_modules=("in_proj",)), EngineConfig(device="cpu", dtype="float32")
        )
    assert local.path.kind == "equal lengths"
    assert "prompts are not shared" in caplog.text
    policy = trained(local)
    reference = plain(folder, policy, saved)
    for group in policy.sample(PROMPTS, 2, SamplingParams(6), rng_seed=1):
        for sample in group:
            with torch.inference_mode():
                expected = plain_logprobs(reference, sample.prompt, sample.tokens).tolist()
            assert sample.logprobs == pytest.approx(expected, rel=1e-4, abs=1e-5)
            (scored,) = policy.logprobs([(sample.prompt, sample.tokens)])
            assert scored == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("rope", "kind"), [({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, "equal lengths"), (None, "shared")]
)
def test_positions_that_depend_on_the_longest_row_keep_lengths_apart(rope: dict[str, Any] | None, kind: str) -> None:
    model = LlamaForCausalLM(LlamaConfig(vocab_size=300, **SMALL, rope_parameters=rope)).eval()
    own = model.config._attn_implementation
    path = choose_path(model, PROMPTS[1:], TURN)
    assert path.kind == kind
    assert ("positions" in path.reason) == (model.config._attn_implementation == own) == (rope is not None)


def test_a_model_whose_numbers_are_none_is_not_taken_for_equal() -> None:
    model = LlamaForCausalLM(LlamaConfig(vocab_size=300, **SMALL)).eval()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    assert "off by nan" in choose_path(model, PROMPTS[1:], TURN).reason
