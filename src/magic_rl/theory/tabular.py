"""A game small enough to solve exactly: a few seeds, attacks and replies, played by softmax tables.

The tables implement the engine's protocol, so the same code that trains language models plays this game too, and its
result can be compared with the equilibrium (`theory.equilibrium`). A prompt is one id (the seed or attack that the
player sees) and a completion is one id (what the player says).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from magic_rl.engines.base import ComputePath
from magic_rl.engines.losses import take_step, weighted_loss
from magic_rl.errors import UserError
from magic_rl.rng import uniforms
from magic_rl.text.think import Spoken, parse_attack
from magic_rl.types import (
    Adam,
    Datum,
    Exchange,
    Label,
    Loss,
    Message,
    Role,
    Sample,
    SamplingParams,
    Seed,
    Tokens,
    Verdict,
)

FILE = "table.safetensors"

Flags = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TabularGame:
    """Rules of a single-turn game with X seeds, A attacks and Y replies (METHOD §1).

    Verdicts depend only on the attack and the reply, as the defender sees only the attack. If two seeds with different
    labels share an attack, it is ambiguous: no reply to it is right for both.

    Attributes:
        seeds: The X seeds.
        attacks: The A texts that the defender may see.
        replies: The Y texts that it can say.
        usable: Which attacks the attacker may make of each seed, shape (X, A).
        safe: Whether a reply to an attack is safe, shape (A, Y).
        refused: Whether it refuses, shape (A, Y).
        labels: The judge's label of each attack, length A.
    """

    seeds: tuple[Seed, ...]
    attacks: tuple[str, ...]
    replies: tuple[str, ...]
    usable: Flags
    safe: Flags
    refused: Flags
    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for rules that cannot be played."""
        x, a, y = len(self.seeds), len(self.attacks), len(self.replies)
        for name, shape in (("usable", (x, a)), ("safe", (a, y)), ("refused", (a, y))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {getattr(self, name).shape}")
        if len(self.labels) != a:
            raise ValueError(f"labels: expected {a}, got {len(self.labels)}")
        if not (self.usable.any(axis=1).all() and self.usable.any(axis=0).all()):
            raise ValueError("usable: every seed needs an attack and every attack a seed")
        for texts in ([seed.text for seed in self.seeds], self.attacks, self.replies):
            if len(set(texts)) != len(texts) or not all(texts):
                raise ValueError(f"texts must be distinct and not empty: {texts}")
        for text, completion in zip(self.attacks * 2, self.completions, strict=True):
            if parse_attack(completion).answer != text:
                raise ValueError(f"attack {text!r} is not read back unchanged from the attacker's format")

    @cached_property
    def completions(self) -> tuple[str, ...]:
        """The attacker's 2A moves: each attack in the required format, then each without it."""
        return (*(f"<think>I make it so.</think><answer>{text}</answer>" for text in self.attacks), *self.attacks)

    @cached_property
    def moves(self) -> Flags:
        """Which moves the attacker has at each seed, shape (X, 2A)."""
        return np.tile(self.usable, (1, 2))

    def verdict(self, attack: int, reply: int) -> Verdict:
        """The exact labels of a reply to an attack, both by index."""
        return Verdict(
            safety="safe" if self.safe[attack, reply] else "unsafe",
            refused=bool(self.refused[attack, reply]),
            request_label=self.labels[attack],
            on_topic=True,
        )


class TabularJudge:
    """The game's own judge, which is never wrong. Implements `judges.base.Judge`."""

    name = "tabular"

    def __init__(self, game: TabularGame) -> None:
        """Args: game: The rules that it judges by."""
        self._game = game

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """See `Judge.judge`. Abstains on texts that are not in the game."""
        return [self._verdict(exchange) for exchange in exchanges]

    def _verdict(self, exchange: Exchange) -> Verdict:
        attacks, replies = self._game.attacks, self._game.replies
        if exchange.attack not in attacks or exchange.reply not in replies:
            return Verdict(abstained="the exchange is not of this game")
        return self._game.verdict(attacks.index(exchange.attack), replies.index(exchange.reply))


class TabularRenderer:
    """Renders what a player reads as one id, and what it says as one id. Implements `text.renderer.Renderer`."""

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Args: inputs: Texts of ids 0, 1, …. outputs: Texts of the ids that follow."""
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)

    def prompt(self, messages: Sequence[Message]) -> Tokens:
        """The id of the longest known text that the last user message contains.

        Raises:
            ValueError: If it contains none.
        """
        content = next(m.content for m in reversed(messages) if m.role == "user")
        known = [i for i, text in enumerate(self._inputs) if text in content]
        if not known:
            raise ValueError(f"nothing of this game is in {content!r}")
        return (max(known, key=lambda i: len(self._inputs[i])),)

    def completion(self, text: str, *, tagged: bool = False) -> Tokens:  # noqa: ARG002 - an output is one id
        """The id of a known output. It ends the turn too.

        Raises:
            ValueError: If the game has no such output.
        """
        if text not in self._outputs:
            raise ValueError(f"no player of this game can say {text!r}")
        return (len(self._inputs) + self._outputs.index(text),)

    def prefill(self, text: str) -> Tokens:
        """Raises ValueError: an output is one id, so it cannot be prefilled."""
        raise ValueError(f"an output of this game cannot begin with {text!r}")

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of sampled ids."""
        return "".join(self._outputs[token - len(self._inputs)] for token in tokens)

    def spoken(self, tokens: Sequence[int]) -> Spoken:
        """The text of sampled ids, without thoughts: a table does not reason."""
        return Spoken("", self.decode(tokens), ended=True)


class TabularEngine:
    """Makes softmax tables for one role of a game. Implements `engines.base.Engine`."""

    path = ComputePath("exact")

    def __init__(self, game: TabularGame, role: Role) -> None:
        """Args: role: The attacker reads seeds and says moves; the defender reads attacks and says replies."""
        if role == "attacker":
            inputs, outputs, allowed = [seed.text for seed in game.seeds], game.completions, game.moves
        else:
            inputs, outputs = list(game.attacks), game.replies
            allowed = np.ones((len(inputs), len(outputs)), dtype=np.bool_)
        self.renderer = TabularRenderer(inputs, outputs)
        self._allowed = torch.from_numpy(allowed)
        self._digest = hashlib.sha256(repr((role, inputs, outputs, allowed.tolist())).encode()).hexdigest()
        self.identity = self._digest[:16]

    def renderer_with(self, variables: Mapping[str, object]) -> TabularRenderer:  # noqa: ARG002 - there is no template
        """See `Engine.renderer_with`."""
        return self.renderer

    def new_policy(self, name: str) -> TabularPolicy:
        """A trainable table that starts uniform."""
        return TabularPolicy(name, self._allowed, self._uniform(), self._digest, {})

    def base(self) -> TabularPolicy:
        """The uniform table, read-only."""
        return TabularPolicy("base", self._allowed, self._uniform(), self._digest)

    def load(self, directory: Path, name: str) -> TabularPolicy:
        """A trainable table from a folder that `TabularPolicy.save` wrote, optimiser state included."""
        try:
            with safe_open(directory / FILE, framework="pt") as file:
                if (file.metadata() or {}).get("game") != self._digest:
                    raise UserError(f"{directory}: holds the policy of another game or role; give one of this game")
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (OSError, SafetensorError) as error:
            raise UserError(f"{directory}: holds no policy of a tabular game ({error}); give a saved one") from error
        return TabularPolicy(name, self._allowed, tensors.pop("logits"), self._digest, tensors)

    def _uniform(self) -> Tensor:
        return torch.zeros(self._allowed.shape, dtype=torch.float64)


class TabularPolicy:
    """A table of logits, a row for each input and a column for each output. Implements `engines.base.Policy`."""

    def __init__(
        self, name: str, allowed: Tensor, logits: Tensor, digest: str, state: dict[str, Tensor] | None = None
    ) -> None:
        """Args: allowed: Which outputs each input has. logits: Float64, same shape. state: Of the optimiser, empty at
        first; None for a read-only policy.
        """
        self.name = name
        self._allowed, self._digest = allowed, digest
        self._logits = nn.Parameter(logits, requires_grad=state is not None)
        self._optimiser = torch.optim.AdamW([self._logits]) if state is not None else None
        if self._optimiser is not None and state:
            self._optimiser.state[self._logits] = state

    def probabilities(self) -> Array:
        """π(output | input), exactly, shape (inputs, outputs)."""
        with torch.no_grad():
            return self._table().exp().numpy()

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        """See `Policy.sample`. Greedy choices carry the log-probability at temperature 1."""
        with torch.no_grad():
            table = self._table(params.temperature or 1.0).numpy()
        draws = uniforms(rng_seed, len(prompts) * n, 1).reshape(len(prompts), n)
        return [
            [self._draw(prompt, table[prompt[0]], params, draw) for draw in row]
            for prompt, row in zip(prompts, draws, strict=True)
        ]

    def logprobs(self, sequences: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, ...]]:
        """See `Policy.logprobs`."""
        with torch.no_grad():
            return [(value,) for value in self._logprobs(sequences).tolist()]

    def forward_backward(self, datums: Sequence[Datum], loss: Loss) -> dict[str, float]:
        """See `Policy.forward_backward`. Metrics are means over tokens; `loss` is the weighted sum."""
        self._require_optimiser()
        if not datums:
            return {"loss": 0.0}
        logprobs = self._logprobs([(datum.prompt, datum.tokens) for datum in datums])
        total, metrics = weighted_loss(loss, datums, logprobs)
        torch.autograd.backward(total)
        return metrics

    def optim_step(self, adam: Adam) -> dict[str, float]:
        """See `Policy.optim_step`."""
        return take_step(self._require_optimiser(), [self._logits], adam)

    def save(self, directory: Path) -> None:
        """See `Policy.save`."""
        state = self._optimiser.state[self._logits] if self._optimiser else {}
        save_file({"logits": self._logits.detach(), **state}, directory / FILE, metadata={"game": self._digest})

    def snapshot(self, name: str) -> TabularPolicy:
        """See `Policy.snapshot`."""
        return TabularPolicy(name, self._allowed, self._logits.detach().clone(), self._digest)

    def _table(self, temperature: float = 1.0) -> Tensor:
        """log π(output | input), shape (inputs, outputs); -inf where an input lacks an output."""
        return torch.log_softmax((self._logits / temperature).masked_fill(~self._allowed, -torch.inf), dim=-1)

    def _logprobs(self, sequences: Sequence[tuple[Tokens, Tokens]]) -> Tensor:
        """log π of each sequence's only token, shape (N,)."""
        if any(len(prompt) != 1 or len(tokens) != 1 for prompt, tokens in sequences):
            raise ValueError("a sequence of a tabular game is one id read and one id said")
        rows = torch.tensor([prompt[0] for prompt, _ in sequences], dtype=torch.long)
        columns = torch.tensor([tokens[0] for _, tokens in sequences], dtype=torch.long) - len(self._allowed)
        return self._table()[rows, columns]

    def _draw(self, prompt: Tokens, logprobs: Array, params: SamplingParams, draw: float) -> Sample:
        """One sample by inverting the cumulative distribution at `draw`, uniform in [0, 1)."""
        if params.temperature == 0:
            column, logprob = int(logprobs.argmax()), float(logprobs.max())
        else:
            p = _nucleus(np.exp(logprobs), params.top_p)
            cumulative = p.cumsum()
            column = int(np.searchsorted(cumulative / cumulative[-1], draw, side="right"))
            logprob = float(np.log(p[column]))
        return Sample(prompt, (len(self._allowed) + column,), (logprob,), "stop")

    def _require_optimiser(self) -> torch.optim.AdamW:
        if self._optimiser is None:
            raise RuntimeError(f"policy {self.name!r} is read-only")
        return self._optimiser


def _nucleus(p: Array, top_p: float) -> Array:
    """Renormalised probabilities of the smallest set of outputs whose mass reaches `top_p`."""
    if top_p >= 1:
        return p
    order = np.argsort(-p, kind="stable")
    before = p[order].cumsum() - p[order]
    kept = np.zeros_like(p)
    kept[order] = np.where(before < top_p, p[order], 0.0)
    return np.asarray(kept / kept.sum())
