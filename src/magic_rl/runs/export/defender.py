"""The defender of a run as a folder: its adapter added to the base's weights, or the adapter alone.

Only a defender can be exported. A trained attacker is a tool for breaking models and stays in its run directory.
A model folder is loaded and compared with the trained policy before it appears under its name.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from magic_rl.config import Config, load_config
from magic_rl.errors import StoreError, UserError
from magic_rl.evaluation.result import current_evaluation
from magic_rl.runs.export.card import Stored, model_card, public_name
from magic_rl.runs.inputs import begun_with, compare, compare_settings
from magic_rl.runs.seeds import split_of
from magic_rl.store import atomic
from magic_rl.store.run import RunDirectory
from magic_rl.types import Message, Role, SamplingParams, Seed, Tokens

if TYPE_CHECKING:
    from magic_rl.text.chat import ChatRenderer

Form = Literal["base", "float32", "adapter"]

_log = logging.getLogger(__name__)
_COMPARED, _TOKENS = 8, 32  # held-out requests, and tokens of each reply
# Nats by which log-probabilities of replies may differ on average: weights rounded, all else in float32.
_TOLERANCE = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}


@dataclass(frozen=True, slots=True)
class _Defender:
    """What is exported, and where its parts are."""

    config: Config
    number: int
    adapter: Path
    base: Path


def export_defender(
    run: RunDirectory, out: Path, *, number: int | None = None, role: Role = "defender", form: Form = "base"
) -> Path:
    """Write a saved defender with all that is needed to use it, and a card. The folder appears whole or not at all.

    Args:
        out: New folder.
        number: Round whose defender is exported; None is the last.
        role: Only "defender".
        form: Merged into the base's weights and stored in their precision, or in float32; or the adapter alone, as PEFT
            reads it.

    Returns:
        The folder.

    Raises:
        UserError: If `out` exists or cannot be written, the run has saved no such defender, what is asked for is, or
            holds, an attacker, or the written model is not the trained one.
    """
    if role != "defender":
        raise UserError(f"role {role!r}: only the defender is exported; a trained attacker stays in its run directory")
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: already exists; choose another folder")
    chosen = _chosen(run, number)

    from safetensors import SafetensorError

    from magic_rl.engines.local.models import load_renderer
    from magic_rl.runs.modelcheck import exported_template

    renderer = load_renderer(str(chosen.base), chosen.config.engine).given(chosen.config.defender.chat_template_kwargs)
    template = exported_template(chosen.config, renderer)
    with atomic.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic.new_directory(out) as aside:
            stored = None
            if form == "adapter":
                _write_adapter(chosen, aside, template, renderer)
            else:
                stored = _write_model(chosen, aside, template, renderer, in_float32=form == "float32")
                _log.info("%s", stored)
            evaluation, checked = current_evaluation(run), begun_with(run)["checked"]
            card = model_card(chosen.config, chosen.base, chosen.number, evaluation, checked, stored=stored)
            (aside / "README.md").write_text(card, encoding="utf-8")
            for path in sorted(aside.rglob("*")):
                atomic.sync(path)
            atomic.sync(aside)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise UserError(f"{out}: cannot be written ({error}); check free space") from error
    return out


def _chosen(run: RunDirectory, number: int | None) -> _Defender:
    """The defender of a round, its files checked."""
    config = load_config(run.path / "config.toml")
    compare_settings(run, config)
    if config.game.shared_parameters:
        raise UserError(
            f"{run.path}: attacker and defender share parameters (game.shared_parameters), so its defender is an "
            "attacker too, which is never exported; train two players instead"
        )
    saved = [saved_round for saved_round, _ in run.players("defender")]
    chosen = saved[-1] if number is None and saved else number
    if chosen is None:
        raise StoreError(f"{run.path}: has saved no defender yet", "resume", run=run.path)
    if chosen not in saved:
        raise UserError(f"{run.path}: has saved no defender of round {chosen}; saved rounds: {saved}")
    adapter = run.player("defender", chosen)

    from magic_rl.engines.local.models import fingerprint, resolve_model

    base = resolve_model(config.defender.model, trust_remote_code=config.engine.trust_remote_code)
    compare(run, {"defender.model": fingerprint(base)})
    return _Defender(config, chosen, adapter, base)


def _write_adapter(chosen: _Defender, out: Path, template: str, renderer: ChatRenderer) -> None:
    """The adapter as it was saved, and the chat template if it is not the base's own."""
    shutil.copyfile(chosen.adapter / "adapter_model.safetensors", out / "adapter_model.safetensors")
    settings = json.loads((chosen.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = public_name(chosen.config.defender, chosen.base)
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if template != renderer.own_template:
        (out / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write_model(chosen: _Defender, out: Path, template: str, renderer: ChatRenderer, *, in_float32: bool) -> Stored:
    """A merged model, loaded again and compared."""
    import torch

    from magic_rl.runs.export.files import complete, copy_files, write_template
    from magic_rl.runs.export.weights import merge

    copy_files(chosen.base, out, code=chosen.config.engine.trust_remote_code)
    if template != renderer.own_template:
        write_template(out, template)
    complete(out, dtype="float32" if in_float32 else "", stops=renderer.stop_ids)
    share = merge(chosen.base, chosen.adapter, out, torch.float32 if in_float32 else None)
    return _compared(chosen, out, renderer, share)


def _compared(chosen: _Defender, written: Path, renderer: ChatRenderer, share: float) -> Stored:
    """How far the written model is from the trained policy, on prompts and replies of held-out requests.

    Both compute in float32 on the CPU, so that no rounding hides what the weights have lost.
    """
    import torch

    from magic_rl.engines.local.engine import LocalEngine
    from magic_rl.engines.local.models import load_renderer
    from magic_rl.runs.modelcheck import same_prompts

    config = chosen.config
    precise = config.engine.model_copy(update={"dtype": "float32", "device": "cpu"})
    requests = [seed.text for seed in _requests(config)]
    exported = load_renderer(str(written), precise)
    asked = same_prompts(chosen.base, exported, config, renderer, requests)
    if [exported.prompt([Message("user", text)]) for text in requests] != asked:
        _log.warning("the defender's own prompt names control tokens; they were plain text to it in training")
    engine = LocalEngine(chosen.base, config.defender.lora, precise)
    policy = engine.load(chosen.adapter, "trained")
    replies = policy.sample(asked, 1, SamplingParams(_TOKENS), rng_seed=0)
    sequences: list[tuple[Tokens, Tokens]] = [(sample.prompt, sample.tokens) for (sample,) in replies]
    trained = policy.logprobs(sequences)
    del engine, policy  # so that one model at a time is in memory
    loaded = LocalEngine(written, config.defender.lora, precise).base().logprobs(sequences)
    gaps = torch.cat([(torch.tensor(one) - torch.tensor(two)).abs() for one, two in zip(trained, loaded, strict=True)])
    dtype = _dtype(written)
    stored = Stored(dtype, share, len(requests), gaps.mean().item(), gaps.max().item())
    if not stored.mean_gap <= _TOLERANCE[dtype]:  # NaN is not
        raise UserError(f"{written.name}: is not the model that was trained, so nothing was kept: {stored}")
    return stored


def _dtype(folder: Path) -> str:
    """The narrowest precision of a model's weights."""
    from safetensors import safe_open

    from magic_rl.engines.local.models import weight_files

    found: set[str] = set()
    for file in weight_files(folder):
        with safe_open(file, "pt") as stored:
            found.update(stored.get_slice(name).get_dtype() for name in stored.keys())  # noqa: SIM118
    return "bfloat16" if "BF16" in found else "float16" if "F16" in found else "float32"


def _requests(config: Config) -> Sequence[Seed]:
    """Some held-out requests of the run, or of the demo where its own are not at hand any more."""
    try:
        held_out = split_of(config.data).held_out
    except UserError:
        held_out = split_of(type(config.data)()).held_out
    return held_out[:: max(1, len(held_out) // _COMPARED)][:_COMPARED]
