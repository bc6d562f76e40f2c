"""Estimates what a config will take on some devices: tokens, arithmetic, memory, time and money. Loads no model.

Most of it depends on the lengths of texts, which are not known in advance: a plan says which it assumes. The judge
and evaluation are not counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from magic_rl.config import Config
from magic_rl.errors import UserError
from magic_rl.files import digits
from magic_rl.prompts import Prompts, load_prompts
from magic_rl.runs.arithmetic import (
    Samplers,
    Samples,
    Shape,
    device,
    figures,
    sampling_flops,
    sampling_seconds,
    shape_of,
)
from magic_rl.types import Role, Seed

_CHARACTERS = 4  # per token of English
_SEED = "How do I get a stain out of a woollen carpet without a trace of it?"
_USUAL, _LONG = 400, 4  # largest mean length that is assumed, in tokens; longest text, in multiples of the mean
_TEMPLATE = 20  # tokens that a chat template puts around a message
_TRAINED, _DRAWN, _CHUNK = 16, 16, 256  # bytes per adapter parameter, per sampled logit; logits at a time
_ROLES: tuple[Role, ...] = ("attacker", "defender")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens of the texts."""

    attack: int  # of an attacker's output, thoughts included
    reply: int  # of a defender's output


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a player's step."""

    learner: Role  # the player whose step it is
    name: str  # what it does
    tokens: float  # tokens that go through a model
    flops: float  # floating-point operations
    seconds: float  # that it takes


@dataclass(frozen=True, slots=True)
class Plan:
    """The estimate for a config."""

    lengths: Lengths  # as assumed
    stages: tuple[Stage, ...]  # of one step of each player
    steps: dict[Role, int]  # of each player in the game
    supervised: float  # hours before the game
    hours: float  # in all
    memory: dict[str, tuple[float, float]]  # bytes by device, each with what the device has
    adapters: dict[Role, int]  # parameters of one player's adapter, by role
    rented: float  # dollars for the devices, if they can be rented
    # Dollars for the same tokens at a hosted Tinker API, and the model priced; None if none is of a similar size.
    hosted: tuple[float, str] | None
    notes: tuple[str, ...]  # what a user should know

    @property
    def bottleneck(self) -> Stage:
        """The stage that takes the most time in the run."""
        return max(self.stages, key=lambda stage: stage.seconds * self.steps[stage.learner])


