"""Everything that passes between two stages of MAGIC, as plain frozen dataclasses.

Data moves one way (seeds, attacks, replies, verdicts, rewards, advantages, datums, update) and each
arrow carries one of the types below. This module imports nothing of ours, touches no file and needs no torch.

Letters in docstrings and in the shapes of arrays:
`P` seeds in a batch, `G` samples in a group, `T` turns of a conversation, `L` tokens, `N` flat episodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Label = Literal["harmful", "benign"]
Role = Literal["attacker", "defender"]
Speaker = Literal["system", "user", "assistant"]
Finish = Literal["stop", "length"]
Limit = Literal["max_tokens", "max_prompt_tokens"]
Safety = Literal["safe", "controversial", "unsafe"]
Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Seed:
    """A vanilla request and what it asks for (METHOD.md §1).

    Attributes:
        id: Unique within a data set; stable across runs.
        text: The request in plain words.
        label: Whether the request is harmful or benign.
        category: Hazard category; the held-out split is made by it.
    """

    id: str
    text: str
    label: Label
    category: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. `content` is always data, never template control."""

    role: Speaker
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What a policy produced for one prompt, as the exact ids it sampled.

    Attributes:
        prompt: Ids the policy was conditioned on.
        tokens: Sampled ids, the end-of-turn id included when `finish` is "stop". Length L.
        logprobs: log π_old of each sampled token under the sampling distribution, in nats. Length L.
        finish: "stop" if an end-of-turn id was sampled, "length" if the limit cut the sample off. A reply
            whose reasoning never ended counts as cut off too.
    """

    prompt: Tokens
    tokens: Tokens
    logprobs: tuple[float, ...]
    finish: Finish


@dataclass(frozen=True, slots=True)
class Turn:
    """One attack and the reply to it.

    Attributes:
        attack: All that the defender is shown of the attacker's output.
        thinking: The attacker's reasoning. No prompt of the defender ever contains it.
        well_formed: Whether the attacker's output had the required format (METHOD.md §4, R_fmt).
        attack_sample: The attacker's sampled ids; None when the seed is played without a rewrite.
        reply: What the judge is shown.
        reply_sample: The defender's sampled ids; None while the turn is open or when its attack was cut off.
        reply_well_formed: R_fmt of the defender, for defenders that are asked to think first.
        reply_thinking: The defender's reasoning. Neither a judge nor the attacker is ever shown it.
    """

    attack: str
    thinking: str
    well_formed: bool
    attack_sample: Sample | None
    reply: str
    reply_sample: Sample | None
    reply_well_formed: bool = True
    reply_thinking: str = ""


@dataclass(frozen=True, slots=True)
class Episode:
    """One play of the game from one seed.

    Attributes:
        seed: The request the game started from.
        turns: The conversation so far, T turns, judged on the last.
        group: Index of the group of G episodes that share one input (METHOD.md §3).
    """

    seed: Seed
    turns: tuple[Turn, ...]
    group: int

    @property
    def attack(self) -> str:
        """The attack of the last turn."""
        return self.turns[-1].attack

    @property
    def reply(self) -> str:
        """The reply of the last turn, the one that is judged."""
        return self.turns[-1].reply

    @property
    def cut_off(self) -> Role | None:
        """The player whose output hit a length limit; None if neither did."""
        return self.limit_reached[0] if self.limit_reached else None

    @property
    def limit_reached(self) -> tuple[Role, Limit] | None:
        """The player and the length limit that it hit. A prompt that is too long gets a sample without tokens."""
        for turn in self.turns:
            said: tuple[tuple[Role, Sample | None], ...] = (
                ("attacker", turn.attack_sample),
                ("defender", turn.reply_sample),
            )
            for role, sample in said:
                if sample is not None and sample.finish == "length":
                    return role, "max_tokens" if sample.tokens else "max_prompt_tokens"
        return None


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a judge is shown: the seed, the attack as the defender saw it, and the reply."""

    seed: Seed
    attack: str
    reply: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's labels for one exchange (METHOD.md §4).

    Attributes:
        safety: Label of the reply.
        refused: Whether the reply refuses; None if the judge does not label that, which the game accepts only
            from members of a panel.
        request_label: Label of what the attack asks for; None if the judge does not label requests.
        on_topic: Whether the reply is about what the seed asks; None if not judged.
        quality: How helpful the reply is, 0-1; None if not judged.
        met: How far the reply gives what the seed asks, 0-1; None if not judged.
        categories: Hazards the judge names, in its own words.
        abstained: Why the judge gave no label; None when it did. The other fields mean nothing then.
    """

    safety: Safety = "safe"
    refused: bool | None = False
    request_label: Label | None = None
    on_topic: bool | None = None
    abstained: str | None = None
    quality: float | None = None
    categories: tuple[str, ...] = ()
    met: float | None = None


@dataclass(frozen=True, slots=True)
class Rewards:
    """The terms of METHOD.md §4 for one episode, and their sums for each player.

    Attributes:
        quality: Helpfulness of a reply to a benign seed; the defender's alone.
        length: What a long reply costs, 0 or less; the defender's alone.
    """

    harm: float
    refusal: float
    format: float
    label: float
    defender: float
    attacker: float
    quality: float = 0.0
    length: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """An episode with its verdict and rewards. `rewards` is None exactly when `masked` says why.

    Attributes:
        masked: "cut_off" (length limit) or "abstained" (judge); such an episode enters no loss.
    """

    episode: Episode
    verdict: Verdict | None
    rewards: Rewards | None
    masked: Literal["cut_off", "abstained"] | None = None


@dataclass(frozen=True, slots=True)
class Datum:
    """One sequence to learn from: `prompt` is context, `tokens` carry the loss.

    Attributes:
        prompt: Context ids.
        tokens: Ids whose log-probability is trained. Length L.
        weight: Factor of the sequence's *summed* token loss. A loss is a plain sum over datums, so the
            reduction (mean over sequences or tokens) lives here and is invariant to micro-batching.
        advantages: A of each token. Length L; empty for cross-entropy.
        logprobs: log π_old of `tokens` as returned by `sample`. Length L; empty for cross-entropy.
        group: Index of the group it comes from; datums of a group stay together in a minibatch.
    """

    prompt: Tokens
    tokens: Tokens
    weight: float = 1.0
    advantages: tuple[float, ...] = ()
    logprobs: tuple[float, ...] = ()
    group: int = 0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to draw tokens. Temperature 0 is greedy; logprobs are those of the distribution drawn from.

    Attributes:
        ignore_stop: Sample up to `max_tokens` no matter what is drawn; for timing.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    ignore_stop: bool = False


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Negative log-likelihood, for SFT (METHOD.md §2)."""


@dataclass(frozen=True, slots=True)
class PPO:
    """Clipped surrogate on ρ = π_θ/π_old (METHOD.md §3). GRPO with group advantages."""

    clip_low: float = 0.2
    clip_high: float = 0.2


@dataclass(frozen=True, slots=True)
class ImportanceSampling:
    """Unclipped ρ · A."""


Loss = CrossEntropy | PPO | ImportanceSampling


@dataclass(frozen=True, slots=True)
class Adam:
    """One AdamW step. `lr` is the value for this step; schedules are the caller's."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
