"""Chat templates and tokenizers of the families that people harden, tiny, with the real control tokens.

Templates are the families' own, as TRL ships them, or of the same shape where it has none: minimal ones that deal
with system prompts, dates, thoughts and turn ends as the real ones do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from tests.test_text import LLAMA_TOKENS, PHI_TOKENS, QWEN3_WORDS, _byte_level, _template

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


@dataclass(frozen=True)
class Family:
    """A family, as its model cards' files have it.

    Attributes:
        template: Its text, or its name in TRL.
        tokens: Control tokens that are flagged special, the end of text first.
        words: Control tokens that are not.
        eos: `generation_config.eos_token_id`, in words.
        begins: The token of the beginning.
    """

    template: str
    tokens: Sequence[str]
    eos: Sequence[str]
    words: Sequence[str] = ()
    begins: str | None = None


CHATML = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
GEMMA = ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
DEEPSEEK = ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
LLAMA = ("<|eot_id|>", "<|eom_id|>", *(token for token in LLAMA_TOKENS if token != "<|eot_id|>"))  # noqa: S105
FAMILIES = {
    "Llama 3": Family("llama3_2", LLAMA, ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"], begins="<|begin_of_text|>"),
    "Qwen2.5": Family("qwen2_5", CHATML, ["<|im_end|>", "<|endoftext|>"]),
    "Qwen3": Family("qwen3", CHATML, ["<|im_end|>", "<|endoftext|>"], QWEN3_WORDS),
    "Gemma 2": Family("gemma", GEMMA, ["<eos>", "<end_of_turn>"], begins="<bos>"),
    "Gemma 3": Family("gemma3", GEMMA, ["<eos>", "<end_of_turn>"], begins="<bos>"),
    "Mistral": Family(MISTRAL, ["</s>", "<s>", "[INST]", "[/INST]"], ["</s>"], begins="<s>"),
    "Phi-3": Family(
        "phi3", ["<|endoftext|>", *PHI_TOKENS], ["<|endoftext|>", "<|assistant|>", "<|end|>"], begins="<s>"
    ),
    "Phi-4": Family(PHI4_MINI, ["<|endoftext|>", *PHI_TOKENS], ["<|end|>", "<|endoftext|>"]),
    "OLMo 2": Family(OLMO2, ["<|endoftext|>"], ["<|endoftext|>"], begins="<|endoftext|>"),
    "SmolLM3": Family(SMOLLM3, CHATML, ["<|im_end|>"], ["<think>", "</think>"]),
    "Granite": Family(GRANITE, ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"], ["<|end_of_text|>"]),
    "GLM-4": Family(
        GLM4,
        ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"],
        ["<|endoftext|>", "<|user|>", "<|observation|>"],
    ),
    "DeepSeek distill": Family(
        "deepseek_r1_distill", DEEPSEEK, DEEPSEEK[:1], ["<think>", "</think>"], begins=DEEPSEEK[1]
    ),
}


@cache
def tokenizer_of(name: str) -> Any:
    """A tiny tokenizer with a family's control tokens and template."""
    family = FAMILIES[name]
    tokenizer = _byte_level(list(dict.fromkeys(family.tokens)), family.words)
    tokenizer.chat_template = _template(family.template) if family.template.isidentifier() else family.template
    tokenizer.eos_token, tokenizer.bos_token = family.tokens[0], family.begins
    return tokenizer


def family_folder(name: str, out: Path) -> Path:
    """A folder with a tiny model that has a family's tokenizer and generation config."""
    tokenizer = tokenizer_of(name)
    tokenizer.save_pretrained(out)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(shape).save_pretrained(out)
    ends = tokenizer.convert_tokens_to_ids(list(FAMILIES[name].eos))
    GenerationConfig(eos_token_id=ends).save_pretrained(out)
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == ends
    return out
