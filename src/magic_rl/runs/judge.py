"""Builds the judge that a config names, and any other model that only answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from magic_rl.attacks.codecs import CODECS
from magic_rl.chat.base import Chat, Endpoint
from magic_rl.chat.local import LocalChat
from magic_rl.chat.memory import Memory
from magic_rl.config import Config, EndpointConfig, JudgeMemberConfig
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.errors import ConfigError, StoreError
from magic_rl.files import cache_folder
from magic_rl.judges.base import Judge
from magic_rl.judges.format import Format
from magic_rl.judges.guards import GUARDS, Guard
from magic_rl.judges.model import ModelJudge
from magic_rl.judges.panel import Panel
from magic_rl.judges.rubric import Rubric
from magic_rl.judges.rules import RulesJudge
from magic_rl.judges.strongreject import StrongReject
from magic_rl.plugins import find

_FORMATS: dict[str, Format] = {**GUARDS, "llm": Rubric(), "strongreject": StrongReject()}
# Guards that do not say whether a reply refuses, on which half of the reward and compliance depend.
_SILENT_ON_REFUSALS = frozenset({"llama-guard", "shieldgemma", "harmbench"})


def about_rules(config: Config) -> Iterator[str]:
    """A remark if nothing but the demo's rules judges."""
    if all(member.kind == "rules" for member in config.judge.judges):
        yield "judge: rules, which are made for the demo; before you rely on a number, name a guard model in judge.kind"


def make_judge(config: Config, *, needs_refusal: bool = True) -> Judge:
    """Build the judge of `config.judge`: one, or a panel.

    Args:
        needs_refusal: Whether it must label refusals.

    Raises:
        UserError: For a judge that must label refusals and does not, a model that cannot be loaded, a key that is not
            set, or answers that cannot be kept.
    """
    judge, rewards = config.judge, config.game.rewards
    members = judge.judges
    if needs_refusal and {member.kind for member in members} <= _SILENT_ON_REFUSALS:
        raise ConfigError(
            "judge: no judge here labels refusals (llama-guard, shieldgemma and harmbench do not); make it one of the "
            "members of a kind 'panel', beside one that does: rules, qwen3guard, wildguard, strongreject or llm"
        )
    asks_a_model = any(member.endpoint for member in members)
    memory = open_memory(config.store.answers) if asks_a_model else None
    label_request = rewards.request_label == "judge" or rewards.label > 0
    # Rules know little about helpfulness: they score it only if no judge of kind llm does.
    topic = rewards.quality > 0 and all(member.kind != "llm" for member in members)
    rules = RulesJudge([codec.decode for codec in CODECS.values()], scores=topic)
    keys = [f"judge.members.{place}.endpoint" if judge.members else "judge.endpoint" for place in range(len(members))]
    made = [
        rules
        if member.kind == "rules"
        else _one(member, config.engine, key, label_request=label_request, memory=memory)
        for member, key in zip(members, keys, strict=True)
    ]
    if judge.kind != "panel":
        return made[0]
    return Panel(
        made,
        judge.rule,
        retries=judge.retries,
        max_abstained=judge.max_abstained,
        needs_quality=rewards.quality > 0,
    )


def _one(
    member: JudgeMemberConfig, engine: EngineConfig, key: str, *, label_request: bool, memory: Memory | None
) -> Judge:
    """A judge that asks a model, or one of the user's own."""
    if member.endpoint is None:
        own: Judge = find("judges", member.kind)(**member.options)
        return own
    form, chat = make_format_and_chat(member, member.endpoint, engine, key)
    return ModelJudge(form, chat, label_request=label_request, threshold=member.threshold, memory=memory)


def make_format_and_chat(
    member: JudgeMemberConfig, endpoint: EndpointConfig, engine: EngineConfig, key: str
) -> tuple[Format, Chat]:
    """A judge's format and the model that it asks; raises as `make_chat` does."""
    form: Format = _FORMATS.get(member.kind) or find("judges", member.kind)
    return form, make_chat(endpoint, engine, key, (form.template or "") if isinstance(form, Guard) else "")


def make_chat(endpoint: EndpointConfig, engine: EngineConfig, key: str, chat_template: str = "") -> Chat:
    """The model of an endpoint: behind its server, or loaded into this process if it names none.

    Args:
        key: Where the config names it, for error messages.
        chat_template: For a model without one whose prompts are rendered here.

    Raises:
        UserError: If it, or its tokenizer, cannot be loaded, or the server's key is not set.
    """
    if endpoint.url:
        return _server(endpoint, engine, key, chat_template)
    from magic_rl.engines.local.engine import LocalEngine
    from magic_rl.engines.local.models import resolve_model  # torch takes seconds to import

    folder = resolve_model(endpoint.model, trust_remote_code=engine.trust_remote_code)
    loaded = LocalEngine(folder, LoraConfig(), engine, chat_template=chat_template)
    identity = f"{folder.resolve()} {loaded.dtype} {engine.date} {loaded.identity}"
    batch = engine.rows_per_batch
    return LocalChat(endpoint.model, loaded.base(), loaded.renderer_with, identity=identity, batch=batch)


def _server(endpoint: EndpointConfig, engine: EngineConfig, key: str, chat_template: str) -> Chat:
    from magic_rl.chat.server import Server  # its client takes half a second to import

    shared = endpoint.model_dump(exclude={"tokenizer", "api_key_env"})
    made = Endpoint(**shared, key=key_of(endpoint, key), place=key)
    if endpoint.tokenizer is None:
        return Server(made)
    from magic_rl.engines.local.models import load_renderer

    return Server(made, renderer=load_renderer(endpoint.tokenizer, engine, chat_template=chat_template))


def key_of(endpoint: EndpointConfig, place: str) -> str:
    """A server's key, from its environment variable and checked to be fit for a header; "" if the config names none.

    Args:
        place: Where the config names the server, for error messages.

    Raises:
        ConfigError: If the variable is not set or holds no key.
    """
    variable = endpoint.api_key_env
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"{place}.api_key_env: the environment variable {variable} is not set")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{place}.api_key_env: what {variable} holds is no key: it has characters that no key has")
    return key


def open_memory(where: bool | str) -> Memory | None:
    """The memory of answers that `store.answers` names; None if it is off.

    Raises:
        ConfigError: If it cannot be used.
    """
    if where is False:
        return None
    try:
        return Memory(cache_folder() / "answers.sqlite" if where is True else Path(where).expanduser())
    except StoreError as error:
        raise ConfigError(f"store.answers: {error}; name another file, or false") from error
    except RuntimeError as error:
        raise ConfigError(
            f"store.answers: {where}: there is no such user's folder; name another file, or false"
        ) from error
