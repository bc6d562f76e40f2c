"""Playing the game: seeds become episodes (METHOD §1, §5).

Both moves have the same shape: they take a list of episodes and return a list at least as long. So a game of T turns
is `attack, reply, attack, reply, …`, and an evaluation can show one attack to many defenders.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from magic_rl.prompts import Prompts, load_prompts
from magic_rl.rng import derive
from magic_rl.text.renderer import Arrived, PromptRenderer, SamplingPolicy, StreamingPolicy
from magic_rl.text.think import parse_attack
from magic_rl.types import Episode, Message, Role, Sample, SamplingParams, Seed, Turn

_Player = TypeVar("_Player", bound="Player | None")
OnEnded = Callable[[Sequence[Episode]], None]


@dataclass(frozen=True, slots=True)
class Player:
    """A policy in a role.

    Attributes:
        max_prompt: Longest prompt in tokens. A conversation that outgrows it counts as cut off.
        system: Defender only: system prompt in place of the model's default; "" keeps the default.
        thinks: Defender only: it is asked to think first, and only its answer is shown (defender-cot).
        prompts: Prompts of the roles.
    """

    policy: SamplingPolicy
    renderer: PromptRenderer
    sampling: SamplingParams
    max_prompt: int = 8192
    system: str = ""
    thinks: bool = False
    prompts: Prompts = field(default_factory=load_prompts)


@dataclass(frozen=True, slots=True)
class Players:
    """Who plays.

    Attributes:
        attacker: None plays the seeds as they are.
        opponents: The P players that replace the one that does not learn, one per seed; empty: that one plays all
            seeds. Each opponent samples a batch of its own.
    """

    attacker: Player | None
    defender: Player
    opponents: Sequence[Player] = ()


@dataclass(frozen=True, slots=True)
class GameRules:
    """How a game is played, for one learner.

    Attributes:
        learner: Whose outputs are sampled as a group.
        turns: T, attacks and replies in a conversation.
        group_size: G, samples for the same input.
        plain_share: Share of the seeds that are the first attack themselves, evenly spread over the list.
    """

    learner: Role
    turns: int
    group_size: int
    plain_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Draws:
    """What a game's random draws depend on: a random seed, the step, and which of the step's batches of seeds it is."""

    rng_seed: int
    step: int = 0
    batch: int = 0


def play(
    seeds: Sequence[Seed], players: Players, rules: GameRules, draws: Draws, ended: OnEnded | None = None
) -> list[Episode]:
    """Play P seeds to the end, G episodes each, for one learner (METHOD §3).

    The group shares the learner's first input: the same attack if the defender learns, the same seed if the
    attacker does. Later turns are separate. An output that is cut off ends its episode.

    Args:
        seeds: P requests.
        players: Attacker, defender and opponents.
        rules: Who learns, and how much is played.
        draws: What all randomness depends on.
        ended: Called with finished episodes while others are still being sampled, if it is a `StreamingPolicy`.

    Returns:
        P * G episodes, those of a group side by side.
    """
    learner, turns, share, opponents = rules.learner, rules.turns, rules.plain_share, players.opponents
    episodes = [Episode(seed, (), index) for index, seed in enumerate(seeds)]
    attackers = opponents if opponents and learner == "defender" else [players.attacker] * len(seeds)
    defenders = opponents if opponents and learner == "attacker" else [players.defender] * len(seeds)
    opens_plain = {g for g in range(len(seeds)) if int((g + 1) * share) > int(g * share)}
    for turn in range(turns):
        running = [episode for episode in episodes if episode.cut_off is None]
        over = [episode for episode in episodes if episode.cut_off is not None]
        place = turn + turns * draws.batch
        attacks = rules.group_size if turn == 0 and learner == "attacker" else 1
        replies = rules.group_size if turn == 0 and learner == "defender" else 1
        plain = [episode for episode in running if turn == 0 and episode.group in opens_plain]
        rewritten = [episode for episode in running if turn or episode.group not in opens_plain]
        running = attack(plain, None, attacks, 0)
        for number, (who, theirs) in enumerate(_by_player(rewritten, attackers)):
            running += attack(theirs, who, attacks, _row(draws, "attack", number, place), turns > 1)
        on_ended = ended if turn == turns - 1 else None
        for number, (answers, theirs) in enumerate(_by_player(running, defenders)):
            row = _row(draws, "reply", number, place)
            replied = iter(reply([each for each in theirs if each.cut_off is None], answers, replies, row, on_ended))
            for each in theirs:
                over += [each] * replies if each.cut_off else itertools.islice(replied, replies)
        episodes = sorted(over, key=lambda episode: episode.group)
    return episodes


def attack(
    episodes: Sequence[Episode], attacker: Player | None, n: int, rng_seed: int, multi_turn: bool = False
) -> list[Episode]:
    """Add an open turn: `n` attacks for each episode."""
    if attacker is None:
        return [
            replace(episode, turns=(*episode.turns, plain_turn(episode.seed.text)))
            for episode in episodes
            for _ in range(n)
        ]
    conversations = [_attackers_view(episode, attacker, multi_turn) for episode in episodes]
    out = []
    for episode, samples in zip(episodes, _speak(attacker, conversations, n, rng_seed), strict=True):
        for sample in samples:
            parsed = parse_attack(attacker.renderer.decode(sample.tokens))
            turn = Turn(parsed.answer, parsed.thinking, parsed.well_formed, sample, reply="", reply_sample=None)
            out.append(replace(episode, turns=(*episode.turns, turn)))
    return out


def reply(
    episodes: Sequence[Episode], defender: Player, n: int, rng_seed: int, on_ended: OnEnded | None = None
) -> list[Episode]:
    """Answer the open turn of each episode `n` times, even if its attack was cut off; `on_ended`: `ended` of `play`."""
    conversations = [defender_messages(defender, episode.turns) for episode in episodes]

    def arrived(place: int, samples: Sequence[Sample]) -> None:
        if on_ended:
            on_ended([_answered(episodes[place], sample, defender) for sample in samples])

    spoken = _speak(defender, conversations, n, rng_seed, arrived if on_ended else None)
    return [
        _answered(episode, sample, defender)
        for episode, samples in zip(episodes, spoken, strict=True)
        for sample in samples
    ]


def _answered(episode: Episode, sample: Sample, defender: Player) -> Episode:
    """An episode with its open turn closed by a reply."""
    thinking, text, ended = defender.renderer.spoken(sample.tokens)
    said = sample if ended else replace(sample, finish="length")
    turn = replace(episode.turns[-1], reply=text, reply_sample=said, reply_thinking=thinking)
    if defender.thinks:
        parsed = parse_attack(defender.renderer.decode(sample.tokens))
        turn = replace(turn, reply=parsed.answer, reply_well_formed=parsed.well_formed)
        turn = replace(turn, reply_thinking=parsed.thinking)
    return replace(episode, turns=(*episode.turns[:-1], turn))


def _row(draws: Draws, move: str, number: int, place: int) -> int:
    """The random seed of one call: `number` counts the players of a move, so that each has its own draws."""
    return derive(draws.rng_seed, draws.step, f"{move} {number}" if number else move, place)


def _by_player(episodes: Sequence[Episode], players: Sequence[_Player]) -> list[tuple[_Player, list[Episode]]]:
    """Episodes by player, players in the order they first appear.

    Args:
        players: The player of each group.
    """
    batches: dict[int, tuple[_Player, list[Episode]]] = {}
    for episode in episodes:
        player = players[episode.group]
        batches.setdefault(id(player), (player, []))[1].append(episode)
    return list(batches.values())


def _speak(
    player: Player, conversations: Sequence[Sequence[Message]], n: int, rng_seed: int, arrived: Arrived | None = None
) -> list[list[Sample]]:
    """`n` samples per conversation; a conversation that outgrew the prompt limit gets empty, cut-off samples."""
    rendered = [player.renderer.prompt(messages) for messages in conversations]
    fitting = [place for place, prompt in enumerate(rendered) if len(prompt) <= player.max_prompt]
    asked = [rendered[place] for place in fitting]
    if (tell := arrived) and isinstance(policy := player.policy, StreamingPolicy):
        said = policy.stream(asked, n, player.sampling, rng_seed, lambda i, samples: tell(fitting[i], samples))
    else:
        said = player.policy.sample(asked, n, player.sampling, rng_seed)
    samples = dict(zip(fitting, said, strict=True))
    return [samples.get(place) or [Sample(prompt, (), (), "length")] * n for place, prompt in enumerate(rendered)]


def _attackers_view(episode: Episode, attacker: Player, multi_turn: bool) -> list[Message]:
    """The attacker sees the seed, its own outputs and the defender's replies."""
    prompts = attacker.prompts
    system = prompts.attacker_system_multi_turn if multi_turn else prompts.attacker_system
    messages = [Message("system", system)] if system else []
    messages.append(Message("user", prompts.attacker(episode.seed)))
    for turn in episode.turns:
        if turn.attack_sample is None:
            continue
        # A model that reasons is not shown its earlier reasoning, because its template would leave it out too.
        messages.append(Message("assistant", attacker.renderer.spoken(turn.attack_sample.tokens).reply))
        messages.append(Message("user", prompts.next_attack(turn.reply)))
    return messages


def defender_messages(defender: Player, turns: Sequence[Turn]) -> list[Message]:
    """What the defender sees: the attacks and its own replies; never the seed, the strategy or the thinking."""
    system = defender.prompts.defender_system(defender.system, defender.thinks)
    messages = [Message("system", system)] if system else []
    for turn in turns:
        messages.append(Message("user", defender.prompts.defender(turn.attack)))
        if turn.reply_sample is not None:
            messages.append(Message("assistant", turn.reply))
    return messages


def plain_turn(text: str) -> Turn:
    """An open turn that shows the defender a text as it is, without an attacker."""
    return Turn(attack=text, thinking="", well_formed=True, attack_sample=None, reply="", reply_sample=None)
