"""Claims about which path a model takes: the fast one if it is right, and if not, another one and why."""

from __future__ import annotations

import copy
import io
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from magic_rl.cli.view import Screen
from magic_rl.config import load_config
from magic_rl.engines.base import ComputePath
from magic_rl.engines.local import decoding
from magic_rl.engines.local.attention import SHARED_PREFIX, shared_prefix_attention
from magic_rl.engines.local.decoding import PlainDecoder
from magic_rl.engines.local.packing import Batch, Pack, pack, padded
from magic_rl.engines.local.parity import ANSWER, QUESTIONS, _short_sighted, choose_path
from magic_rl.engines.local.scoring import packed_logprobs, plain_logprobs
from magic_rl.report.page import write_report
from magic_rl.runs.train import train
from magic_rl.types import SamplingParams, Tokens
from tests.engines.test_architectures import PROMPTS
from tests.support.families import SHARING, model_of
from tests.support.tiny_engine import engine, trained

PROMPT, OTHER = (tuple(f"user\n{question}\nassistant\n".encode()) for question in QUESTIONS)
REPLY: Tokens = tuple(ANSWER.encode())


@pytest.mark.parametrize("name", SHARING)
@torch.inference_mode()
def test_every_family_shares_prompts_as_exactly_as_its_own_attention(name: str) -> None:
    model = model_of(name)
    exact = copy.deepcopy(model).float()
    exact.set_attn_implementation("eager")
    sequences = [(PROMPT, REPLY[:60]), (PROMPT, REPLY[60:140]), (OTHER, REPLY[40:100]), (OTHER, REPLY[:30])]
    right = scored(plain_logprobs, exact, list(padded(sequences, 1)))
    own = []
    for attention in ("eager", "sdpa") if name != "gpt-oss" else ("eager",):
        model.set_attn_implementation(attention)
        own.append(distance(scored(plain_logprobs, model, list(padded(sequences, 1))), right))
    model.set_attn_implementation("eager")
    path = choose_path(model, (PROMPT, OTHER), REPLY)
    assert path.shares
    for budget in (1, 10**6):  # a group in several rows; all in one
        ours = distance(scored(packed_logprobs, model, list(pack(sequences, budget))), right)
        assert ours <= 1.5 * min(own) + 1e-3


def scored(logprobs: Any, model: Any, batches: list[Batch]) -> Tensor:
    found: dict[int, Tensor] = {}
    for batch in batches:
        row: Pack
        for row, scores in logprobs(model, batch):
            found.update(zip(row.sequences, torch.split(scores, row.lengths), strict=True))
    return torch.cat([found[index] for index in sorted(found)])


def distance(one: Tensor, two: Tensor) -> float:
    return (one.double() - two.double()).square().mean().sqrt().item()


BROKEN = [
    ("Qwen2.5", "a head mapped wrongly"),
    ("Mistral", "a head mapped wrongly"),
    ("Granite", "scaling"),
    ("Mistral", "sliding_window"),
    ("Gemma 2", "sliding_window"),
    ("Gemma 3", "sliding_window"),
    ("Phi-3", "sliding_window"),
    ("Gemma 2", "softcap"),
    ("gpt-oss", "s_aux"),
]


@pytest.mark.parametrize("when", ["scoring", "decoding"])
@pytest.mark.parametrize(("name", "what"), BROKEN)
def test_a_path_that_leaves_something_out_is_not_taken(
    name: str, what: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: Any, query: Tensor, *more: Any, **settings: Any) -> Any:
        if (settings.get("layout") is not None) == (when == "scoring"):
            query = query.roll(1, dims=1) if "head" in what else query
            settings |= {} if "head" in what else {what: None}
        return shared_prefix_attention(module, query, *more, **settings)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, SHARED_PREFIX, broken)
    path = choose_path(model_of(name), (PROMPT, OTHER), REPLY)
    assert not path.shares
    assert "nats" in path.reason or "how far they see" in path.reason
    assert path.kind == "padded"


def test_a_family_that_caps_scores_is_not_left_to_a_kernel_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ALL_ATTENTION_FUNCTIONS._global_mapping, SHARED_PREFIX)
    model = model_of("Gemma 2")
    model.set_attn_implementation("sdpa")
    assert choose_path(model, (PROMPT, OTHER), REPLY).kind == "padded"
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("cache", ["own", "one that cannot part with rows", "none"])
@pytest.mark.parametrize("name", ["Llama 3", "Gemma 3"])
@torch.inference_mode()
def test_plain_rows_of_any_cache_see_their_own_tokens_alone(
    name: str, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cache.startswith("one"):
        monkeypatch.delattr(Cache, "reorder_cache")
    if cache == "none":
        monkeypatch.setattr(decoding, "_CACHES", ())
    model = model_of(name, dtype=torch.float32)
    decoder = PlainDecoder(model, 2, pads=True)
    sequences: list[Tokens] = []

    def check(logits: Tensor, ids: list[Tokens]) -> None:
        expected = torch.stack([model(torch.tensor([row])).logits[0, -1] for row in ids])
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)

    with _short_sighted(model, 8):
        for arriving in (PROMPTS[:2], PROMPTS[2:]):
            rows = [prompt for prompt in arriving for _ in range(2)]
            check(decoder.admit(arriving), rows)
            sequences += rows
        for step, ended in enumerate((set[int](), {1}, {0, 3}, {2}, set[int]())):
            tokens = list(range(20 + 10 * step, 20 + 10 * step + len(sequences)))
            sequences = [(*ids, token) for ids, token in zip(sequences, tokens, strict=True)]
            check(decoder.go_on(torch.tensor(tokens)), sequences)
            decoder.drop(torch.tensor([row in ended for row in range(len(sequences))]), more=False)
            sequences = [ids for row, ids in enumerate(sequences) if row not in ended]


def test_the_plain_path_computes_at_most_twice_what_the_shared_one_does(tiny_model: Path) -> None:
    prompts: list[Tokens] = [tuple(range(5, 5 + 10 + i % 7)) for i in range(40)]
    costs = []
    for path in (ComputePath("shared"), ComputePath("padded")):
        local = engine(tiny_model, rows=16)
        local.path = path
        if not path.shares:
            local.model.get_base_model().set_attn_implementation("sdpa")
        policy = trained(local)
        fed: list[int] = []
        embedding = local.model.get_input_embeddings()
        hook = embedding.register_forward_pre_hook(lambda _, args, fed=fed: fed.append(args[0].numel()))
        policy.sample(prompts, 1, SamplingParams(30), rng_seed=2)
        hook.remove()
        costs.append((len(fed), sum(fed)))
    (passes, tokens), (plain_passes, plain_tokens) = costs
    assert plain_passes <= 2 * passes
    assert plain_tokens <= 2 * tokens


def test_a_run_on_the_slow_path_says_so_in_log_view_and_report(
    tmp_path: Path, tiny_config: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "stretched"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    (model / "config.json").write_text(json.dumps(config))
    shown = io.StringIO()
    settings = load_config(tiny_config, [f"attacker.model={json.dumps(str(model))}", "attacker.sft.steps=1"])
    with caplog.at_level(logging.WARNING, logger="magic_rl"):
        run = train(settings, tmp_path / "run", Screen(Console(file=shown, width=400)))
    reason = "positions depend on the longest sequence"
    assert f"stretched: prompts are not shared, as its {reason}" in caplog.text
    assert f"attacker: prompts are not shared, as its {reason}" in shown.getvalue()
    assert "defender: prompts" not in shown.getvalue()
    page = write_report(run).read_text()
    assert reason in page
    assert "shared prompts (" in page
