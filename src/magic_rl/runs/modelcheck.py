"""Checks from a chat model's files what training with it needs, before its weights are loaded.

A command shows the results. Training makes the same checks first, and stops at what would break a run.
They use the code that training uses: the renderer, the adapters, the names of stored weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoModelForCausalLM

from magic_rl.config import Config
from magic_rl.engines.local.engine import device_of, dtype_of, unquantised, with_adapters
from magic_rl.engines.local.models import load_renderer, resolve_model, stored_name, stored_shapes
from magic_rl.engines.local.parity import unfit
from magic_rl.engines.settings import LoraConfig
from magic_rl.errors import ModelError, UserError
from magic_rl.files import digits, reason
from magic_rl.prompts import load_prompts
from magic_rl.runs.footprint import Footprint, available, footprint
from magic_rl.text.chat import ChatRenderer
from magic_rl.text.template import introduced
from magic_rl.types import Message, Role, Seed, Tokens

_T = TypeVar("_T")
_SPOKEN = [Message("user", "Hello."), Message("assistant", "Hello!"), Message("user", "And then?")]
_MARK = "\ue000"  # stands for the user's words
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Problem:
    """What would go wrong."""

    # "training": a run would break; "export": only an export would; "may": a run would if texts are long.
    when: Literal["training", "export", "may"]
    error: UserError


@dataclass(frozen=True, slots=True)
class Template:
    """What a model's chat template does."""

    system: str  # where its template puts a system prompt
    date: str  # what it prints as today's date
    turns: bool  # whether it takes conversations of several turns
    thoughts: str  # what opens its thoughts, and whether the template does so itself
    stops: dict[str, int]  # ids that end an answer, by the text of their tokens
    control: tuple[str, ...]  # text of all control tokens


@dataclass(frozen=True, slots=True)
class Adapter:
    """Which layers adapters fit."""

    layers: dict[str, int]  # how many layers the config adapts, by name
    parameters: int  # of one player's adapter
    fits: dict[str, int]  # how many layers there are of each name that `lora.target_modules` may hold
    refused: dict[str, str]  # names that it may not hold, and what those layers are


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """What was found for one model; None where an earlier check failed."""

    model: str
    roles: tuple[Role, ...]  # the roles that it plays
    template: Template | None
    adapter: Adapter | None
    unshared: str  # why this kind of model cannot share prompts; "" if only a trial can tell
    memory: Footprint | None
    problems: tuple[Problem, ...]


def look_at_models(config: Config, note: Callable[[str], None]) -> None:
    """Stop at what would break a run; note what may go wrong later.

    Raises:
        UserError: For the first thing that would break it.
    """
    problems = [problem for found in check_models(config) for problem in found.problems]
    for problem in problems:
        if problem.when == "training":
            raise problem.error
    for text in dict.fromkeys(str(problem.error) for problem in problems):
        note(text)


def check_models(config: Config) -> list[ModelCheck]:
    """Check each model of a config's players, once for each shape of adapter."""
    roles_of: dict[tuple[str, LoraConfig], list[Role]] = {}
    for role in config.roles:
        roles_of.setdefault((config.player(role).model, config.player(role).lora), []).append(role)
    found = [_Check(config, tuple(players)).result() for players in roles_of.values()]
    needed = sum(each.memory.certain for each in found if each.memory)
    if len(found) > 1 and (problem := _too_little(config, needed)):  # each may fit by itself
        found.append(ModelCheck("both models", config.roles, None, None, "", None, (problem,)))
    return found


