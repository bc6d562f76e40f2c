"""A model behind an OpenAI-compatible endpoint, by a server that others keep: transformers' own, or vLLM."""

from magic_rl.runs.serve.player import Model, ServerName, served_model, served_player
from magic_rl.runs.serve.running import Address, require, serve

__all__ = ["Address", "Model", "ServerName", "require", "serve", "served_model", "served_player"]
