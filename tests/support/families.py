"""Tiny random models of the families that people harden, with their chat templates and real control tokens.

Keys and queries are as large as in real checkpoints. Templates are the families' own, as TRL ships them. Where TRL has
none, they are minimal ones that handle system prompts, dates, thoughts and turn ends as the real ones do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.support.small_tokenizers import LLAMA_TOKENS, PHI_TOKENS, QWEN3_WORDS, byte_level, template

SMOLLM3 = (
    "{%- set mode = '/think' if enable_thinking is not defined or enable_thinking else '/no_think' -%}"
    "{{ '<|im_start|>system\nToday Date: ' ~ strftime_now('%d %B %Y') ~ '\nReasoning Mode: ' ~ mode ~ '\n\n' }}"
    "{%- if messages[0].role == 'system' -%}{{ messages[0].content.replace('/think', '').rstrip() }}"
    "{%- else -%}{{ 'Use the format: <think> Thought section </think> Solution section.' }}{%- endif -%}"
    "{{ '<|im_end|>\n' }}{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{%- elif m.role == 'assistant' -%}"
    "{{ '<|im_start|>assistant\n' + m.content.lstrip('\n') + '<|im_end|>\n' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}"
    "{%- if mode == '/no_think' -%}{{ '<think>\n\n</think>\n' }}{%- endif -%}{%- endif -%}"
)
GRANITE = (
    "{%- if messages[0].role == 'system' -%}{%- set s = messages[0].content -%}{%- set rest = messages[1:] -%}"
    "{%- else -%}{%- set s = \"Today's Date: \" + strftime_now('%B %d, %Y') + '.' -%}"
    "{%- if thinking -%}{%- set s = s + \" Write your thoughts after 'Here is my thought process:' and your response "
    "after 'Here is my response:'.\" -%}{%- endif -%}{%- set rest = messages -%}{%- endif -%}"
    "{{ '<|start_of_role|>system<|end_of_role|>' + s + '<|end_of_text|>\n' }}{%- for m in rest -%}"
    "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif -%}"
)
MISTRAL = (
    "{%- if messages[0].role == 'system' -%}{%- set s = messages[0].content -%}{%- set rest = messages[1:] -%}"
    "{%- else -%}{%- set rest = messages -%}{%- endif -%}{{ bos_token }}{%- for m in rest -%}"
    "{%- if m.role == 'user' -%}{{ '[INST]' + (s + '\n\n' if loop.last and s is defined else '') + m.content }}"
    "{{ '[/INST]' }}{%- else -%}{{ m.content + eos_token }}{%- endif -%}{%- endfor -%}"
)
OLMO2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>\n' + m.content }}"
    "{{ eos_token if loop.last else eos_token + '\n' }}{% else %}{{ '<|' + m.role + '|>\n' + m.content + '\n' }}"
    "{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
PHI4_MINI = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
GLM4 = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
PHI4 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)

# Head sizes, and the number of query heads per key head, are the families' own.
_SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "bos_token_id": None,
    "tie_word_embeddings": False,
}
_ONE_IN_THREE_SEES_ALL = ["sliding_attention", "sliding_attention", "full_attention"]
_GROUPED = {"head_dim": 128, "num_attention_heads": 4, "num_key_value_heads": 1}


@dataclass(frozen=True)
class Family:
    """A family, as its published model files define it.

    Attributes:
        kind: The architecture's name in transformers.
        shape: How its config differs from `_SHAPE`.
        template: The chat template's text, or its name in TRL; "" if the family is tested without chat.
        tokens: Control tokens that are flagged special, the end of text first.
        eos: The tokens of `generation_config.eos_token_id`.
        words: Control tokens that are not flagged special.
        begins: The beginning-of-text token.
    """

    kind: str
    shape: Mapping[str, Any]
    template: str = ""
    tokens: Sequence[str] = ()
    eos: Sequence[str] = ()
    words: Sequence[str] = ()
    begins: str | None = None


CHATML = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
GEMMA = ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
DEEPSEEK = ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
LLAMA = ("<|eot_id|>", "<|eom_id|>", *(token for token in LLAMA_TOKENS if token != "<|eot_id|>"))  # noqa: S105
FAMILIES = {
    "Llama 3": Family(
        "Llama",
        {
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 1024,
            },
        },
        "llama3_2",
        LLAMA,
        ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        begins="<|begin_of_text|>",
    ),
    "Qwen2.5": Family(
        "Qwen2",
        {"num_attention_heads": 7, "num_key_value_heads": 1},
        "qwen2_5",
        CHATML,
        ["<|im_end|>", "<|endoftext|>"],
    ),
    "Qwen3": Family("Qwen3", _GROUPED, "qwen3", CHATML, ["<|im_end|>", "<|endoftext|>"], QWEN3_WORDS),
    "Gemma 2": Family(
        "Gemma2",
        {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096},
        "gemma",
        GEMMA,
        ["<eos>", "<end_of_turn>"],
        begins="<bos>",
    ),
    "Gemma 3": Family(
        "Gemma3Text",
        {"head_dim": 256, "num_key_value_heads": 1, "sliding_window": 512, "layer_types": _ONE_IN_THREE_SEES_ALL},
        "gemma3",
        GEMMA,
        ["<eos>", "<end_of_turn>"],
        begins="<bos>",
    ),
    "Mistral": Family(
        "Mistral",
        {"num_attention_heads": 8, "num_key_value_heads": 2, "sliding_window": 4096},
        MISTRAL,
        ["</s>", "<s>", "[INST]", "[/INST]"],
        ["</s>"],
        begins="<s>",
    ),
    "Phi-3": Family(
        "Phi3",
        {"num_key_value_heads": 4, "head_dim": 96, "sliding_window": 2047},
        "phi3",
        ["<|endoftext|>", *PHI_TOKENS],
        ["<|endoftext|>", "<|assistant|>", "<|end|>"],
        begins="<s>",
    ),
    "Phi-4": Family(
        "Phi3",
        {"num_key_value_heads": 1, "head_dim": 128, "sliding_window": None},
        PHI4,
        ["<|im_end|>", "<|im_start|>", "<|im_sep|>", "<|endoftext|>"],
        ["<|endoftext|>", "<|im_end|>"],
    ),
    "Phi-4-mini": Family(
        "Phi3",
        {
            "num_key_value_heads": 1,
            "head_dim": 32,
            "partial_rotary_factor": 0.75,
            "sliding_window": None,
            "original_max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.75,
                "original_max_position_embeddings": 1024,
                "short_factor": [1.0] * 12,
                "long_factor": [1.0 + i / 3 for i in range(12)],
            },
        },
        PHI4_MINI,
        ["<|endoftext|>", *PHI_TOKENS],
        ["<|end|>", "<|endoftext|>"],
    ),
    "OLMo 2": Family(
        "Olmo2", {"num_key_value_heads": 4}, OLMO2, ["<|endoftext|>"], ["<|endoftext|>"], begins="<|endoftext|>"
    ),
    "SmolLM3": Family(
        "SmolLM3",
        {"head_dim": 128, "num_key_value_heads": 1, "no_rope_layer_interval": 3},
        SMOLLM3,
        CHATML,
        ["<|im_end|>"],
        ["<think>", "</think>"],
    ),
    "Granite": Family(
        "Granite",
        {
            "attention_multiplier": 0.015625,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
        },
        GRANITE,
        ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"],
        ["<|end_of_text|>"],
    ),
    "GLM-4": Family(
        "Glm4",
        {"num_attention_heads": 8, "num_key_value_heads": 1},
        GLM4,
        ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"],
        ["<|endoftext|>", "<|user|>", "<|observation|>"],
    ),
    "DeepSeek distill": Family(
        "Qwen2",
        _GROUPED,
        "deepseek_r1_distill",
        DEEPSEEK,
        DEEPSEEK[:1],
        ["<think>", "</think>"],
        begins=DEEPSEEK[1],
    ),
    "gpt-oss": Family(
        "GptOss",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "sliding_window": 128,
            "layer_types": _ONE_IN_THREE_SEES_ALL,
        },
    ),
}
CHATS = [name for name, family in FAMILIES.items() if family.template]
SHARING = [name for name in FAMILIES if name != "Phi-4-mini"]  # its positions depend on the longest sequence of a pass


@cache
def tokenizer_of(name: str) -> Any:
    """A tiny tokenizer with a family's control tokens and template."""
    family = FAMILIES[name]
    tokenizer = byte_level(list(dict.fromkeys(family.tokens)), family.words)
    if not family.template:
        return tokenizer
    tokenizer.chat_template = template(family.template) if family.template.isidentifier() else family.template
    tokenizer.eos_token, tokenizer.bos_token = family.tokens[0], family.begins
    return tokenizer