class _Check:
    """Checks one model, and continues after a check that fails."""

    def __init__(self, config: Config, roles: tuple[Role, ...]) -> None:
        self._config, self._roles = config, roles
        self._player = config.player(roles[-1])
        self._problems: list[Problem] = []

    def result(self) -> ModelCheck:
        config, name = self._config, self._player.model
        code = config.engine.trust_remote_code
        folder = self._tried(partial(resolve_model, name, trust_remote_code=code))
        template = memory = adapter = None
        unshared = ""
        if folder is not None:
            if renderer := self._tried(lambda: load_renderer(str(folder), config.engine)):
                template = describe(renderer)
                self._tried(lambda: self._template_fits(folder, renderer, template))
            if model := self._tried(lambda: self._shape(folder)):
                unshared = unfit(model)
                fits, refused = _layers(model)
                if adapted := self._tried(lambda: with_adapters(model, self._player.lora, folder)[0]):
                    names = _adapted(adapted)
                    size = sum(p.numel() for key, p in adapted.named_parameters() if ".lora_" in key)
                    adapter = Adapter(dict(Counter(map(_leaf, names))), size, fits, refused)
                    memory = self._memory(adapted)
                    self._tried(partial(_storable, folder, names), "export")
        return ModelCheck(name, self._roles, template, adapter, unshared, memory, tuple(self._problems))

    def _tried(self, work: Callable[[], _T], when: Literal["training", "export"] = "training") -> _T | None:
        try:
            return work()
        except UserError as error:
            self._problems.append(Problem(when, error))
            return None

    def _shape(self, folder: Path) -> Any:
        """The model without its weights."""
        config = self._config.engine
        settings = unquantised(folder, config)
        dtype = dtype_of(config.dtype, device_of(config.device))
        try:
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(
                    settings, dtype=dtype, trust_remote_code=config.trust_remote_code
                )
        except (ValueError, KeyError, ImportError) as error:
            hint = "is it of a kind that this transformers knows?"
            raise UserError(f"{folder}: cannot be built: {reason(error)}; {hint}") from error

    def _template_fits(self, folder: Path, renderer: ChatRenderer, template: Template) -> None:
        config = self._config
        for role in self._roles:
            renderer.require(config.player(role).chat_template_kwargs, f"{role}.chat_template_kwargs")
        if config.game.turns > 1 and not template.turns:
            raise UserError(f"game.turns: the chat template of {folder} takes a single turn; set it to 1")
        if "defender" in self._roles and not config.game.shared_parameters:
            own = renderer.given(config.defender.chat_template_kwargs)
            words = exported_template(config, own)
            if words != own.own_template:
                exported = load_renderer(str(folder), config.engine, chat_template=words)
                said = training_messages(config, "defender")
                self._tried(lambda: same_prompts(folder, exported, said, own, [_SPOKEN[0].content]), "export")

    def _memory(self, model: Any) -> Footprint:
        config = self._config
        device = device_of(config.engine.device)
        found = footprint(model, config, self._roles, device, dtype_of(config.engine.dtype, device))
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
        for role in self._roles:
            spoken = config.player(role).sampling
            for key, tokens in (("max_prompt_tokens", spoken.max_prompt_tokens), ("max_tokens", spoken.max_tokens)):
                if 0 < positions < tokens:
                    text = f"{role}.sampling.{key}: {self._player.model} was made for {positions} tokens, not {tokens}"
                    self._problems.append(Problem("may", UserError(f"{text}; lower it")))
        if problem := _too_little(config, found.certain):
            self._problems.append(problem)
        elif (most := found.most) > (have := available(device)):
            text = (
                "engine.rows_per_batch: if all texts are as long as sampling.max_tokens and max_prompt_tokens let "
                f"them be, sampling takes {digits(most / _GB)} GB, {digits(found.cache / _GB)} of them keys and "
                f"values, and {digits(have / _GB)} are available; lower one of the three"
            )
            self._problems.append(Problem("may", UserError(text)))
        return found


def _too_little(config: Config, needed: int) -> Problem | None:
    have = available(device_of(config.engine.device))
    if needed <= have:
        return None
    text = (
        f"memory: about {digits(needed / _GB)} GB are needed and {digits(have / _GB)} are available; lower "
        "engine.processes or engine.tokens_per_batch, set engine.recompute_above, or take a smaller model or a larger "
        "machine"
    )
    return Problem("training", UserError(text))


