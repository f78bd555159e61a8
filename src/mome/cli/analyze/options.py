"""Arguments and options that several analyses share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mome.rates import Rates

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model folder, a Hugging Face hub id such as owner/name, or the bundled mome-tiny.",
        show_default=False,
    ),
]
Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...", help="Model folders, hub ids, or bundled models such as mome-tiny.", show_default=False
    ),
]
ChosenRates = Annotated[
    list[str] | None,
    typer.Option(
        "--rates",
        metavar="A,V",
        help="Audio and video rate, such as 4,2. Repeatable.",
        show_default=False,
    ),
]
ChosenTasks = Annotated[
    list[str] | None, typer.Option("--task", metavar="avsr|asr|vsr", help="Repeatable.", show_default=False)
]
Limit = Annotated[int, typer.Option(min=1, help="Use only this number of clips, from the first on.")]
Batch = Annotated[int, typer.Option(min=1, help="Clips read together.")]
Seed = Annotated[int, typer.Option(min=0, help="Draws what is random: noise, faults, shuffles, intervals.")]


def parse_rates(given: Sequence[str] | None) -> list[Rates]:
    """Read the values of ``--rates``, each once.

    Raises:
        MomeError: one is not readable.
    """
    return list(dict.fromkeys(map(Rates.parse, given or ())))
