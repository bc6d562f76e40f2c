"""A model in this process that answers requests through an engine's policy, without a server.

Contents are encoded by the engine's renderer, so they can never become control ids (rule 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from magic_rl.chat.base import ChatRequest, Completion, Done
from magic_rl.rng import derive
from magic_rl.text.renderer import Renderer, SamplingPolicy
from magic_rl.text.think import THINK
from magic_rl.types import Sample, SamplingParams


class LocalChat:
    """A policy as `chat.base.Chat`.

    Schemas are not enforced, and the template is always the one that the engine was loaded with.

    Attributes:
        name: Name of the model.
        identity: See `Chat.identity`.
    """

    def __init__(
        self,
        name: str,
        policy: SamplingPolicy,
        renderer_with: Callable[[Mapping[str, str]], Renderer],
        *,
        identity: str = "",
        batch: int = 64,
    ) -> None:
        """Put a policy behind the protocol.

        Args:
            policy: The policy that answers.
            renderer_with: Makes its renderer with the given variables of the chat template.
            identity: By default the name.
            batch: Requests answered in parallel; `done` is called after each such batch.
        """
        self.name, self.identity = name, identity or name
        self._policy, self._renderer_with, self._batch = policy, renderer_with, batch
        self._renderers: dict[tuple[tuple[str, str], ...], Renderer] = {}

    def complete(self, requests: Sequence[ChatRequest], done: Done | None = None) -> list[Completion]:
        """Answer a batch; see `Chat.complete`. Requests of one batch share their sampling settings."""
        out: list[Completion] = []
        for start in range(0, len(requests), self._batch):
            some = requests[start : start + self._batch]
            (settings,) = {(request.max_tokens, request.temperature) for request in some}
            renderers = [self._renderer(request) for request in some]
            prompts = [
                (*each.prompt(request.messages), *(each.prefill(request.prefill) if request.prefill else ()))
                for each, request in zip(renderers, some, strict=True)
            ]
            drawn = derive(some[0].sample, start, "answers")
            samples = self._policy.sample(prompts, 1, SamplingParams(*settings), drawn)
            for request, renderer, (sample,) in zip(some, renderers, samples, strict=True):
                out.append(_completion(request, renderer, sample))
                if done is not None:
                    done(len(out) - 1, out[-1])
        return out

    def _renderer(self, request: ChatRequest) -> Renderer:
        key = tuple(sorted(request.template_kwargs.items()))
        if key not in self._renderers:
            self._renderers[key] = self._renderer_with(request.template_kwargs)
        return self._renderers[key]


def _completion(request: ChatRequest, renderer: Renderer, sample: Sample) -> Completion:
    tokens = len(sample.prompt) + len(sample.tokens)
    if request.prefill:  # any thought has ended before it
        text, ended = renderer.decode(sample.tokens).removeprefix(THINK), True
    else:
        _, text, ended = renderer.spoken(sample.tokens)
    if not ended:
        return Completion(tokens=tokens, failed="the answer never came out of its reasoning", cause="cut_off")
    if sample.finish == "length" and not request.beginning:
        reason = f"the answer was cut off at {request.max_tokens} tokens"
        return Completion(tokens=tokens, failed=reason, cause="cut_off")
    return Completion(text, tokens, cause="cut_off" if sample.finish == "length" else "other")
