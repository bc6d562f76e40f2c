"""What MAGIC offers to Inspect through an entry point: the sets as tasks, and models in this process.

A task is called `magic_rl/harmbench`, a model `magic_rl/runs/demo` or `magic_rl/default`. A model behind a server is
asked by Inspect's own clients; one in this process by ours, with the engine, template and prompts of its training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, modelapi
from inspect_ai.tool import ToolChoice, ToolInfo

from magic_rl.chat.base import ChatRequest, Completion
from magic_rl.config import Config, dump_config, load_config
from magic_rl.data.split import evenly
from magic_rl.evidence.batching import Batcher
from magic_rl.evidence.sets import BENCHMARKS, load
from magic_rl.evidence.tasks import make_task
from magic_rl.judges.base import Judge
from magic_rl.runs.judge import make_judge
from magic_rl.runs.target import chat_of
from magic_rl.types import Message

_AT_ONCE = 64  # requests that wait for one batch
_judges: dict[str, Judge] = {}  # by settings: a judge in this process is loaded once


class InProcess(ModelAPI):
    """A model folder, a hub id, or the defender of a run."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        *,
        settings: str = "",
        number: int | None = None,
    ) -> None:
        """Load the model.

        Args:
            settings: Config file that says how models are computed (`engine`); empty: the run's own, or the defaults.
            number: Round of the defender; None is the last.

        Raises:
            UserError: If it cannot be loaded.
        """
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        self._chat = chat_of(model_name, load_config(Path(settings)).engine if settings else None, number)
        self._answer = Batcher(self._answers)

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 - Inspect's names
        tools: list[ToolInfo],
        tool_choice: ToolChoice,  # noqa: ARG002 - without tools there is nothing to choose
        config: GenerateConfig,
    ) -> ModelOutput:
        """One reply; empty if its reasoning never ended.

        Raises:
            ValueError: For tools, stop sequences or several choices.
            RuntimeError: If the model gives no reply.
        """
        if tools or config.stop_seqs or (config.num_choices or 1) > 1:
            raise ValueError("a model in this process takes no tools, stop sequences or several choices")
        messages = tuple(Message(_ROLES[message.role], message.text) for message in input)
        said = await self._answer(
            ChatRequest(messages, config.max_tokens or 512, config.temperature or 0.0, beginning=True)
        )
        cut_off = said.cause == "cut_off"
        if said.failed is not None and not cut_off:
            raise RuntimeError(said.failed)
        return ModelOutput.from_content(self.model_name, said.text, stop_reason="max_tokens" if cut_off else "stop")

    def _answers(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Answer requests in batches that share their settings, as `LocalChat` requires."""
        done: dict[int, Completion] = {}
        for settings in dict.fromkeys((request.max_tokens, request.temperature) for request in requests):
            alike = [i for i, r in enumerate(requests) if (r.max_tokens, r.temperature) == settings]
            done |= zip(alike, self._chat.complete([requests[i] for i in alike]), strict=True)
        return [done[i] for i in range(len(requests))]

    def max_connections(self) -> int:
        """How many samples Inspect runs at once."""
        return _AT_ONCE


_ROLES: dict[str, Any] = {"system": "system", "user": "user", "assistant": "assistant"}


def make_tasks(name: str) -> Any:
    """A function that makes the task of a set, registered under its name."""

    def benchmark(
        data: str = "", judge: str = "", limit: int = 0, max_tokens: int = 0, any_count: bool = False
    ) -> Task:
        """A set of the published table.

        Args:
            data: The user's copy of the set; empty reads the hub.
            judge: Config file that names the judge; empty: the demo's rules.
            limit: Most rows, evenly spaced; 0: all.
            max_tokens: Where replies are cut; 0: where the release cuts them.
            any_count: Whether to accept a number of rows other than the published one.
        """
        config = load_config(Path(judge) if judge else None)
        items = evenly(load(name, data, any_count=any_count), limit)
        return make_task(name, items, judge_of(config), retries=config.judge.retries, max_tokens=max_tokens)

    benchmark.__name__ = name
    return task(name=name)(benchmark)


def judge_of(config: Config) -> Judge:
    """The judge of a config; the same object for all tasks."""
    key = dump_config(config)
    if key not in _judges:
        _judges[key] = make_judge(config)
    return _judges[key]


TASKS = {name: make_tasks(name) for name in BENCHMARKS}
modelapi(name="magic_rl")(InProcess)
