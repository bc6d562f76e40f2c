"""Tiny random models of the families that people harden, with keys and queries as large as in real checkpoints."""

from __future__ import annotations

from typing import Any

import torch
import transformers

# Head sizes, and how many query heads read one key head, as the families have them.
_SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 256,
    "tie_word_embeddings": False,
}
_ONE_IN_THREE_SEES_ALL = ["sliding_attention", "sliding_attention", "full_attention"]
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 3": (
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
    ),
    "Qwen2.5": ("Qwen2", {"num_attention_heads": 7, "num_key_value_heads": 1}),
    "Qwen3": ("Qwen3", {"head_dim": 128, "num_attention_heads": 4, "num_key_value_heads": 1}),
    "Gemma 2": ("Gemma2", {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096}),
    "Gemma 3": (
        "Gemma3Text",
        {"head_dim": 256, "num_key_value_heads": 1, "sliding_window": 512, "layer_types": _ONE_IN_THREE_SEES_ALL},
    ),
    "Mistral": ("Mistral", {"num_attention_heads": 8, "num_key_value_heads": 2, "sliding_window": 4096}),
    "Phi-3": ("Phi3", {"num_key_value_heads": 4, "head_dim": 96, "sliding_window": 2047}),
    "Phi-4": ("Phi3", {"num_key_value_heads": 1, "head_dim": 128, "sliding_window": None}),
    "OLMo 2": ("Olmo2", {"num_key_value_heads": 4}),
    "SmolLM3": ("SmolLM3", {"head_dim": 128, "num_key_value_heads": 1, "no_rope_layer_interval": 3}),
    "Granite": (
        "Granite",
        {
            "attention_multiplier": 0.015625,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
        },
    ),
    "GLM-4": ("Glm4", {"num_attention_heads": 8, "num_key_value_heads": 1}),
    "DeepSeek distill": ("Qwen2", {"head_dim": 128, "num_attention_heads": 4, "num_key_value_heads": 1}),
    "gpt-oss": (
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


def family(name: str, *, dtype: torch.dtype = torch.bfloat16, key_bias: float = 200.0) -> Any:
    """A model of a family: keys with a bias of ±`key_bias` where it has biases, else with a few large channels."""
    kind, settings = FAMILIES[name]
    config = getattr(transformers, f"{kind}Config")(**{**_SHAPE, **settings})
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
