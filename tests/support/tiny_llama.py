"""A model folder of a few kilobytes: a two-layer Llama on bytes with a ChatML template and random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny_llama(folder: Path, phrases: Sequence[str] = (), head_size: int = 8) -> Path:
    """Write a model that samples noise and sometimes stops, or samples one of a few phrases and stops.

    The first hidden coordinate is a constant that only the end-of-turn logit reads, so about one token in ten
    ends the turn: samples have different lengths and few are cut off.

    Args:
        folder: Where to write it.
        phrases: Each becomes one token. As the first token of a reply all are about equally likely; after one, the
            turn usually ends.
        head_size: Width of an attention head.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=["<|im_start|>"],
        **dict.fromkeys(("eos_token", "pad_token"), "<|im_end|>"),
    )
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)

    end = tokenizer.eos_token_id
    said = tokenizer.convert_tokens_to_ids(list(phrases))
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
                head_dim=head_size,
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
        if said:  # a second coordinate marks that a phrase was sampled
            head[end, 0] = 0.0
            head[said, 0] = 5.0
            embedding[:, 1] = 0.0
            embedding[said, 1] = 0.1
            head[:, 1] = 0.0
            head[end, 1] = 4.0
    model.save_pretrained(folder)
    return folder
