"""``mome train``: from a recipe to a model folder."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from mome.cli.output import note, quiet, result


def train(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.", show_default=False),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Changes to the recipe, with dotted keys: optim.epochs=3 output=runs/mine",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the last complete checkpoint in the output folder; optim.epochs or optim.steps may grow.",
        ),
    ] = False,
) -> None:
    """Train a model as a recipe says, and print the folder it is in.

    The connector and the adapters are trained; encoders and language model stay as they are unless the recipe says
    otherwise. The folder is a model folder: give it to transcribe or evaluate with --model.

    Example: mome train my-recipe.yaml optim.epochs=5 output=runs/mine
    """
    quiet()
    from mome.training.run import train as run

    folder = run(recipe, overrides or [], resume)
    if os.environ.get("RANK", "0") == "0":  # as torchrun and accelerate number processes
        note("trained; the model is in")
        result(str(folder))
