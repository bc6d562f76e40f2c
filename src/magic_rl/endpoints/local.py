"""A model in this process that answers requests, through an engine's policy: no server needed.

Contents are encoded by the engine's renderer, so they can never become control ids (rule 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from magic_rl.endpoints.base import ChatRequest, Completion
from magic_rl.text.renderer import Renderer, Speaks
from magic_rl.types import SamplingParams


class LocalChat:
    """A policy as `endpoints.base.Chat`.

    Schemas are not enforced, and a template is the one that the engine was loaded with.
    """

    def __init__(
        self, name: str, policy: Speaks, renderer_with: Callable[[Mapping[str, str]], Renderer], identity: str = ""
    ) -> None:
        """Put a policy behind the protocol.

        Args:
            name: Name of the model.
            policy: Who answers.
            renderer_with: Its renderer with the given variables of the chat template.
            identity: See `Chat.identity`; by default the name.
        """
        self._identity = identity or name
        self._name, self._policy, self._renderer_with = name, policy, renderer_with
        self._renderers: dict[tuple[tuple[str, str], ...], Renderer] = {}

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._name

    @property
    def identity(self) -> str:
        """See `Chat.identity`."""
        return self._identity

    def complete(
        self, requests: Sequence[ChatRequest], done: Callable[[int, Completion], None] | None = None
    ) -> list[Completion]:
        """Answer a batch; see `Chat.complete`. Requests of one batch share their sampling settings."""
        if not requests:
            return []
        (settings,) = {(request.max_tokens, request.temperature) for request in requests}
        renderers = [self._renderer(request) for request in requests]
        prompts = [each.prompt(request.messages) for each, request in zip(renderers, requests, strict=True)]
        samples = self._policy.sample(prompts, 1, SamplingParams(*settings), 0)
        out = []
        for index, (sample,) in enumerate(samples):
            tokens = len(sample.prompt) + len(sample.tokens)
            _, text, ended = renderers[index].spoken(sample.tokens)
            if not ended:
                reason = "the answer never came out of its reasoning"
                completion = Completion(tokens=tokens, failed=reason, cause="cut_off")
            elif sample.finish == "length" and not requests[index].beginning:
                reason = f"the answer was cut off at {settings[0]} tokens"
                completion = Completion(tokens=tokens, failed=reason, cause="cut_off")
            else:
                completion = Completion(text, tokens)
            out.append(completion)
            if done is not None:
                done(index, completion)
        return out

    def _renderer(self, request: ChatRequest) -> Renderer:
        key = tuple(sorted(request.template_kwargs.items()))
        if key not in self._renderers:
            self._renderers[key] = self._renderer_with(request.template_kwargs)
        return self._renderers[key]
