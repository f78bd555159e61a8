"""Arguments and options that several analyses share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mome.rates import Rates, RateSet

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model folder, a Hugging Face hub id such as owner/name, or the bundled mome-tiny.",
        show_default=False,
    ),
]
RatesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rates",
        metavar="A,V",
        help="Audio and video rate, such as 4,2. Repeatable. Default: all of the model's.",
    ),
]
Limit = Annotated[int, typer.Option(min=1, help="Use only this number of clips, from the first on.")]
Batch = Annotated[int, typer.Option(min=1, help="Clips read together.")]


def parse_rates(given: Sequence[str] | None) -> list[Rates]:
    """Read the values of ``--rates``, each once.

    Raises:
        MomeError: one is not readable.
    """
    return list(dict.fromkeys(map(Rates.parse, given or ())))


def choose_rates(rate_set: RateSet, given: Sequence[Rates]) -> list[Rates]:
    """The rates given, else all of the model's main task.

    Raises:
        MomeError: the model does not have one of them.
    """
    return [rate_set.check(rates) for rates in given] or rate_set.main_rates()
