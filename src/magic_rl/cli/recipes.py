"""`magic-rl recipes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def recipes(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Endpoint, such as http://127.0.0.1:8000/v1.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for them; each tool gets one in it.", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="What the endpoint calls the model.")] = "defender",
    only: Annotated[str, typer.Option(metavar="TOOL,...", help="Only these tools; by default all.")] = "",
) -> None:
    """Write configs with which garak, PyRIT, promptfoo, Inspect and lm-eval run against an endpoint as they are.

    Each folder has a README with the command, and the versions with which it was run against `magic-rl serve`. No tool
    is installed, and nothing is sent anywhere else: telemetry and remote generation are off.

    Examples:

      magic-rl recipes http://127.0.0.1:8000/v1 --out recipes

      magic-rl recipes http://127.0.0.1:8000/v1 --out recipes --model SmolLM2-135M-Instruct --only garak,inspect
    """
    from magic_rl.evidence.recipes import write_recipes

    for folder in write_recipes(url, out, model, [tool for tool in only.split(",") if tool]):
        typer.echo(f"recipe: {folder}")
