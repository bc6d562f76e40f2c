"""An exported defender behind vLLM replies as the trained policy does, merged or as an adapter beside its base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from magic_rl.config import dump_config, load_config
from magic_rl.game.play import defender_messages, plain_turn
from magic_rl.runs.assembly import prepare
from magic_rl.runs.export import export_defender
from magic_rl.store.run import RunDirectory
from magic_rl.types import Adam, CrossEntropy, Datum, Role, Sample
from tests.support.fabricated_run import inputs
from tests.support.families import family_folder
from tests.support.vllm_server import needs_server, serving

pytestmark = needs_server

REQUESTS = ["Why, 1 + 1?", "How do I pry a door open?", "Say café, 日本, or 😀.", "Bread\n\n- rye\n- spelt?"]
TOKENS = 12
TOLERANCE = 2e-3  # nats: both compute in float32, in another order
# What a defender is told besides the attack; an export's template must add it.
TOLD = {
    "Llama 3": ["game.prompts=paper", "engine.date=2026-02-03"],
    "Qwen3": ["defender.system_prompt=Be brief.", "defender.chat_template_kwargs.enable_thinking=false"],
}


def a_trained_run(folder: Path, tiny_config: Path, base: Path, settings: Sequence[str]) -> tuple[RunDirectory, Any]:
    """A run with one saved defender that learned something, and its replies to the requests."""
    roles: tuple[Role, Role] = ("attacker", "defender")
    config = load_config(tiny_config, [*(f"{role}.model={json.dumps(str(base))}" for role in roles), *settings])
    setup = prepare(config)
    policy = setup.learners["defender"]
    for _ in range(3):
        policy.forward_backward([Datum((1, 2, 3), tuple(range(40, 60)), weight=1 / 20)], CrossEntropy())
        policy.optim_step(Adam(lr=0.02))
    run = RunDirectory.create(folder, dump_config(config), {"python": "3"}, inputs=inputs(config))
    run.save_player("defender", 0, policy, step=0)
    player = setup.player("defender")
    prompts = [player.renderer.prompt(defender_messages(player, [plain_turn(t)])) for t in REQUESTS]
    greedy = replace(player.sampling, max_tokens=TOKENS, temperature=0.0)
    said = [one for (one,) in policy.sample(prompts, 1, greedy, 0)]
    base_said = [one for (one,) in setup.engines["defender"].base().sample(prompts, 1, greedy, 0)]
    assert [one.tokens for one in said] != [one.tokens for one in base_said]  # so that an adapter left out would show
    return run, said


def compare(url: str, model: str, trained: Sequence[Sample]) -> None:
    """Check that a server gives the same ids for the bare requests, with the same log-probabilities."""
    for request, sample in zip(REQUESTS, trained, strict=True):
        body = {"model": model, "messages": [{"role": "user", "content": request}], "temperature": 0}
        body |= {"max_tokens": TOKENS, "logprobs": True, "return_tokens_as_token_ids": True}
        answer = (
            httpx2.post(f"{url}/chat/completions", json=body, trust_env=False, timeout=60).raise_for_status().json()
        )
        (choice,) = answer["choices"]
        said = choice["logprobs"]["content"]
        assert answer["usage"]["prompt_tokens"] == len(sample.prompt)
        assert choice["finish_reason"] == sample.finish
        assert [int(each["token"].removeprefix("token_id:")) for each in said] == list(sample.tokens)[: len(said)]
        assert len(said) >= len(sample.tokens) - (sample.finish == "stop")
        likely = [each["logprob"] for each in said]
        assert likely == pytest.approx(sample.logprobs[: len(said)], abs=TOLERANCE)


@pytest.mark.parametrize("family", TOLD)
def test_a_merged_export_is_served_as_the_trained_policy(family: str, tmp_path: Path, tiny_config: Path) -> None:
    base = family_folder(family, tmp_path / "base")
    run, trained = a_trained_run(tmp_path / "run", tiny_config, base, TOLD[family])
    out = export_defender(run, tmp_path / "out")
    with serving(out, "hardened", tmp_path / "log") as url:
        compare(url, "hardened", trained)


def test_an_adapter_export_is_served_beside_its_base(tmp_path: Path, tiny_config: Path) -> None:
    base = family_folder("Llama 3", tmp_path / "base")
    run, trained = a_trained_run(tmp_path / "run", tiny_config, base, TOLD["Llama 3"])
    out = export_defender(run, tmp_path / "out", form="adapter")
    beside = ["--enable-lora", "--max-lora-rank", "16", "--lora-modules", f"hardened={out}"]
    beside += ["--chat-template", str(out / "chat_template.jinja")]
    with serving(base, "base", tmp_path / "log", *beside) as url:
        compare(url, "hardened", trained)
