"""The judge that a config names, ready to be asked."""

from __future__ import annotations

from pathlib import Path

from magic_rl.attacks.codecs import CODECS
from magic_rl.config import Config, EndpointConfig, EngineConfig, JudgeMemberConfig, LoraConfig
from magic_rl.endpoints.base import Chat
from magic_rl.endpoints.local import LocalChat
from magic_rl.endpoints.server import Server
from magic_rl.errors import UserError
from magic_rl.judges.base import Judge
from magic_rl.judges.cache import VerdictCache
from magic_rl.judges.guard import GUARDS, WILDGUARD_TEMPLATE
from magic_rl.judges.llm import Rubric
from magic_rl.judges.model import ModelJudge
from magic_rl.judges.panel import Panel
from magic_rl.judges.rules import RulesJudge


def make_judge(config: Config) -> Judge:
    """Build the judge of `config.judge`: one, or a panel.

    Raises:
        UserError: For a model that cannot be loaded, a key that is not set, or a cache that cannot be written.
    """
    judge, rewards = config.judge, config.game.rewards
    members = judge.members or (judge,)
    asks_a_model = any(member.kind != "rules" for member in members)
    cache = _cache(judge.cache) if asks_a_model and judge.cache != "off" else None
    prompts = rewards.request_label == "judge" or rewards.label > 0
    # What rules know of helpfulness is little: they are asked only where nobody knows better.
    topic = rewards.quality > 0 and all(member.kind != "llm" for member in members)
    made = [_one(member, config.engine, prompts=prompts, topic=topic, cache=cache) for member in members]
    if not judge.members:
        return made[0]
    return Panel(
        made,
        judge.rule,
        retries=judge.retries,
        max_abstained=judge.max_abstained,
        needs_quality=rewards.quality > 0,
    )


def _one(
    member: JudgeMemberConfig, engine: EngineConfig, *, prompts: bool, topic: bool, cache: VerdictCache | None
) -> Judge:
    if member.kind == "rules":
        return RulesJudge([codec.decode for codec in CODECS.values()], scores=topic)
    form = Rubric() if member.kind == "llm" else GUARDS[member.kind]
    chat = make_chat(member.endpoint, engine, WILDGUARD_TEMPLATE if member.kind == "wildguard" else "")
    return ModelJudge(form, chat, prompts=prompts, threshold=member.threshold, cache=cache)


def make_chat(endpoint: EndpointConfig, engine: EngineConfig, chat_template: str = "") -> Chat:
    """The model of an endpoint: behind its server, or loaded into this process if it names none.

    Args:
        chat_template: For a model that comes without one, where it is rendered here.

    Raises:
        UserError: If it, or its tokenizer, cannot be loaded, or the server's key is not set.
    """
    if endpoint.url and not endpoint.tokenizer:
        return Server(endpoint)
    from magic_rl.engines.local.models import load_renderer, resolve_model  # torch takes seconds to import

    if endpoint.url:
        return Server(endpoint, renderer=load_renderer(endpoint.tokenizer, engine, chat_template=chat_template))
    from magic_rl.engines.local.engine import LocalEngine

    folder = resolve_model(endpoint.model, trust_remote_code=engine.trust_remote_code)
    loaded = LocalEngine(folder, LoraConfig(), engine, chat_template=chat_template)
    return LocalChat(
        endpoint.model,
        loaded.base(),
        loaded.renderer_with,
        f"{folder.resolve()} {loaded.dtype} {engine.date} {loaded.identity}",
    )


def _cache(name: str) -> VerdictCache:
    from magic_rl.engines.local.models import cache_folder

    if not name:
        return VerdictCache(cache_folder() / "verdicts.sqlite")
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(f"judge.cache: {name}: there is no such user's folder; name another file, or 'off'") from error
    return VerdictCache(path)
