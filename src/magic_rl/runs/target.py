"""A model that only answers, as a user names it: a folder or hub id, the address of a server, or a file of settings."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import ValidationError

from magic_rl.chat.base import Chat
from magic_rl.chat.local import LocalChat
from magic_rl.config import EndpointConfig
from magic_rl.engines.settings import EngineConfig
from magic_rl.errors import ChatError, ConfigError
from magic_rl.files import problem, read_text
from magic_rl.runs.judge import make_chat
from magic_rl.store import manifest
from magic_rl.store.run import RunDirectory


def endpoint_of(target: str) -> EndpointConfig:
    """The endpoint that a name stands for.

    Args:
        target: A model folder or hub id, loaded into this process; `http://…/v1`, whose server says which model it
            serves; or a .toml file with the settings of `judge.endpoint`, such as url, model and api_key_env.

    Raises:
        UserError: If the file holds other settings, or the server cannot be asked which model it serves.
    """
    try:
        if target.endswith(".toml"):
            return EndpointConfig.model_validate(tomllib.loads(read_text(Path(target))))
        if not target.startswith(("http://", "https://")):
            return EndpointConfig(model=target)
        return EndpointConfig(url=target, model=_served_by(EndpointConfig(url=target, model="unknown").url or ""))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{target}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{target}: {problem(error)}") from error


def look_for(target: str) -> None:
    """See that there is a run, or what `endpoint_of` knows, behind a name; no weights are fetched.

    Raises:
        UserError: If there is nothing.
    """
    if (Path(target) / "config.toml").is_file():
        RunDirectory.open(Path(target))
    elif not (endpoint := endpoint_of(target)).url:
        from magic_rl.engines.local.models import resolve_model  # torch takes seconds to import

        resolve_model(endpoint.model, weights=False)


def chat_of(target: str, engine: EngineConfig | None = None, number: int | None = None) -> Chat:
    """The model behind a name, ready to be asked; a run's defender with the prompts of its training.

    Args:
        target: A run, or what `endpoint_of` takes.
        engine: How a model in this process is computed; None: as the run says, or by default.
        number: Round of a run's defender; None is the last.

    Raises:
        UserError: If it cannot be loaded or reached.
    """
    if not (Path(target) / "config.toml").is_file():
        return make_chat(endpoint_of(target), engine or EngineConfig(), "target")
    from magic_rl.engines.local.engine import LocalEngine  # torch takes seconds to import
    from magic_rl.runs.export.player import saved_player

    player = saved_player(RunDirectory.open(Path(target)), "defender", number)
    how = engine or player.config.engine
    loaded = LocalEngine(player.base, player.settings.lora, how, chat_template=player.template)
    policy = loaded.load(player.adapter, "defender").snapshot("defender")
    identity = (
        f"{manifest.fingerprint(player.adapter)} {player.base} {loaded.dtype} {loaded.identity} {player.template}"
    )
    return LocalChat(target, policy, loaded.renderer_with, identity=identity, batch=how.rows_per_batch)


def _served_by(url: str) -> str:
    """The name of the one model that a server serves."""
    from openai import OpenAI, OpenAIError  # takes half a second to import

    try:
        with OpenAI(base_url=url, api_key="none", timeout=30.0, max_retries=1) as client:
            names = [model.id for model in client.models.list()]
    except OpenAIError as error:
        raise ChatError(f"does not say which model it serves ({error})", url=url) from error
    if len(names) != 1:
        listed = ", ".join(names[:5]) or "none"
        raise ChatError(f"serves {len(names)} models ({listed}); give a .toml file with url and model", url=url)
    return names[0]
