"""`magic-rl audit`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import JudgeFile, Overrides
from magic_rl.cli.shown import shown
from magic_rl.cli.stopping import stoppable
from magic_rl.config import load_config
from magic_rl.errors import UserError


def audit(
    target: Annotated[
        str, typer.Option(metavar="URL|FILE", help="An OpenAI-compatible server, or a .toml with its url, model, key.")
    ],
    attacker: Annotated[str, typer.Option(metavar="RUN|POOL", help="A run with a trained attacker, or a pool file.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where findings and items are written.")],
    owned: Annotated[
        bool, typer.Option("--i-own-this-endpoint", help="You own the endpoint, or its owner agrees; needed.")
    ] = False,
    per_minute: Annotated[int, typer.Option(min=1, metavar="N", help="Calls a minute, retries included.")] = 60,
    budget: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Queries per seed; by default one conversation, or the pool.")
    ] = None,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Show attacks and replies, which are redacted otherwise.")
    ] = False,
    config: JudgeFile = None,
    overrides: Overrides = None,
) -> None:
    """Attack a chat endpoint that you own with a trained attacker or a pool; report what it answers.

    Writes findings.json, findings.html and findings.sarif, which code scanners read, and every query with its
    reply and verdict into items.jsonl. Stops where the endpoint fails, with what it has; the same command continues.

    Examples:

      magic-rl audit --target http://localhost:8000/v1 --attacker runs/demo --out audit --i-own-this-endpoint

      magic-rl audit --target mine.toml --attacker pool.jsonl --out audit \
--i-own-this-endpoint --set judge.kind=qwen3guard --set judge.endpoint.model=Qwen/Qwen3Guard-Gen-4B
    """
    if not owned:
        raise UserError(
            f"{target}: is attacked only with its owner's consent; if you have it, say --i-own-this-endpoint"
        )
    with stoppable((out / "answers.sqlite").is_file):
        from magic_rl.evidence.findings import write_findings
        from magic_rl.report.findings import PAGE_FILE, write_page
        from magic_rl.runs.redteam import Attackers, RedTeamSpec

        spec = RedTeamSpec(target, attacker, budget=budget, per_minute=per_minute)
        settings = load_config(config or spec.settings_file, overrides or ())
        found = Attackers(spec, settings, out, partial(typer.echo, err=True)).audit(show_text=show_text)
    write_findings(found, out)
    write_page(found, out)
    typer.echo(f"{len(found.findings)} of {found.queries} queries got a harmful answer: {out / PAGE_FILE}")
    if found.stopped:
        typer.echo(f"error: stopped: {shown(found.stopped)}; the same command continues", err=True)
        raise typer.Exit(2)
