"""Playing the game: seeds become episodes (METHOD §1, §5).

Both moves have the same shape, a list of episodes in and a longer list out, so a game of T turns is
`attack, reply, attack, reply, …` and an evaluation can show one attack to many defenders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from magic_rl.prompts import Prompts
from magic_rl.rng import derive
from magic_rl.text.renderer import Arrived, Renders, Speaks, Streams
from magic_rl.text.think import parse_attack
from magic_rl.types import Episode, Message, Role, Sample, SamplingParams, Seed, Turn

_Seat = TypeVar("_Seat", bound="Player | None")
Told = Callable[[Sequence[Episode]], None]


@dataclass(frozen=True, slots=True)
class Player:
    """A policy in a role.

    Attributes:
        max_prompt: Longest prompt in tokens. A conversation that outgrows it counts as cut off.
        system: Defender only: system prompt in place of the model's own default; "" keeps that.
        thinks: Defender only: it is asked to think first, and only its answer is shown (defender-cot).
    """

    policy: Speaks
    renderer: Renders
    sampling: SamplingParams
    max_prompt: int = 8192
    system: str = ""
    thinks: bool = False


def play(
    seeds: Sequence[Seed],
    attacker: Player | None,
    defender: Player,
    prompts: Prompts,
    *,
    turns: int,
    learner: Role,
    group: int,
    rng_seed: int,
    step: int,
    plain_share: float = 0.0,
    draw: int = 0,
    opponents: Sequence[Player] = (),
    ended: Told | None = None,
) -> list[Episode]:
    """Play P seeds to the end, `group` episodes each, for one learner (METHOD §3).

    The group shares the learner's first input: the same attack if the defender learns, the same seed if the
    attacker does. Later turns are separate. An output that is cut off ends its episode.

    Args:
        seeds: P requests.
        attacker: None plays the seeds as they are.
        defender: Answers.
        prompts: Words of the roles.
        turns: T, attacks and replies in a conversation.
        learner: Whose outputs are sampled as a group.
        group: G, samples for the same input.
        rng_seed: Seed of all draws.
        step: Number of the step, which all draws depend on too.
        plain_share: Share of the seeds that open as they are, evenly spread over the list.
        draw: Which of the step's batches of seeds this is; each has random draws of its own.
        opponents: Whom the learner meets at each seed, P players, in the place of the one that does not learn; empty:
            that one everywhere. What several opponents say is sampled opponent by opponent.
        ended: Told of episodes whose last reply is there while others are sampled, if they are elsewhere (`Streams`).

    Returns:
        P * group episodes, those of a group side by side.
    """
    episodes = [Episode(seed, (), index) for index, seed in enumerate(seeds)]
    attackers = opponents if opponents and learner == "defender" else [attacker] * len(seeds)
    defenders = opponents if opponents and learner == "attacker" else [defender] * len(seeds)
    opens_plain = {g for g in range(len(seeds)) if int((g + 1) * plain_share) > int(g * plain_share)}
    for turn in range(turns):
        running = [episode for episode in episodes if episode.cut_off is None]
        over = [episode for episode in episodes if episode.cut_off is not None]
        attacks = group if turn == 0 and learner == "attacker" else 1
        replies = group if turn == 0 and learner == "defender" else 1
        plain = [episode for episode in running if turn == 0 and episode.group in opens_plain]
        rewritten = [episode for episode in running if turn or episode.group not in opens_plain]
        running = attack(plain, None, prompts, attacks, 0)
        for batch, (who, theirs) in enumerate(_by_player(rewritten, attackers)):
            row = derive(rng_seed, step, f"attack {batch}" if batch else "attack", turn + turns * draw)
            running += attack(theirs, who, prompts, attacks, row, turns > 1)
        for batch, (answers, theirs) in enumerate(_by_player(running, defenders)):
            row = derive(rng_seed, step, f"reply {batch}" if batch else "reply", turn + turns * draw)
            over += reply(theirs, answers, prompts, replies, row, told=ended if turn == turns - 1 else None)
        episodes = sorted(over, key=lambda episode: episode.group)
    return episodes


def attack(
    episodes: Sequence[Episode],
    attacker: Player | None,
    prompts: Prompts,
    n: int,
    rng_seed: int,
    multi_turn: bool = False,
) -> list[Episode]:
    """Add an open turn: `n` attacks for each episode."""
    if attacker is None:
        return [
            replace(episode, turns=(*episode.turns, plain_turn(episode.seed.text)))
            for episode in episodes
            for _ in range(n)
        ]
    conversations = [_attackers_view(episode, attacker, prompts, multi_turn) for episode in episodes]
    out = []
    for episode, samples in zip(episodes, _speak(attacker, conversations, n, rng_seed), strict=True):
        for sample in samples:
            parsed = parse_attack(attacker.renderer.decode(sample.tokens))
            turn = Turn(parsed.answer, parsed.thinking, parsed.well_formed, sample, reply="", reply_sample=None)
            out.append(replace(episode, turns=(*episode.turns, turn)))
    return out


def reply(
    episodes: Sequence[Episode],
    defender: Player,
    prompts: Prompts,
    n: int,
    rng_seed: int,
    *,
    answer_cut_off: bool = False,
    told: Told | None = None,
) -> list[Episode]:
    """Answer the open turn of each episode `n` times.

    Args:
        answer_cut_off: Whether an attack that hit the length limit is answered too (in evaluation) or its
            episode stays unanswered and ends (in learning).
        told: See `play`.
    """
    open_ones = [episode for episode in episodes if answer_cut_off or episode.cut_off is None]
    conversations = [defender_messages(defender, prompts, episode.turns) for episode in open_ones]

    def arrived(place: int, samples: Sequence[Sample]) -> None:
        if told:
            told([_answered(open_ones[place], sample, defender) for sample in samples])

    spoken = iter(_speak(defender, conversations, n, rng_seed, arrived if told else None))
    out = []
    for episode in episodes:
        if answer_cut_off or episode.cut_off is None:
            out += [_answered(episode, sample, defender) for sample in next(spoken)]
        else:
            out += [episode] * n
    return out


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


def _by_player(episodes: Sequence[Episode], seats: Sequence[_Seat]) -> list[tuple[_Seat, list[Episode]]]:
    """Episodes of each player together, players in the order they first appear.

    Args:
        seats: Who plays the episodes of each group.
    """
    batches: dict[int, tuple[_Seat, list[Episode]]] = {}
    for episode in episodes:
        seat = seats[episode.group]
        batches.setdefault(id(seat), (seat, []))[1].append(episode)
    return list(batches.values())


def _speak(
    player: Player, conversations: Sequence[Sequence[Message]], n: int, rng_seed: int, arrived: Arrived | None = None
) -> list[list[Sample]]:
    """`n` samples per conversation; one that outgrew the prompt limit gets empty, cut-off samples."""
    rendered = [player.renderer.prompt(messages) for messages in conversations]
    fitting = [place for place, prompt in enumerate(rendered) if len(prompt) <= player.max_prompt]
    asked = [rendered[place] for place in fitting]
    if (tell := arrived) and isinstance(policy := player.policy, Streams):
        said = policy.stream(asked, n, player.sampling, rng_seed, lambda i, samples: tell(fitting[i], samples))
    else:
        said = player.policy.sample(asked, n, player.sampling, rng_seed)
    samples = dict(zip(fitting, said, strict=True))
    return [samples.get(place) or [Sample(prompt, (), (), "length")] * n for place, prompt in enumerate(rendered)]


def _attackers_view(episode: Episode, attacker: Player, prompts: Prompts, multi_turn: bool) -> list[Message]:
    """The attacker sees the seed, its own outputs and the defender's replies."""
    system = prompts.attacker_system_multi_turn if multi_turn else prompts.attacker_system
    messages = [Message("system", system)] if system else []
    messages.append(Message("user", prompts.attacker(episode.seed)))
    for turn in episode.turns:
        if turn.attack_sample is None:
            continue
        # A model that reasons is not shown its earlier reasoning: its template would leave it out too.
        messages.append(Message("assistant", attacker.renderer.spoken(turn.attack_sample.tokens).reply))
        messages.append(Message("user", prompts.next_attack(turn.reply)))
    return messages


def defender_messages(defender: Player, prompts: Prompts, turns: Sequence[Turn]) -> list[Message]:
    """What the defender sees: the attacks and its own replies; never the seed, the strategy or the thinking."""
    system = prompts.defender_system(defender.system, defender.thinks)
    messages = [Message("system", system)] if system else []
    for turn in turns:
        messages.append(Message("user", prompts.defender(turn.attack)))
        if turn.reply_sample is not None:
            messages.append(Message("assistant", turn.reply))
    return messages


def plain_turn(text: str) -> Turn:
    """An open turn that shows the defender a text as it is, without an attacker."""
    return Turn(attack=text, thinking="", well_formed=True, attack_sample=None, reply="", reply_sample=None)
