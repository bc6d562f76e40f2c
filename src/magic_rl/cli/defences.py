"""`magic-rl defences`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import Overrides
from magic_rl.cli.rejudge import progress, table
from magic_rl.cli.shown import shown
from magic_rl.config import load_config
from magic_rl.errors import ConfigError


def defences(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|URL",
            help="Who is defended: a model folder or hub id, http://HOST/v1, or a .toml file that says more of it.",
            show_default=False,
        ),
    ],
    results: Annotated[
        Path,
        typer.Argument(metavar="RESULTS", help="Items file with the attacks, or its folder.", show_default=False),
    ],
    judge: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Config file that names the judge; by default the run's own.")
    ] = None,
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
    own = results / "config.toml"
    settings = load_config(judge or (own if own.is_file() else None), overrides or ())
    from magic_rl.evidence.defences import DEFENCES, GuardInFront
    from magic_rl.evidence.defended import attacks_of, put_to
    from magic_rl.evidence.items import write_items
    from magic_rl.evidence.rejudge import judged, read_results, rows
    from magic_rl.runs.judge import make_guard, make_judge, open_memory
    from magic_rl.runs.target import chat_of

    attacks = attacks_of(read_results(results))
    asked, memory = make_judge(settings, needs_refusal=False), open_memory(settings.store.answers)
    model = chat_of(target, settings.engine)
    chats = [model, *(defend(model) for defend in DEFENCES.values())]
    if guard is not None:
        in_front = load_config(guard)
        (member,) = in_front.judge.judges if in_front.judge.kind != "panel" else (None,)
        if member is None or member.endpoint is None:
            raise ConfigError(
                f"{guard}: a guard in front is one judge that asks a model: set judge.kind and judge.endpoint"
            )
        form, chat = make_guard(member, member.endpoint, in_front.engine, "judge.endpoint")
        chats.append(GuardInFront(model, chat, form))
    chats += [chat_of(name, settings.engine) for name in compare or ()]
    kept, costs = [], []
    for chat in progress(chats, "asking"):
        replies, tokens = put_to(chat, attacks, max_tokens=max_tokens, memory=memory)
        kept += judged(replies, asked, settings.judge.retries)
        costs.append(tokens)
    if out is not None:
        write_items(out, kept)
    for line in table(rows(kept, [asked.name], {})):
        typer.echo(line)
    typer.echo("\ntokens per request, prompts and replies of all calls")
    for chat, tokens in zip(chats, costs, strict=True):
        times = f"{tokens:.0f} ({tokens / costs[0]:.2f} ×)" if costs[0] and tokens else "not counted by the server"
        lost = sum(item.failed is not None for item in kept if item.model == chat.name)
        typer.echo(f"  {times:<28}{shown(chat.name)}" + (f"; {lost} of {len(attacks)} without a reply" if lost else ""))
