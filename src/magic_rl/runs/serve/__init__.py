"""Serves a model at an OpenAI-compatible endpoint, with an existing server: transformers' own, or vLLM."""

from magic_rl.runs.serve.player import Model, ServerName, served_model, served_player
from magic_rl.runs.serve.running import Address, require, serve

__all__ = ["Address", "Model", "ServerName", "require", "serve", "served_model", "served_player"]
