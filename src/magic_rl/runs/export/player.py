"""A saved player as a model folder whose prompts equal those of training, id by id.

The folder is loaded and compared with the trained policy before it appears under its name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from magic_rl.config import Config, PlayerConfig, load_config
from magic_rl.errors import StoreError, UserError
from magic_rl.files import name_of
from magic_rl.runs.inputs import compare, compare_settings
from magic_rl.runs.seeds import split_of
from magic_rl.store.run import RunDirectory
from magic_rl.types import Message, Role, SamplingParams, Seed, Tokens

if TYPE_CHECKING:
    from magic_rl.text.chat import ChatRenderer

_log = logging.getLogger(__name__)
_COMPARED, _TOKENS = 8, 32  # held-out requests, and tokens of each reply
# How far log-probabilities of replies may be off on average, in nats: weights rounded, all else in float32.
_TOLERANCE = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}


@dataclass(frozen=True, slots=True)
class Stored:
    """How a merged model is stored, and what that cost."""

    dtype: str  # the narrowest precision of its weights
    share: float  # of the trained update that is in the weights; see `weights.merge`
    requests: int  # held-out requests that were compared, with one reply each
    mean_gap: float  # mean distance of log-probabilities of reply tokens from the trained policy's, in nats
    largest_gap: float  # the largest one

    def __str__(self) -> str:
        return (
            f"stored in {self.dtype}, which keeps {self.share:.1%} of the trained update; log-probabilities of replies "
            f"to {self.requests} held-out requests are {self.mean_gap:.2g} nats from the trained policy's on average, "
            f"{self.largest_gap:.2g} at most"
        )


@dataclass(frozen=True)
class SavedPlayer:
    """A player of a run, after a check of its files."""

    config: Config
    role: Role
    number: int  # its round
    adapter: Path  # folder of its adapter
    base: Path  # folder of its base model

    @property
    def settings(self) -> PlayerConfig:
        """The player's section of the config."""
        return self.config.player(self.role)

    @cached_property
    def renderer(self) -> ChatRenderer:
        """The renderer of its prompts in training."""
        from magic_rl.engines.local.models import load_renderer

        return load_renderer(str(self.base), self.config.engine).given(self.settings.chat_template_kwargs)

    @cached_property
    def template(self) -> str:
        """A chat template that renders a user message by itself as the prompt that the player reads in training."""
        from magic_rl.runs.modelcheck import exported_template

        return exported_template(self.config, self.renderer, self.role)


def saved_player(run: RunDirectory, role: Role, number: int | None = None) -> SavedPlayer:
    """The player of a round, by default the last.

    Raises:
        UserError: If the run has saved no such player, files are damaged or not those of training, or a defender is
            asked for that is an attacker too.
    """
    config = load_config(run.path / "config.toml")
    compare_settings(run, config)
    if config.game.shared_parameters and role == "defender":
        raise UserError(
            f"{run.path}: attacker and defender share parameters (game.shared_parameters), so its defender is an "
            "attacker too, which never leaves a run; train two players instead"
        )
    saved = [saved_round for saved_round, _ in run.players(role)]
    chosen = saved[-1] if number is None and saved else number
    if chosen is None:
        raise StoreError(f"{run.path}: has saved no {role} yet", "resume", run=run.path)
    if chosen not in saved:
        raise UserError(f"{run.path}: has saved no {role} of round {chosen}; saved rounds: {saved}")
    adapter = run.player(role, chosen)

    from magic_rl.engines.local.models import fingerprint, resolve_model

    base = resolve_model(config.player(role).model, trust_remote_code=config.engine.trust_remote_code)
    compare(run, {f"{role}.model": fingerprint(base)})
    return SavedPlayer(config, role, chosen, adapter, base)


def write_beside_weights(player: SavedPlayer, out: Path, *, dtype: str = "") -> None:
    """Write all files of a model except its weights: the base's files, the player's template and stops.

    Args:
        dtype: Of the weights if it differs from the base's, else "".
    """
    from magic_rl.runs.export.files import complete, copy_files, write_template

    copy_files(player.base, out, code=player.config.engine.trust_remote_code)
    if player.template != player.renderer.own_template:
        write_template(out, player.template)
    complete(out, dtype=dtype, stops=player.renderer.stop_ids)


def write_model(player: SavedPlayer, out: Path, *, in_float32: bool = False) -> Stored:
    """Write a merged model, load it again and compare it.

    Raises:
        UserError: If the written model is not the trained one.
    """
    import torch

    from magic_rl.runs.export.weights import merge

    write_beside_weights(player, out, dtype="float32" if in_float32 else "")
    share = merge(player.base, player.adapter, out, torch.float32 if in_float32 else None)
    return _compared(player, out, share)


def _compared(player: SavedPlayer, written: Path, share: float) -> Stored:
    """How far the written model is from the trained policy, on prompts and replies of held-out requests.

    Both compute in float32 on the CPU, so that no rounding hides what the weights have lost.
    """
    import torch

    from magic_rl.engines.local.engine import LocalEngine
    from magic_rl.engines.local.models import load_renderer
    from magic_rl.runs.modelcheck import same_prompts, training_messages

    config, lora = player.config, player.settings.lora
    precise = config.engine.model_copy(update={"dtype": "float32", "device": "cpu", "processes": 1})
    requests = [seed.text for seed in _requests(config)]
    exported = load_renderer(str(written), precise)
    words = training_messages(config, player.role)
    asked = same_prompts(player.base, exported, words, player.renderer, requests)
    if [exported.prompt([Message("user", text)]) for text in requests] != asked:
        _log.warning("the %s's own prompt names control tokens; they were plain text to it in training", player.role)
    engine = LocalEngine(player.base, lora, precise)
    policy = engine.load(player.adapter, "trained")
    replies = policy.sample(asked, 1, SamplingParams(_TOKENS), rng_seed=0)
    sequences: list[tuple[Tokens, Tokens]] = [(sample.prompt, sample.tokens) for (sample,) in replies]
    trained = policy.logprobs(sequences)
    del engine, policy  # so that one model at a time is in memory
    loaded = LocalEngine(written, lora, precise).base().logprobs(sequences)
    gaps = torch.cat([(torch.tensor(one) - torch.tensor(two)).abs() for one, two in zip(trained, loaded, strict=True)])
    dtype = _dtype(written)
    stored = Stored(dtype, share, len(requests), gaps.mean().item(), gaps.max().item())
    if not stored.mean_gap <= _TOLERANCE[dtype]:  # true of NaN too
        raise UserError(f"{name_of(written)}: is not the model that was trained, so nothing was kept: {stored}")
    return stored


def _dtype(folder: Path) -> str:
    """The narrowest precision of a model's weights."""
    from safetensors import safe_open

    from magic_rl.engines.local.models import weight_files

    found: set[str] = set()
    for file in weight_files(folder):
        with safe_open(file, "pt") as stored:
            found.update(stored.get_slice(name).get_dtype() for name in stored.keys())
    return "bfloat16" if "BF16" in found else "float16" if "F16" in found else "float32"


def _requests(config: Config) -> Sequence[Seed]:
    """Some held-out requests of the run, or of the demo if its own can no longer be read."""
    try:
        held_out = split_of(config.data).held_out
    except UserError:
        held_out = split_of(type(config.data)()).held_out
    return held_out[:: max(1, len(held_out) // _COMPARED)][:_COMPARED]