def plan(
    config: Config, gpus: str = "1xH100", attack_tokens: int | None = None, reply_tokens: int | None = None
) -> Plan:
    """Estimate what training takes.

    Args:
        config: Every setting.
        gpus: How many of which device, such as "8xH100".
        attack_tokens: Mean tokens of an attacker's output; None: half its limit, or 400 if that is less.
        reply_tokens: Likewise of a reply.

    Raises:
        UserError: If a device or a model's shape is not known.
    """
    found = re.fullmatch(r"(?:(\d+) ?x ?)?([A-Za-z][\w-]*)", gpus.strip(), re.IGNORECASE)
    if not found or found[1] == "0":
        raise UserError(f"{gpus}: expected a number of devices and their name, such as 8xH100")
    gpu, count, notes = device(found[2]), int(found[1] or 1), []
    engines, devices = config.engine.servers
    samplers = Samplers(gpu, engines or 1, devices or 1, config.engine.rows_per_batch, eager=not engines)
    used = 1 + engines * devices  # one learns
    if used > count:
        notes.append(f"training uses {used} devices, and there are {count}")
    elif used < count:
        notes.append(
            f"training uses {used} of {count} devices; one learns, the others sample, and a judge may take more"
        )
    roles = config.roles
    shapes: dict[Role, Shape] = {role: shape_of(config.player(role).model) for role in roles}
    lengths = Lengths(
        attack_tokens or min(_USUAL, config.attacker.sampling.max_tokens // 2),
        reply_tokens or min(_USUAL, config.defender.sampling.max_tokens // 2),
    )
    bounds = config.game.schedule
    steps: dict[Role, int] = {"attacker": bounds.rounds * bounds.attacker_steps}
    steps["defender"] = bounds.rounds * bounds.defender_steps
    prompts = load_prompts(config.game.prompts)
    game = _Game(config, shapes, lengths, samplers, prompts)
    stages = tuple(stage for role in roles if steps[role] for stage in game.step(role))
    supervised = sum(game.supervised(role) for role in roles) / 3600
    hours = supervised + sum(stage.seconds * steps[stage.learner] for stage in stages) / 3600
    memory, adapters = _memory(config, shapes, lengths, samplers)
    for what, (needed, have) in memory.items():
        if needed > have:
            notes.append(f"the device that {what} needs {digits(needed / 1e9)} GB and has {digits(have / 1e9)}")
    return Plan(
        lengths=lengths,
        stages=stages,
        steps=steps,
        supervised=supervised,
        hours=hours,
        memory=memory,
        adapters=adapters,
        rented=hours * used * gpu.dollars,
        hosted=game.hosted(steps),
        notes=tuple(notes),
    )


class _Game:
    """The work of a config's steps."""

    def __init__(
        self, config: Config, shapes: dict[Role, Shape], lengths: Lengths, samplers: Samplers, prompts: Prompts
    ) -> None:
        self._config, self._shapes, self._lengths, self._samplers = config, shapes, lengths, samplers
        seed = Seed("", _SEED, "harmful")
        asked = len(prompts.attacker_system + prompts.attacker(seed)) / _CHARACTERS
        told = len(prompts.defender("")) + len(config.defender.system_prompt or "")
        # Thoughts, which the defender never sees, are about half of the attacker's output.
        self._prompt: dict[Role, float] = {
            "attacker": asked + 2 * _TEMPLATE,
            "defender": told / _CHARACTERS + lengths.attack / 2 + 2 * _TEMPLATE,
        }

    def step(self, learner: Role) -> list[Stage]:
        """One step of a player."""
        config = self._config
        stages = []
        for speaker in self._shapes:
            samples = self._samples(learner, speaker)
            shape = self._shapes[speaker]
            seconds = sampling_seconds(samples, shape, self._samplers)
            tokens = samples.tokens + samples.prompts * samples.prompt
            name = "sample attacks" if speaker == "attacker" else "sample replies"
            stages.append(Stage(learner, name, tokens, sampling_flops(samples, shape), seconds))
        tokens, forward = self._learned(learner)
        gpu, learning = self._samplers.gpu, config.learning
        again = 1 if config.engine.recompute_above else 0
        rescored = (config.engine.sampler != "local" and learning.correction != "none") + (learning.kl_coef > 0)
        for name, times in (("learn", (2 + again) * learning.epochs), ("score again", int(rescored))):
            if times:
                # With a frozen base only activations have gradients, so the backward pass costs as much as the forward.
                flops = times * forward
                stages.append(Stage(learner, name, times * tokens, flops, flops / (gpu.flops * gpu.learn)))
        return stages

    def _samples(self, learner: Role, speaker: Role) -> Samples:
        """What one player samples in a step of its own or of the other player."""
        config, player = self._config, self._config.player(speaker)
        seeds, group, turns = config.player(learner).batch_size, config.learning.group_size, config.game.turns
        mean = self._lengths.attack if speaker == "attacker" else self._lengths.reply
        longest = min(player.sampling.max_tokens, _LONG * mean)
        own = learner == speaker
        first = seeds * group if own or speaker == "defender" else seeds * (1 - config.game.plain_share)
        prompts = seeds if own or speaker == "attacker" else seeds * group
        # From the second turn on, each sample has its own conversation, longer by what was said.
        said = (turns - 1) * (self._lengths.attack / 2 + self._lengths.reply) / 2
        later = (turns - 1) * seeds * group
        return Samples(prompts + later, self._prompt[speaker] + said, first + later, mean, longest, rounds=turns)

    def _learned(self, learner: Role) -> tuple[float, float]:
        """Tokens that are learned from, and operations of a forward pass over them, with each group's prompt once."""
        said = self._samples(learner, learner)
        shape = self._shapes[learner]
        tokens = said.prompts * said.prompt + said.tokens
        read = shape.forward(said.prompts * said.prompt, said.prompt / 2, 0)
        return tokens, read + shape.forward(said.tokens, said.prompt + said.mean / 2, said.tokens)

    def supervised(self, role: Role) -> float:
        """Seconds of a player's supervised stage."""
        stage, shape, gpu = self._config.player(role).sft, self._shapes[role], self._samplers.gpu
        mean = self._lengths.attack if role == "attacker" else self._lengths.reply
        examples = stage.steps * stage.batch_size
        flops = 2 * shape.forward(examples * (self._prompt[role] + mean), self._prompt[role], examples * mean)
        return flops / (gpu.flops * gpu.learn)

    def hosted(self, steps: dict[Role, int]) -> tuple[float, str] | None:
        """Dollars at a hosted Tinker API, which computes a prompt again for each sample that is learned from."""
        prices = figures()["hosted"]
        total, used = 0.0, ""
        for learner in self._shapes:
            for speaker, shape in self._shapes.items():
                sizes = {name: shape_of(name).body / shape.body for name in prices}
                used = min(sizes, key=lambda name: abs(sizes[name] - 1))
                if not 0.5 <= sizes[used] <= 2:
                    return None
                price, said = prices[used], self._samples(learner, speaker)
                dollars = said.prompts * said.prompt * price["prefill"] + said.tokens * price["sample"]
                if speaker == learner:
                    dollars += self._config.learning.epochs * said.rows * (said.prompt + said.mean) * price["train"]
                total += steps[learner] * dollars / 1e6
        return total, used


def _memory(
    config: Config, shapes: dict[Role, Shape], lengths: Lengths, samplers: Samplers
) -> tuple[dict[str, tuple[float, float]], dict[Role, int]]:
    """Bytes on the device that learns and on each that samples, and the size of adapters."""
    engine = config.engine
    adapters: dict[Role, int] = {}
    for role, shape in shapes.items():
        lora = config.player(role).lora
        named = (
            shape.linear
            if lora.target_modules == "all-linear"
            else {name: sizes for name, sizes in shape.linear.items() if name in lora.target_modules}
        )
        adapters[role] = lora.rank * shape.layers * sum(a + b for a, b in named.values())
    models = {config.player(role).model: shape for role, shape in shapes.items()}
    weights = float(sum(shape.weights for shape in models.values()))
    learners = {"shared": adapters["defender"]} if config.game.shared_parameters else adapters
    tokens = engine.tokens_per_batch or (1280 if samplers.gpu.name == "CPU" else 8192)
    kept = max(_activations(shape, tokens, engine.recompute_above) for shape in models.values())
    logits = max(_CHUNK * shape.vocabulary * 6 for shape in models.values())
    learning = weights + _TRAINED * sum(learners.values()) + kept + logits
    rows = min(
        engine.rows_per_batch, max(config.player(role).batch_size for role in shapes) * config.learning.group_size
    )
    cache = max(rows * (lengths.attack + lengths.reply) * shape.cached for shape in models.values())
    drawn = max(rows * shape.vocabulary * _DRAWN for shape in models.values())
    have = samplers.gpu.memory
    if engine.sampler == "local":
        return {"learns and samples": (max(learning, weights + cache + drawn), have)}, adapters
    sampling = (weights + cache + drawn) / samplers.devices
    if not engine.servers[1]:
        return {"learns beside a server": (learning + sampling, have)}, adapters
    return {"learns": (learning, have), "samples": (sampling, have)}, adapters


def _activations(shape: Shape, tokens: int, above: int | None) -> float:
    """Bytes kept for the backward pass, as `footprint` counts them."""
    linear = sum(a + b for a, b in shape.linear.values())
    layer = 2 * linear + 4 * (2 * shape.hidden + 2 * (shape.queries + 2 * shape.keys))
    whole = tokens * shape.layers * layer
    return tokens * (layer + shape.layers * shape.hidden * 2) if above is not None and above < tokens else whole
