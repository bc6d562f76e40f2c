"""Small tokenizers modelled on well-known families, each with its control tokens and its chat template."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML_WITH_DEFAULT_SYSTEM = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
QWEN3_WORDS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
PHI_TOKENS = ["<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
GEMMA_TOKENS = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
GPT4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FAMILIES = ["chatml", "qwen2_5", "qwen3", "llama3", "llama3_2", "phi3", "gemma"]
# Enough for merges that cross from the template's text into a message, such as "\n\n".
CORPUS = ["user\n\nHello there, how are you?\n\n\n assistant\n  system I am fine. \n\n 12 34 <|im_ start|> end|>"] * 4


def template(family: str) -> str:
    """The family's own chat template, as TRL ships it."""
    found = importlib.util.find_spec("trl")
    assert found is not None
    assert found.origin is not None
    return (Path(found.origin).parent / "chat_templates" / f"{family}.jinja").read_text(encoding="utf-8")


def byte_level(special: Sequence[str], words: Sequence[str] = (), *, qwen: bool = False) -> Any:
    backend = Tokenizer(models.BPE())
    splitter = pre_tokenizers.Split(Regex(GPT4_SPLIT), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([splitter, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    if qwen:
        backend.normalizer = normalizers.NFC()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    return tokenizer


def sentence_piece(special: Sequence[AddedToken], words: Sequence[str] = (), *, prefix: bool) -> Any:
    """A tokenizer like Llama-2's: spaces are letters, unknown characters fall back to bytes."""
    corpus = [text.replace(" ", "▁") for text in CORPUS]
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))  # noqa: S106 - no password
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    backend.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=340, special_tokens=["<unk>", *bytes_], show_progress=False)
    )
    tree = json.loads(backend.to_str())
    tree["added_tokens"] = []  # bytes and <unk> are pieces of the model there, not added tokens
    backend = Tokenizer.from_str(json.dumps(tree))
    replace = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_tokens(list(special), special_tokens=True)
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    return tokenizer


@cache
def family_tokenizer(family: str) -> Any:
    if family == "chatml":
        tokenizer = byte_level(CHATML_TOKENS)
        tokenizer.chat_template, tokenizer.eos_token = CHATML_WITH_DEFAULT_SYSTEM, "<|im_end|>"
        return tokenizer
    if family == "qwen2_5":
        tokenizer, eos = byte_level(CHATML_TOKENS, ["<tool_call>", "</tool_call>"], qwen=True), "<|im_end|>"
    elif family == "qwen3":
        tokenizer, eos = byte_level(CHATML_TOKENS, QWEN3_WORDS, qwen=True), "<|im_end|>"
    elif family in ("llama3", "llama3_2"):
        tokenizer, eos = byte_level(LLAMA_TOKENS), "<|end_of_text|>"
        tokenizer.bos_token = "<|begin_of_text|>"  # noqa: S105 - no password
    elif family == "phi3":  # its tokens swallow the white space that follows them
        special = [AddedToken(token, special=True, normalized=False, rstrip=True) for token in PHI_TOKENS]
        tokenizer, eos = sentence_piece(special, prefix=True), "<|endoftext|>"
        tokenizer.bos_token = "<s>"  # noqa: S105 - no password
    else:
        special = [AddedToken(token, special=True, normalized=False) for token in GEMMA_TOKENS]
        tokenizer, eos = sentence_piece(special, ["\n\n", "\n\n\n", "  ", "<h1>", "</h1>"], prefix=False), "<eos>"
        tokenizer.bos_token = "<bos>"  # noqa: S105 - no password
    tokenizer.chat_template, tokenizer.eos_token = template(family), eos
    return tokenizer
