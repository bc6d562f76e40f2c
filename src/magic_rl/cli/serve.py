"""`magic-rl serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from magic_rl.cli.options import Round
from magic_rl.errors import UserError
from magic_rl.store.run import RunDirectory
from magic_rl.types import Role


def serve(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL", help="Run directory; or 'default', a hub id or a folder.", show_default=False
        ),
    ],
    number: Round = None,
    attacker: Annotated[
        bool, typer.Option("--attacker", help="Serve the run's attacker, a tool for breaking models, in its place.")
    ] = False,
    server: Annotated[
        Literal["transformers", "vllm"], typer.Option(help="Which server: transformers' own, or vLLM.")
    ] = "transformers",
    vllm: Annotated[
        str,
        typer.Option("--vllm", metavar="COMMAND", help="The vllm command in its environment, if not on the PATH."),
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen at; any but this machine's needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="VARIABLE", help="Environment variable with the key that clients must bring."),
    ] = None,
) -> None:
    """Put a run's defender, or any model, behind an OpenAI-compatible endpoint, and print its address once it answers.

    The defender is told what it was told in training: chat template, system prompt, words around a request. With
    transformers' server a request may set temperature, top_p, seed, stop, length and stream; anything else that would
    change the reply is refused. No other model is loaded. Ctrl-C ends it.

    Examples:

      magic-rl serve runs/demo

      magic-rl serve runs/demo --server vllm --vllm ~/vllm/bin/vllm

      MAGIC_KEY=... magic-rl serve runs/demo --api-key-env MAGIC_KEY --host 0.0.0.0
    """
    if server != "vllm" and vllm:
        raise UserError("--vllm names vLLM's command, so it needs --server vllm")
    key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not key:
        raise UserError(f"--api-key-env {api_key_env}: no such environment variable, or it is empty")
    is_run = (Path(what) / "config.toml").is_file()
    if not is_run and (attacker or number is not None):
        raise UserError(f"{what}: is no run, so it has no players; leave --attacker and --round out")

    from magic_rl.engines.local.models import resolve_model
    from magic_rl.runs import serve as serving

    run = RunDirectory.open(Path(what)) if is_run else None
    if run is None:
        resolve_model(what, weights=False)  # looked for before what serves it
    serving.require(server, vllm)
    role: Role = "attacker" if attacker else "defender"
    model = serving.served_player(run, role, number, server) if run else serving.served_model(what)
    address = serving.Address(host, port, key)
    serving.serve(model, server, address, lambda url: typer.echo(f"{model.name}: {url}"), vllm=vllm)