def model_of(name: str, *, dtype: torch.dtype = torch.bfloat16, key_bias: float = 200.0) -> Any:
    """A model of a family: keys have a bias of ±`key_bias` if the family has biases, otherwise a few large channels."""
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    own = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = getattr(transformers, f"{family.kind}Config")(**{**_SHAPE, **own, **family.shape})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
        for path, parameter in model.named_parameters():
            if path.endswith(("q_proj.weight", "k_proj.weight", "qkv_proj.weight")):
                parameter.normal_(std=0.2)
                parameter[:: parameter.shape[0] // 8] *= 4
            elif path.endswith("k_proj.bias"):
                parameter.copy_(key_bias * (2.0 * torch.rand_like(parameter).round() - 1))
            elif path.endswith("q_proj.bias"):
                parameter.normal_(std=2.0)
            elif path.endswith("sinks"):
                parameter.normal_(mean=2.0)
            elif path.endswith(("v_proj.weight", "o_proj.weight")):
                parameter.normal_(std=0.1)
            elif path.endswith("lm_head.weight"):
                parameter.normal_(std=0.2)
    return model.to(dtype)


def family_folder(name: str, out: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with a tiny model of a family, its tokenizer and its generation config."""
    tokenizer = tokenizer_of(name)
    tokenizer.save_pretrained(out)
    model_of(name, dtype=dtype).save_pretrained(out)
    ends = tokenizer.convert_tokens_to_ids(list(FAMILIES[name].eos))
    transformers.GenerationConfig(eos_token_id=ends).save_pretrained(out)
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == ends
    return out
