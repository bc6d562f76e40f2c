"""What many tests share: a model folder of a few kilobytes, seeds, and a config that trains on them in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import settings

# A test that waited for a busy machine has not failed.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TINY_CONFIG = """
[game.schedule]
rounds = 1
defender_steps = 1
attacker_steps = 1
[attacker]
model = {model}
batch_size = 2
strategies = ["question"]
[attacker.sampling]
max_tokens = 12
[attacker.sft]
steps = 1
batch_size = 2
[defender]
model = {model}
batch_size = 2
[defender.sampling]
max_tokens = 12
[judge]
max_abstained = 1.0
[data]
seeds = {seeds}
held_out_categories = ["c2"]
[learning]
group_size = 2
max_cut_off = 1.0
max_degenerate = 1.0
[engine]
device = "cpu"
dtype = "float32"
threads = 1
[evaluation]
max_reply_tokens = 12
"""


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same output whatever terminal or CI service the tests run in."""
    for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer Llama on bytes and a ChatML template. It speaks noise, and stops now and then.

    The first hidden coordinate is a constant that only the end of turn listens to, so about one token in ten
    ends the turn: samples are of different lengths and few are cut off.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=["<|im_start|>"],
        **dict.fromkeys(("eos_token", "pad_token"), "<|im_end|>"),
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)

    end = tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=8192,
                tie_word_embeddings=False,
                eos_token_id=end,
                bos_token_id=None,
                pad_token_id=end,
            )
        )
    with torch.no_grad():
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embedding[:, 0] = embedding.std()
        head[:, 0] = 0.0
        head[end, 0] = 3.5
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def seeds_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seeds in three categories, both classes in each."""
    path = tmp_path_factory.mktemp("seeds") / "seeds.jsonl"
    rows = [
        {"text": f"{label} request number {i} of category {c}", "label": label, "category": f"c{c}"}
        for c in range(3)
        for label in ("harmful", "benign")
        for i in range(2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_model: Path, seeds_file: Path) -> Path:
    """A config file for a whole run on the tiny model."""
    path = tmp_path / "tiny.toml"
    path.write_text(
        TINY_CONFIG.format(model=json.dumps(str(tiny_model)), seeds=json.dumps(str(seeds_file))), encoding="utf-8"
    )
    return path


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are asked again without much of a pause."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)
