"""Serves one model from this process with transformers' own server (`transformers serve`).

Routes, answers and streams are those of transformers. This module adds what a measurement needs: prompts with exactly
the ids of training, one model that no request can replace, sampling as the request says and otherwise neutral, and a
clear refusal of what that server would silently ignore.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from transformers import AutoTokenizer, BatchEncoding, GenerationConfig, logging
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import GenerateManager, GenerationState

from magic_rl.engines.local.engine import device_of, dtype_of
from magic_rl.engines.local.models import load_base, load_renderer
from magic_rl.errors import UserError
from magic_rl.files import problem
from magic_rl.runs.serve.player import Model
from magic_rl.runs.serve.request import ChatCompletionRequest
from magic_rl.text.chat import ChatRenderer
from magic_rl.types import Message, Tokens

_ROUTES = ("/v1/chat/completions", "/v1/models", "/health")
_TOKENS = 1024  # of a reply if the request sets no limit; the default of transformers
_seed: ContextVar[int | None] = ContextVar("seed", default=None)  # of the request that is being handled


def application(model: Model) -> tuple[FastAPI, Callable[[], None]]:
    """Load a model and build the application that serves it.

    Returns:
        The application, and a function that waits until running work has ended.

    Raises:
        UserError: If the model cannot be loaded.
    """
    logging.set_verbosity_error()  # transformers warns on every request
    config, code = model.engine, model.engine.trust_remote_code
    if config.threads:
        torch.set_num_threads(config.threads)
    device = device_of(config.device)
    loaded: Any = load_base(model.folder, dtype_of(config.dtype, device), trust_remote_code=code).to(device).eval()
    renderer = load_renderer(str(model.folder), config)
    ends = sorted(renderer.stop_ids)
    loaded.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_p=1.0, top_k=0, eos_token_id=ends, pad_token_id=ends[0]
    )
    prompt = lru_cache(maxsize=1)(renderer.prompt)  # used here, then by transformers: do not render twice

    def rendered(rows: Sequence[dict[str, Any]], **_: object) -> BatchEncoding:
        ids = torch.tensor([prompt(tuple(Message(row["role"], row["content"]) for row in rows))])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    tokenizer = AutoTokenizer.from_pretrained(model.folder, trust_remote_code=code)
    tokenizer.apply_chat_template = rendered  # in which no text becomes a control token
    worker, state = _Worker(renderer), GenerationState()
    state.get_manager = lambda *_, **__: worker
    chat = _Chat(_OneModel(loaded, tokenizer, model.name), state)
    chat.prompt, chat.context = prompt, getattr(loaded.config.get_text_config(), "max_position_embeddings", 2**31)
    app = build_server(chat.model_manager, chat, None, None, None, state)
    app.router.routes[:] = [route for route in app.router.routes if route.path in _ROUTES]
    for error in (StarletteHTTPException, RequestValidationError):
        app.add_exception_handler(error, _in_their_words)
    return app, worker.finish


class _OneModel(ModelManager):
    """Knows one model and loads no other, no matter what a request names."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        super().__init__()
        self.force_model, self._held = name, (model, tokenizer)

    @staticmethod
    def process_model_name(model_id: str) -> str:
        """The name without a revision."""
        return model_id

    def load_model_and_processor(self, *_: object, **__: object) -> tuple[Any, Any]:
        """The one model."""
        return self._held

    def get_gen_models(self) -> list[dict[str, object]]:
        """The one model, and no others from this machine's cache."""
        return [{"id": self.force_model, "object": "model", "created": 0, "owned_by": "magic-rl"}]


class _Worker(GenerateManager):
    """Computes requests one by one in a thread, each with its own random seed, and none whose client has left."""

    def __init__(self, renderer: ChatRenderer) -> None:
        super().__init__()
        self._renderer = renderer

    def submit(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Set the random seed when computing starts, because other requests may come first."""
        seed = _seed.get()

        def seeded() -> Any:
            if seed is not None:
                torch.manual_seed(seed)
            return work(*args, **kwargs)

        return super().submit(seeded)

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, **_: object
    ) -> tuple[str, int, list[int]]:
        """The reply, read as in training, the number of prompt tokens, and the generated ids."""
        streamer = _CancellableStreamer()
        given = {**inputs, "generation_config": gen_config, "tokenizer": processor, "streamer": streamer}
        try:
            sequences = await asyncio.shield(asyncio.wrap_future(self.submit(streamer.run, model.generate, given)))
        except asyncio.CancelledError:
            streamer.disconnected = True
            raise
        length = inputs["input_ids"].shape[-1]
        ids = sequences[0, length:].tolist()
        return self._renderer.spoken(ids).reply, length, ids

    def finish(self) -> None:
        """Wait until running work has ended."""
        super().submit(int).result()


class _DisconnectedError(Exception):
    """The client has left."""


class _CancellableStreamer:
    """A streamer that streams nothing, and stops the generation if the client has left."""

    disconnected = False

    def run(self, generate: Callable[..., Any], given: dict[str, Any]) -> Any:
        """Generate; None if the client leaves."""
        try:
            return None if self.disconnected else generate(**given)
        except _DisconnectedError:
            return None

    def put(self, _: object) -> None:
        """Called after each token."""
        if self.disconnected:
            raise _DisconnectedError

    def end(self) -> None:
        """Called after the last one."""


class _Chat(ChatCompletionHandler):
    """Checks a request before transformers handles it.

    Attributes:
        prompt: Renders a conversation to ids.
        context: Most tokens that a prompt and its reply may have together.
    """

    prompt: Callable[[tuple[Message, ...]], Tokens]
    context: int

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Any:
        """Refuse a request that cannot be met as it stands; let transformers answer all others."""
        try:
            request = ChatCompletionRequest.model_validate(body)
            prompt = self.prompt(request.conversation)
        except ValidationError as error:
            raise HTTPException(400, problem(error)) from error
        except UserError as error:  # the template cannot render this conversation
            raise HTTPException(400, str(error)) from error
        name = self.model_manager.force_model
        if request.model not in (None, name):
            raise HTTPException(404, f"the model {request.model!r} does not exist here; {name!r} does")
        room = self.context - len(prompt)
        if room < 1:
            raise HTTPException(400, f"{len(prompt)} tokens leave no room for a reply: the context is {self.context}")
        _seed.set(request.seed)
        return await super().handle_request(request.body(min(request.limit or _TOKENS, room)), request_id)


async def _in_their_words(_: Request, error: Exception) -> JSONResponse:
    """An error as clients of OpenAI's API expect it."""
    status, why = 400, "the body is not a JSON object"
    if isinstance(error, StarletteHTTPException):
        status, why = error.status_code, error.detail
    return JSONResponse({"error": {"message": why, "type": "invalid_request_error", "code": status}}, status)
