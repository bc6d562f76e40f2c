"""Claims about the local engine, compared with plain transformers on a tiny model in float32."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM

from magic_rl.engines.local import inference, scoring
from magic_rl.engines.local.engine import LocalEngine, with_same_input
from magic_rl.engines.local.inference import inferring
from magic_rl.engines.local.policy import LocalPolicy
from magic_rl.engines.local.sampling import choose
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.errors import UserError
from magic_rl.types import PPO, Adam, CrossEntropy, Datum, ImportanceSampling, Loss, Message, SamplingParams
from tests.support.tiny_engine import PROMPTS, engine, gradients, plain, plain_logprobs, trained


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> LocalEngine:
    return engine(tiny_model)


@pytest.fixture(scope="module")
def policy(local: LocalEngine) -> LocalPolicy:
    return trained(local)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Restores the number of threads after a test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def datums_of(policy: LocalPolicy, group: int = 4) -> list[Datum]:
    """Sampled groups of ragged lengths, with advantages and off-policy log-probabilities."""
    rng = np.random.default_rng(0)
    return [
        Datum(
            s.prompt,
            s.tokens,
            1 / len(s.tokens),
            tuple(rng.normal(size=len(s.tokens)).tolist()),
            tuple(rng.normal(p, 0.3) for p in s.logprobs),
        )
        for samples in policy.sample(PROMPTS, group, SamplingParams(20), rng_seed=1)
        for s in samples
    ]


def test_packed_logprobs_equal_those_of_plain_transformers(
    tiny_model: Path, tmp_path: Path, policy: LocalPolicy
) -> None:
    reference = plain(tiny_model, policy, tmp_path)
    sequences = [(d.prompt, d.tokens) for d in datums_of(policy)]
    for (prompt, completion), ours in zip(sequences, policy.logprobs(sequences), strict=True):
        with torch.inference_mode():
            expected = plain_logprobs(reference, prompt, completion)
        torch.testing.assert_close(torch.tensor(ours), expected, rtol=1e-4, atol=1e-5)


def test_sampled_logprobs_equal_rescored_ones(policy: LocalPolicy) -> None:
    samples = [s for group in policy.sample(PROMPTS, 4, SamplingParams(20), rng_seed=3) for s in group]
    rescored = policy.logprobs([(s.prompt, s.tokens) for s in samples])
    for sample, scored in zip(samples, rescored, strict=True):
        assert sample.logprobs == pytest.approx(scored, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("loss", [PPO(), ImportanceSampling(), CrossEntropy()], ids=str)
def test_loss_and_gradients_do_not_depend_on_how_a_batch_is_packed(tiny_model: Path, loss: Loss) -> None:
    results = []
    # All in one row; several rows; rows that continue their prompt; one such row per sequence.
    for budget in (8192, 60, 24, 1):
        local = engine(tiny_model, budget)
        policy = trained(local)
        metrics = policy.forward_backward(datums_of(policy), loss)
        results.append((metrics, gradients(policy)))
    (first, expected), *others = results
    assert expected
    for metrics, other in others:
        assert metrics == pytest.approx(first, rel=1e-4)
        for one, two in zip(expected, other, strict=True):
            # Relative to the whole tensor: single entries may be sums that nearly cancel.
            assert (one - two).norm() <= 1e-4 * one.norm()


def test_adapter_gradients_equal_those_of_peft(tiny_model: Path, tmp_path: Path, policy: LocalPolicy) -> None:
    reference = plain(tiny_model, policy, tmp_path, is_trainable=True)
    datums = datums_of(policy)
    losses = [-d.weight * plain_logprobs(reference, d.prompt, d.tokens).sum() for d in datums]
    torch.autograd.backward(torch.stack(losses).sum())
    expected = {name: parameter.grad for name, parameter in reference.named_parameters() if parameter.requires_grad}
    policy.forward_backward(datums, CrossEntropy())
    assert set(expected) == set(policy._parameters)
    for name, parameter in policy._parameters.items():
        ours, theirs = parameter.grad, expected[name]
        assert ours is not None
        assert theirs is not None
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()
        parameter.grad = None


def test_bfloat16_gives_nearly_the_numbers_of_float32(tiny_model: Path, tmp_path: Path, policy: LocalPolicy) -> None:
    policy.save(tmp_path)
    found = []
    for dtype, budget in (("float32", 8192), ("bfloat16", 8192), ("bfloat16", 24)):
        config = EngineConfig.model_validate(
            {"device": "cpu", "dtype": dtype, "threads": 1, "tokens_per_batch": budget}
        )
        same = LocalEngine(tiny_model, LoraConfig(rank=4), config).load(tmp_path, "same")
        datums = [
            Datum(prompt, tuple(range(30, 30 + length)), 1 / length)
            for prompt, length in zip(PROMPTS * 3, (3, 17, 5, 9, 1, 20, 4, 12, 7), strict=True)
        ]
        scored = [p for row in same.logprobs([(d.prompt, d.tokens) for d in datums]) for p in row]
        same.forward_backward(datums, CrossEntropy())
        found.append((torch.tensor(scored), torch.cat([part.flatten() for part in gradients(same)])))
    (exact, whole), *others = found
    for rounded, other in others:
        assert (exact - rounded).abs().mean() < 0.05
        assert torch.cosine_similarity(whole, other, dim=0) > 0.99


@pytest.mark.slow
def test_the_same_batch_gives_the_same_gradients_to_the_bit(tiny_model: Path, restored_threads: None) -> None:
    # With two threads and enough tokens that sums over a group's copies of its prompt are split between them.
    config = EngineConfig.model_validate({"device": "cpu", "dtype": "float32", "threads": 2})
    policy = trained(LocalEngine(tiny_model, LoraConfig(rank=4), config))
    prompts = [tuple(np.random.default_rng(number).integers(1, 250, 400).tolist()) for number in range(2)]
    datums = [Datum(prompt, tuple(range(g, g + 40)), 1 / 16) for prompt in prompts for g in range(1, 17)]
    runs = []
    for _ in range(8):
        policy.forward_backward(datums, CrossEntropy())
        runs.append(torch.cat([part.flatten() for part in gradients(policy)]))
        for parameter in policy._parameters.values():
            parameter.grad = None
    assert all(torch.equal(run, runs[0]) for run in runs[1:])


def test_logits_in_chunks_make_no_difference(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for chunk in (256, 3):
        monkeypatch.setattr(scoring, "CHUNK", chunk)
        policy = trained(engine(tiny_model))
        metrics = policy.forward_backward(datums_of(policy), PPO())
        results.append((metrics, gradients(policy)))
    (whole, expected), (chunked, others) = results
    assert chunked == pytest.approx(whole, rel=1e-4)
    for one, two in zip(expected, others, strict=True):
        assert (one - two).norm() <= 1e-4 * one.norm()


def test_activations_computed_again_make_no_difference_and_are_not_kept(tiny_model: Path) -> None:
    results, kept = [], []
    for above, budget in ((None, 8192), (1, 8192), (1, 1)):
        local = engine(tiny_model, budget)
        local.config = local.config.model_copy(update={"recompute_above": above})
        policy = trained(local)
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            metrics = policy.forward_backward(datums_of(policy), PPO())
        kept.append(sum(sizes))
        results.append((metrics, gradients(policy)))
    (whole, expected), *again = results
    for metrics, others in again:
        assert metrics == pytest.approx(whole, rel=1e-4)
        for one, two in zip(expected, others, strict=True):
            assert (one - two).norm() <= 1e-4 * one.norm()
    assert max(kept[1:]) < kept[0] / 2


def test_greedy_samples_equal_transformers_generate(tiny_model: Path, local: LocalEngine) -> None:
    own = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    samples = local.base().sample(PROMPTS, 1, SamplingParams(12, temperature=0.0), rng_seed=0)
    for prompt, (sample,) in zip(PROMPTS, samples, strict=True):
        ids = torch.tensor([prompt])
        expected = own.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert list(sample.tokens) == expected[0, len(prompt) :].tolist()


def test_a_sample_ends_with_its_end_of_turn_or_is_cut_off(local: LocalEngine, policy: LocalPolicy) -> None:
    samples = [s for group in local.base().sample(PROMPTS, 30, SamplingParams(20), rng_seed=2) for s in group]
    assert {s.finish for s in samples} == {"stop", "length"}
    for sample in samples:
        ends = [token in local.renderer.stop_ids for token in sample.tokens]
        assert ends[-1] == (sample.finish == "stop")
        assert not any(ends[:-1])
        assert len(sample.tokens) == len(sample.logprobs) <= 20


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_every_end_that_the_models_files_list_ends_a_sample(tiny_model: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    other = 65  # an ordinary letter
    settings = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**settings, "eos_token_id": [settings["eos_token_id"], other]}))
    local = LocalEngine(folder, LoraConfig(rank=4), EngineConfig(device="cpu", dtype="float32", threads=1))
    assert local.renderer.stop_ids == {settings["eos_token_id"], other}
    samples = [s for group in local.base().sample([(1, 2), (3, 4)], 64, SamplingParams(40), 0) for s in group]
    assert {s.tokens[-1] for s in samples if s.finish == "stop"} == local.renderer.stop_ids
    assert not any(token in local.renderer.stop_ids for s in samples for token in s.tokens[:-1])
    assert local.renderer.decode((66, other, 66)) == local.renderer.decode((66,))


@pytest.mark.parametrize("params", [SamplingParams(1), SamplingParams(1, 0.5), SamplingParams(1, 1.0, 0.6)], ids=str)
def test_tokens_follow_the_distribution(params: SamplingParams) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]])
    draws = torch.from_numpy(np.random.default_rng(0).random(20_000))
    picked, logprobs = choose(logits.expand(20_000, -1), draws, params)
    expected = (logits[0] / params.temperature).softmax(-1)
    if params.top_p < 1:
        order = expected.argsort(descending=True)
        kept = order[: int((expected[order].cumsum(0) < params.top_p).sum()) + 1]
        expected = torch.zeros(5).index_put((kept,), expected[kept] / expected[kept].sum())
    torch.testing.assert_close(logprobs, expected.log()[picked], rtol=1e-4, atol=1e-5)
    possible = expected > 0
    counts = torch.bincount(picked, minlength=5)
    assert counts[~possible].sum() == 0
    shares = expected[possible].double().numpy()
    assert chisquare(counts[possible].numpy(), shares / shares.sum() * 20_000).pvalue > 1e-3


def test_a_draw_at_either_end_picks_a_possible_token() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf")]]).expand(2, -1)
    picked, _ = choose(logits, torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64), SamplingParams(1))
    assert picked.tolist() == [1, 1]


def test_policies_of_one_base_do_not_touch_each_other(local: LocalEngine) -> None:
    sequences = [(PROMPTS[0], (11, 12, 13))]
    before = local.base().logprobs(sequences)
    one, two = trained(local, "one"), local.new_policy("two")
    assert two.logprobs(sequences) == before  # a fresh policy is the base model
    assert one.logprobs(sequences) != before
    assert local.base().logprobs(sequences) == before


def test_a_snapshot_stays_what_it_was_and_cannot_learn(local: LocalEngine) -> None:
    policy = trained(local)
    sequences = [(PROMPTS[0], (11, 12, 13))]
    snapshot = policy.snapshot("then")
    then = snapshot.logprobs(sequences)
    policy.forward_backward([Datum((1, 2), (3, 4))], CrossEntropy())
    policy.optim_step(Adam(lr=0.1))
    assert snapshot.logprobs(sequences) == then != policy.logprobs(sequences)
    with pytest.raises(RuntimeError, match="read-only"):
        snapshot.forward_backward([Datum((1, 2), (3, 4))], CrossEntropy())


def test_a_loaded_policy_goes_on_exactly_as_the_saved_one(local: LocalEngine, tmp_path: Path) -> None:
    saved = trained(local)
    saved.save(tmp_path)
    loaded = local.load(tmp_path, "again")
    for policy in (saved, loaded):
        policy.forward_backward([Datum((1, 2), (3, 4, 5))], CrossEntropy())
        policy.optim_step(Adam(lr=0.01))
    sequences = [(PROMPTS[1], (11, 12, 13))]
    assert saved.logprobs(sequences) == loaded.logprobs(sequences)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".json", ".md"}


def test_a_folder_without_a_policy_is_named(local: LocalEngine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        local.load(tmp_path, "none")


def test_the_same_seed_gives_the_same_adapter_and_names_give_different_ones(tiny_model: Path) -> None:
    one, two = engine(tiny_model).new_policy("attacker"), engine(tiny_model).new_policy("attacker")
    other = engine(tiny_model).new_policy("defender")
    for key, parameter in one._parameters.items():
        assert torch.equal(parameter, two._parameters[key])
    assert any(not torch.equal(p, other._parameters[key]) for key, p in one._parameters.items())


def test_clipping_bounds_the_step_and_reports_the_norm_before(local: LocalEngine) -> None:
    policy = local.new_policy("clipped")
    policy.forward_backward([Datum((1, 2), (3, 4), weight=100.0)], CrossEntropy())
    norm = policy.optim_step(Adam(lr=0.0, max_grad_norm=0.1))["grad_norm"]
    assert norm > 0.1


def whole_products(x: torch.Tensor, layer: torch.nn.Linear, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Products in float64 of the same numbers, as they are in bfloat16."""
    x, weight, down, up = (part.double() for part in (x, layer.weight, down, up))
    return x @ weight.T + (0 if layer.bias is None else layer.bias.double()) + (x @ down.T) @ up.T


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float32, 1e-5)])
@pytest.mark.parametrize("rows", [1, 3, 64, 200])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("blocked", [False, True])
def test_layers_that_are_read_give_the_same_products(
    rows: int, dtype: torch.dtype, tolerance: float, bias: bool, blocked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order, and also if a layer gets another input than the others."""
    if not blocked:
        monkeypatch.setattr(inference, "_blocked", lambda _: False)
    layers = [torch.nn.Linear(96, width, bias, dtype=dtype).requires_grad_(False) for width in (160, 32, 64)]
    x, other = ((torch.randn(rows, 96) / 10).to(dtype) for _ in range(2))
    before = [layer(x) for layer in layers]
    pairs = [tuple((torch.randn(s) / 10).to(dtype) for s in ((4, 96), (len(b[0]), 4))) for b in before]
    for adapters in ([], [(down, up) for down, up in pairs]):
        with inferring(layers, adapters):
            for place, given in ((0, x), (1, x), (2, x), (2, x), (0, other), (1, x), (1, x), (0, x)):
                down, up = pairs[place]
                wanted = whole_products(given, layers[place], down, up if adapters else up * 0).float()
                assert torch.allclose(layers[place](given).float(), wanted, rtol=tolerance, atol=tolerance)
    assert all(torch.equal(layer(x), was) for layer, was in zip(layers, before, strict=True))


def test_layers_are_one_product_if_names_widths_and_biases_agree() -> None:
    """And if their adapters' ranks are small compared with the input's width."""

    def grouped(rank: int, widths: tuple[int, int, int], biases: tuple[bool, bool, bool]) -> list[int]:
        block = torch.nn.Module()
        for name, width, bias in zip(("q_proj", "k_proj", "v_proj"), widths, biases, strict=True):
            setattr(block, name, torch.nn.Linear(width, 8, bias))
        block.o_proj = torch.nn.Linear(64, 8)
        adapted = inject_adapter_in_model(PeftConfig(r=rank, target_modules="all-linear"), block)
        return [len(layers) for layers in with_same_input(adapted)]

    assert grouped(2, (64, 64, 64), (False, False, False)) == [3, 1]
    assert grouped(1, (64, 32, 32), (False, False, False)) == [1, 2, 1]
    assert grouped(2, (64, 64, 64), (True, False, True)) == [2, 1, 1]
    assert grouped(8, (64, 64, 64), (False, False, False)) == [1, 1, 1, 1]


@pytest.mark.parametrize("instructions", [{}, {"avx512_f": True}, {"avx512_bf16": True}, {"bf16": True}])
def test_the_base_is_in_bfloat16_where_the_machine_multiplies_in_it(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, instructions: dict[str, bool]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    base = LocalEngine(tiny_model, LoraConfig(rank=4), EngineConfig(device="cpu", threads=1)).model
    known = "avx512_f" not in instructions and instructions
    assert base.dtype == (torch.bfloat16 if known else torch.float32)


def test_slow_products_that_were_asked_for_are_warned_of(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    asked = EngineConfig(device="cpu", threads=1, dtype="bfloat16")
    assert LocalEngine(tiny_model, LoraConfig(rank=4), asked).dtype == torch.bfloat16
    assert 'dtype "auto"' in caplog.text


def test_a_failure_while_speaking_leaves_the_base_as_it_was(local: LocalEngine, policy: LocalPolicy) -> None:
    before = {name: tensor for name, tensor in local.model.named_parameters() if "lora" not in name}
    with pytest.raises(ZeroDivisionError), local.speaking(policy._parameters):
        raise ZeroDivisionError
    after = dict(local.model.named_parameters())
    assert all(after[name] is tensor for name, tensor in before.items())


def test_rendered_prompts_can_be_sampled_from(local: LocalEngine) -> None:
    prompt = local.renderer.prompt([Message("user", "hello")])
    ((sample,),) = local.base().sample([prompt], 1, SamplingParams(4), rng_seed=0)
    assert sample.prompt == prompt
