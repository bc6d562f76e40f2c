"""Claims about an exported folder: the base's own files, the trained numbers, the prompts of training."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from magic_rl.config import load_config
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.models import WEIGHT_INDEX, weight_files
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.errors import UserError
from magic_rl.game.play import Player, defender_messages, plain_turn
from magic_rl.prompts import load_prompts
from magic_rl.runs.assembly import prepare
from magic_rl.runs.export import export_defender, weights
from magic_rl.store.run import RunDirectory
from magic_rl.text.chat import ChatRenderer
from magic_rl.text.template import introduced
from magic_rl.types import Sample, SamplingParams
from tests.runs.test_export import Adapter, a_run, logits
from tests.support.families import CHATS, family_folder, tokenizer_of

SEEN = [{"role": "user", "content": "Why, 1 + 1?"}]


def a_run_of(tmp_path: Path, tiny_config: Path, model: Path, *settings: str) -> RunDirectory:
    chosen = [f"{role}.model={json.dumps(str(model))}" for role in ("attacker", "defender")]
    return a_run(tmp_path / "run", load_config(tiny_config, [*chosen, *settings]), model)


def sharded(base: Path) -> None:
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(base, max_shard_size="20KB")
    (base / "model.safetensors").unlink(missing_ok=True)


def llama_2(base: Path) -> None:
    (base / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9, "eos_token_id": 256}')


def with_a_processor(base: Path) -> None:
    for name in ("preprocessor_config.json", "special_tokens_map.json", "LICENSE"):
        (base / name).write_text("{}")


def with_more_than_it_loads(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    save_file({**tensors, "mtp.layers.0.weight": torch.ones(3)}, base / "model.safetensors", {"format": "pt"})
    for name in ("consolidated.safetensors", "params.json", "pytorch_model.bin", "training_args.bin"):
        (base / name).write_text("{}")


def tied(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LlamaConfig.from_pretrained(base, tie_word_embeddings=True)
    other = LlamaForCausalLM(config)
    other.load_state_dict({**model.state_dict(), "lm_head.weight": model.get_input_embeddings().weight})
    other.save_pretrained(base)


def bare(base: Path) -> None:
    (base / "generation_config.json").unlink()


@pytest.mark.parametrize("kind", [sharded, llama_2, with_a_processor, with_more_than_it_loads, tied, bare])
def test_any_base_that_loads_is_exported_with_its_own_files(
    tmp_path: Path, tiny_config: Path, tiny_model: Path, kind: Callable[[Path], None]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    kind(base)
    run = a_run_of(tmp_path, tiny_config, base)
    out = export_defender(run, tmp_path / "out")
    torch.testing.assert_close(logits(out), logits(base, run.player("defender", 2)), rtol=1e-4, atol=1e-5)
    stray = {"consolidated.safetensors", "params.json", "pytorch_model.bin", "training_args.bin"}
    files = {path.name for path in base.iterdir()} - stray
    assert {path.name for path in out.iterdir()} - {"README.md", "generation_config.json"} == files - {
        "generation_config.json"
    }
    written = {file.name: load_file(file) for file in weight_files(out)}
    for file in weight_files(base):
        before = load_file(file)
        assert before.keys() == written[file.name].keys()
        for name, tensor in before.items():
            adapted = name.endswith("_proj.weight")
            assert torch.equal(tensor, written[file.name][name]) != adapted, name
    for name in (
        files - {"config.json", "tokenizer_config.json", WEIGHT_INDEX} - {file.name for file in out.glob("*.s*")}
    ):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in out.iterdir())


def test_config_files_get_names_for_older_readers_and_lose_none(
    tmp_path: Path, tiny_config: Path, tiny_model: Path
) -> None:
    out = export_defender(a_run_of(tmp_path, tiny_config, tiny_model), tmp_path / "out", form="float32")
    for name, added in (("config.json", {"torch_dtype", "rope_theta"}), ("tokenizer_config.json", set())):
        before, after = (json.loads((folder / name).read_text()) for folder in (tiny_model, out))
        assert after.keys() - before.keys() <= added | {"additional_special_tokens"}
        assert before.keys() - after.keys() <= {"extra_special_tokens"}
    assert json.loads((out / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(tiny_model).get_vocab()


@pytest.mark.parametrize("size", [1e-1, 1e-4, 1e-5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_update_of_any_size_is_in_the_stored_weights(tmp_path: Path, size: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(1500, 2000, generator=generator) / 20).to(dtype)
    down, up = torch.randn(4, 2000, generator=generator), size * torch.randn(1500, 4, generator=generator)
    one, other = "language_model.model.q.weight", "vision.model.q.weight"  # in files, of a model that sees as well
    save_file({one: weight, other: weight.clone()}, tmp_path / "model.safetensors")
    named = {f"base_model.model.model.language_model.q.lora_{part}.weight": t for part, t in (("A", down), ("B", up))}
    save_file(named, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8, "r": 4}')
    (tmp_path / "out").mkdir()
    share = weights.merge(tmp_path, tmp_path, tmp_path / "out")
    written, exact = load_file(tmp_path / "out" / "model.safetensors"), weight.float() + 2 * up @ down
    change, wanted = written[one].float() - weight.float(), 2 * up @ down
    assert share == pytest.approx(((change * wanted).sum() / wanted.square().sum()).item(), rel=1e-3)
    assert share == pytest.approx(1, abs=0.01)
    nearest = exact.to(dtype).float()
    lost = ((nearest - weight.float()) * wanted).sum() / wanted.square().sum()
    assert (lost < 0.5) == (size == 1e-5 and dtype == torch.bfloat16)  # where rounding to the nearest would lose it
    step = nearest.abs().nextafter(torch.tensor(9.0)).clamp(min=1e-4) * torch.finfo(dtype).eps
    assert ((written[one].float() - exact).abs() <= step).all()  # a neighbour of the exact number
    assert torch.equal(written[other], weight)
    assert weights.merge(tmp_path, tmp_path, tmp_path / "out", torch.float32) == pytest.approx(1, abs=1e-3)


def test_the_exported_change_of_a_tiny_update_equals_the_policys(
    tmp_path: Path, tiny_config: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = tmp_path / "half"
    shutil.copytree(tiny_model, half)
    AutoModelForCausalLM.from_pretrained(half, dtype=torch.bfloat16).save_pretrained(half)
    monkeypatch.setattr(Adapter, "std", 1e-5)
    run = a_run_of(tmp_path, tiny_config, half)
    out = export_defender(run, tmp_path / "out", form="float32")
    change, wanted = (logits_of(model) - logits(half).double() for model in (out, (half, run.player("defender", 2))))
    assert (change - wanted).norm() <= 0.01 * wanted.norm()
    card = (out / "README.md").read_text()
    assert "stored in float32, which keeps 100.0% of the trained update" in card


def logits_of(model: Any) -> torch.Tensor:
    return (logits(model) if isinstance(model, Path) else logits(*model)).double()


def test_the_adapter_alone_is_the_trained_one(tmp_path: Path, tiny_config: Path, tiny_model: Path) -> None:
    run = a_run_of(tmp_path, tiny_config, tiny_model, "game.prompts=paper")
    out = export_defender(run, tmp_path / "out", form="adapter")
    assert torch.equal(logits(tiny_model, out), logits(tiny_model, run.player("defender", 2)))
    names = {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "README.md"}
    assert {path.name for path in out.iterdir()} == names
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == tiny_model.name
    assert "library_name: peft" in (out / "README.md").read_text()


def test_a_folder_that_is_not_the_trained_model_is_not_kept(
    tmp_path: Path, tiny_config: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run_of(tmp_path, tiny_config, tiny_model)
    monkeypatch.setattr(weights, "_updates", lambda *_: {})
    with pytest.raises(UserError, match="not the model that was trained"):
        export_defender(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def ids_of(tokenizer: Any, messages: list[dict[str, Any]]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("family", CHATS)
@pytest.mark.parametrize(
    ("folder", "system", "thinks"),
    [
        ("", "", False),
        ("paper", "", False),
        ("", 'Be kind. "{{ 1 }}" \\ 😀\nAlways.', False),
        ("paper", "Be kind.", True),
    ],
)
def test_the_exported_template_prints_the_ids_of_training(family: str, folder: str, system: str, thinks: bool) -> None:
    renderer, prompts = ChatRenderer(tokenizer_of(family)), load_prompts(folder)
    thinks = thinks and "<think>" not in tokenizer_of(family).get_added_vocab()  # a token there, plain text in training
    player = Player(Any, renderer, SamplingParams(1), system=system, thinks=thinks, prompts=prompts)  # type: ignore[arg-type]
    answered = replace(plain_turn("Why, 1 + 1?"), reply="Two.", reply_sample=Sample((), (), (), "stop"))
    tokenizer, told = copy.deepcopy(tokenizer_of(family)), prompts.defender_system(system, thinks)
    tokenizer.chat_template = introduced(renderer.chat_template, told, prompts.defender("\ue000").split("\ue000"))
    longer = [*SEEN, {"role": "assistant", "content": "Two."}, {"role": "user", "content": "And then?"}]
    for turns, messages in (([plain_turn("Why, 1 + 1?")], SEEN), ([answered, plain_turn("And then?")], longer)):
        assert ids_of(tokenizer, messages) == list(renderer.prompt(defender_messages(player, turns)))
    own = ids_of(tokenizer, [{"role": "system", "content": "Mine."}, *SEEN])
    assert "Mine." in tokenizer.decode(own)
    assert "kind" not in tokenizer.decode(own)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Qwen3", ["defender.chat_template_kwargs.enable_thinking=false", "game.prompts=paper"]),
        ("Gemma 2", ["defender.system_prompt=Be kind."]),
        ("Llama 3", ["engine.date=2026-02-03", "game.defender_thinks=true"]),
    ],
)
def test_an_exported_tokenizer_and_card_say_what_the_defender_was_told(
    tmp_path: Path, tiny_config: Path, family: str, settings: list[str]
) -> None:
    run = a_run_of(tmp_path, tiny_config, family_folder(family, tmp_path / "base"), *settings)
    setup = prepare(load_config(run.path / "config.toml"))
    messages = defender_messages(setup.player("defender"), [plain_turn("Why, 1 + 1?")])
    out = export_defender(run, tmp_path / "out")
    renderer = setup.renderer("defender")
    assert isinstance(renderer, ChatRenderer)
    assert ids_of(AutoTokenizer.from_pretrained(out), SEEN) == list(renderer.prompt(messages))
    ends = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert set(ends) == renderer.stop_ids
    card = (out / "README.md").read_text()
    assert ("other words in training: “Question: …”" in card) == ("game.prompts=paper" in settings)
    assert ("System prompt in training" in card) == (family != "Qwen3")


@pytest.mark.parametrize(
    ("targets", "change", "complaint"),
    [
        (("q_proj", "embed_tokens"), {}, "embed_tokens of .* is a Embedding; only plain linear layers learn"),
        (("lm_head",), {}, "lm_head of .* shares its weights with the input embedding"),
        ("all-linear", {"quantization_config": {"quant_method": "fp8"}}, "its weights are quantised"),
    ],
)
def test_an_adapter_that_would_not_be_trained_is_refused_on_loading(
    tmp_path: Path, tiny_model: Path, targets: Any, change: dict[str, Any], complaint: str
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    if targets == ("lm_head",):
        tied(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=complaint):
        LocalEngine(
            base, LoraConfig(rank=2, target_modules=targets), EngineConfig(device="cpu", dtype="float32", threads=1)
        )