def describe(renderer: ChatRenderer) -> Template:
    """What a renderer knows of its model's template."""
    marks = "none" if renderer.marks is None else renderer.marks.name
    try:
        renderer.prompt(_SPOKEN)
        turns = True
    except UserError:
        turns = False
    return Template(
        system="in the first user message" if renderer.folds_system else "its own place",
        date="the run's date" if "strftime_now" in renderer.own_template else "no date",
        turns=turns,
        thoughts=f"{marks}, opened by the template" if renderer.opening else marks,
        stops={renderer.spelled([stop]): stop for stop in sorted(renderer.stop_ids)},
        control=tuple(renderer.spelled([token]) for token in sorted(renderer.control_ids)),
    )


def _layers(model: Any) -> tuple[dict[str, int], dict[str, str]]:
    """By name, how many layers adapters fit, and what the layers are that they do not fit."""
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    fits: Counter[str] = Counter()
    refused: dict[str, str] = {}
    for name, module in model.named_modules():
        if all(parameter.ndim < 2 for parameter in module._parameters.values() if parameter is not None):
            continue
        if module is head and head is not None and head.weight is inputs.weight:
            refused[_leaf(name)] = "shares its weights with the input embedding"
        elif type(module) is nn.Linear:
            fits[_leaf(name)] += 1
        else:
            refused[_leaf(name)] = type(module).__name__
    return dict(fits), refused


def _adapted(model: nn.Module) -> list[str]:
    return [name.removeprefix("base_model.model.") for name, m in model.named_modules() if isinstance(m, LoraLayer)]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _storable(folder: Path, modules: Sequence[str]) -> None:
    """Raise UserError if an adapted layer has no stored weight of its own, which a merged export needs."""
    shapes = stored_shapes(folder)
    for module in modules:
        if stored_name(module, shapes) is None:
            raise ModelError(
                f"{folder}: stores no weight of its own for {module}, so no merged model can be exported",
                "adapter or without the layer",
                layer=_leaf(module),
            )


def training_messages(config: Config, role: Role) -> tuple[str, str]:
    """A player's system prompt in training, and its user message, with a mark in place of the text in it.

    The defender's text is an attack. The attacker's is a seed, and the message is its task for a harmful one.
    """
    prompts = load_prompts(config.game.prompts)
    if role == "attacker":
        system = prompts.attacker_system_multi_turn if config.game.turns > 1 else prompts.attacker_system
        return system, prompts.attacker(Seed("", _MARK, "harmful"))
    return prompts.defender_system(config.defender.system_prompt, config.game.defender_thinks), prompts.defender(_MARK)


def exported_template(config: Config, renderer: ChatRenderer, role: Role = "defender") -> str:
    """A chat template that renders a user message by itself as the prompt that the player reads in training."""
    system, around = training_messages(config, role)
    return introduced(renderer.chat_template, system, around.split(_MARK))


def same_prompts(
    folder: Path, exported: ChatRenderer, words: tuple[str, str], renderer: ChatRenderer, requests: Sequence[str]
) -> list[Tokens]:
    """A player's prompts for some texts, as in training.

    Args:
        exported: A renderer with the template of `exported_template`.
        words: From `training_messages`.
        renderer: The player's.

    Raises:
        UserError: If the exported template gives other prompts.
    """
    system, around = words
    first = [Message("system", system)] if system else []
    asked = [renderer.prompt([*first, Message("user", text.join(around.split(_MARK)))]) for text in requests]
    given = [exported.prompt([Message("user", text)]) for text in requests]
    if [exported.spelled(ids) for ids in given] != [exported.spelled(ids) for ids in asked]:
        raise ModelError(
            f"{folder}: its chat template cannot say by itself what the player was told in training",
            "adapter and the words",
        )
    return asked
