"""`magic-rl defences`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from magic_rl.chat.base import Chat
from magic_rl.cli.options import JudgeFile, Overrides, Results, Target, measuring
from magic_rl.cli.shown import columns, shown
from magic_rl.config import load_config
from magic_rl.errors import ConfigError
from magic_rl.evidence.items import Item


def defences(
    target: Target,
    results: Results,
    judge: JudgeFile = None,
    overrides: Overrides = None,
    guard: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Config file whose judge stands in front, for one more defence.")
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option(metavar="MODEL|RUN|URL", help="A trained defender. May be given many times.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Cut replies here.")] = 512,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every reply with its verdict.")] = None,
) -> None:
    """Put the same attacks to a model, to the model under defences that need no training, and to trained defenders.

    Prints one table: ASR, compliance, and what a request costs in tokens as a multiple of the undefended model's. The
    defences are a safety system prompt, Self-Eval, SmoothLLM (10 copies, 10 % of the characters swapped) and, with
    --guard, a guard in front. Replies are remembered, so after an interruption the same command goes on.

    Examples:

      magic-rl defences default runs/demo --compare runs/demo

      magic-rl defences http://127.0.0.1:8000/v1 items.jsonl --judge guard.toml --guard guard.toml --out defended.jsonl
    """
    named = judge or (own if (own := results / "config.toml").is_file() else None)
    settings = measuring(named, overrides)
    from magic_rl.evidence.defences import DEFENCES, attacks_of, put_to
    from magic_rl.evidence.rejudge import judged, read_results
    from magic_rl.runs.judge import about_rules, make_judge, open_memory
    from magic_rl.runs.target import chat_of
    from magic_rl.store.atomic import write_rows

    attacks = attacks_of(read_results(results))
    asked, memory = make_judge(settings, needs_refusal=False), open_memory(settings.store.answers)
    model = chat_of(target, settings.engine)
    chats = [model, *(defend(model) for defend in DEFENCES.values()), *([_guarded(model, guard)] if guard else ())]
    chats += [chat_of(name, settings.engine) for name in compare or ()]
    found = []
    calls = len(attacks) * sum(getattr(chat, "calls", 1) for chat in chats)
    for line in (f"{len(attacks)} attacks on {len(chats)} chats: at most {calls:,} calls", *about_rules(settings)):
        typer.echo(line, err=True)
    for number, chat in enumerate(chats, start=1):
        typer.echo(shown(f"{number} of {len(chats)}: {chat.name}"), err=True)
        replies, tokens = put_to(chat, attacks, max_tokens=max_tokens, memory=memory)
        found.append((judged(replies, asked, settings.judge.retries), tokens))
    if out is not None:
        write_rows(out, [item for items, _ in found for item in items])
    for line in _table(chats, found, asked.name, len(attacks)):
        typer.echo(line)


def _table(
    chats: Sequence[Chat], found: Sequence[tuple[Sequence[Item], float | None]], judge: str, attacks: int
) -> Iterator[str]:
    """A row per chat: its rates, and what a request cost."""
    from magic_rl.evidence.rejudge import rows
    from magic_rl.report import tables

    heads = ("ASR ↓", "compliance ↑", "tokens per request", "no reply", "no verdict")
    lines: list[Sequence[str]] = [(f"{attacks} attacks, %", *heads)]
    for chat, (items, tokens) in zip(chats, found, strict=True):
        (row,) = rows([replace(item, set="", method="") for item in items], [judge], {})
        base = found[0][1]
        cost = f"{tokens:.0f} ({tokens / base:.2f} ×)" if tokens and base else "not counted"
        lost = sum(item.failed is not None for item in items)
        rates = (tables.shown(rate.observed, exact=True) for rate in (row.asr, row.compliance))
        lines.append((shown(chat.name), *rates, cost, str(lost), str(row.abstained)))
    yield tables.laid_out(lines, columns(160))
    for chat, (items, _) in zip(chats, found, strict=True):
        for why, times in Counter(item.failed for item in items if item.failed).most_common(1):
            yield shown(f"{chat.name}: no reply, {times} times: {why}")
    yield shown(f"judge: {judge}; tokens are those of all calls, prompts and replies")


def _guarded(model: Chat, guard: Path) -> Chat:
    """A model behind the judge that a config file names."""
    from magic_rl.evidence.defences import guard_in_front
    from magic_rl.runs.judge import make_format_and_chat

    config = load_config(guard)
    endpoints = [(member, member.endpoint) for member in config.judge.judges if member.endpoint]
    if config.judge.kind == "panel" or not endpoints:
        raise ConfigError(f"{guard}: no single judge that asks a model; name one in judge.kind and judge.endpoint")
    form, asked = make_format_and_chat(*endpoints[0], config.engine, "judge.endpoint")
    return guard_in_front(model, asked, form)
