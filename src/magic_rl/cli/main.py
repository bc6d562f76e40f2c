"""The `magic-rl` command. Each command is in a file beside this one and calls functions of other rooms.

Heavy imports (torch, transformers) happen inside the commands, so `--help` answers at once.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from magic_rl import __version__
from magic_rl.cli.attack import attack
from magic_rl.cli.audit import audit
from magic_rl.cli.bench import bench
from magic_rl.cli.benchmark import benchmark
from magic_rl.cli.cross import cross
from magic_rl.cli.data import data
from magic_rl.cli.defences import defences
from magic_rl.cli.demo import demo
from magic_rl.cli.drift import drift
from magic_rl.cli.engine import engine
from magic_rl.cli.evaluate import evaluate
from magic_rl.cli.export import export
from magic_rl.cli.init import init
from magic_rl.cli.judge import judge
from magic_rl.cli.models import models
from magic_rl.cli.options import spelled_out, typed
from magic_rl.cli.plan import plan
from magic_rl.cli.pool import pool
from magic_rl.cli.recipes import recipes
from magic_rl.cli.redteam import redteam
from magic_rl.cli.rejudge import rejudge
from magic_rl.cli.remedies import in_words
from magic_rl.cli.report import report
from magic_rl.cli.serve import serve
from magic_rl.cli.shown import shown
from magic_rl.cli.study import study
from magic_rl.cli.train import resume, train
from magic_rl.cli.version import version
from magic_rl.errors import UserError
from magic_rl.files import disk_full

# Trouble of the machine or the command, not of the program: no space, no permission, a name too long for a path.
_FIXABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG})


class _Commands(TyperGroup):
    """Takes `--section.key value` for a setting; turns what the user can fix into one line and exit status 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        command: Any = self
        ctx.obj = ctx.info_name
        for name in args:
            if name in getattr(command, "commands", {}):
                command, ctx.obj = command.commands[name], f"{ctx.obj} {name}"
        ctx.meta["typed"] = typed(args)
        with _in_one_line(ctx):
            if any("--set" in parameter.opts for parameter in command.params):
                args = list(spelled_out(args, {opt for parameter in command.params for opt in parameter.opts}))
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _in_one_line(ctx):
            return super().invoke(ctx)


@contextmanager
def _in_one_line(ctx: Any) -> Iterator[None]:
    try:
        yield
        return
    except UserError as error:
        message = in_words(error, ctx.meta.get("typed", {}))
    except typer.TyperException as error:
        said = error.format_message()
        if not said:  # the help of a command that was given nothing, which is printed already
            raise
        if options := getattr(error, "possibilities", None):
            said = f"{error.message}. Did you mean {' or '.join(options)}?"
        for theirs, ours in (("Value error, ", ""), ("Input should be", "must be"), (". Did you", "; did you")):
            said = said.replace(theirs, ours)
        message = f"{said[0].lower()}{said[1:].rstrip('.')}; try `{ctx.obj} --help`"
    except OSError as error:
        if error.errno not in _FIXABLE:
            raise
        message = f"{error.filename or 'disk'}: {error.strerror}"
    except Exception as error:  # libraries have errors of their own for a full disk, tokenizers a bare Exception
        if not disk_full(error):
            raise
        message = f"the disk is full; free some space ({error})"
    typer.echo(f"error: {shown(message)}", err=True)
    raise typer.Exit(2)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),  # of options, and their choices
    },
    epilog="Try it: `magic-rl demo`",
)
_COMMANDS = (
    *(demo, init, train, resume, evaluate, cross, attack, redteam, audit, drift, report),
    *(export, serve, recipes, study, plan, bench, benchmark, rejudge, defences, version),
)
for _command in _COMMANDS:
    app.command()(_command)
app.add_typer(models, name="models")
app.add_typer(pool, name="pool")
app.add_typer(judge, name="judge")
app.add_typer(data, name="data")
app.add_typer(engine, name="engine")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"magic-rl {__version__}")
        raise typer.Exit


def _warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, UserWarning):
        typer.echo(f"warning: {message}", err=True)


@app.callback()
def magic_rl(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Make a chat model withstand jailbreaks by letting it play against an attacker that learns too."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # also those of transformers; read at import
    logging.basicConfig(format="%(message)s")
    logging.getLogger("magic_rl").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it writes its lines itself
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)  # no lines about each retry
    warnings.showwarning = _warn


if __name__ == "__main__":
    app()
