"""A command whose values are checked in one place, before any work: what can be no path, no text or no number."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

import typer
from typer.core import TyperCommand

from mome.errors import MomeError

_LARGEST = 2**63 - 1


class Command(TyperCommand):
    """Refuses what no command can use, and names the option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, then check the values; lists of files are checked file by file, where one of many may be bad."""
        if "" in args:
            raise typer.BadParameter("an argument is empty", ctx=ctx)
        rest = super().parse_args(ctx, args)
        parameter: Any
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            try:
                if isinstance(value, Path):
                    check_path(value)
                elif isinstance(value, int | float):
                    check_number(value)
                else:
                    check_text(value)
            except MomeError as error:
                raise typer.BadParameter(str(error), ctx=ctx, param=parameter) from None
        return rest


def check_path(path: Path) -> None:
    """Refuse a path that no file can have, and what is there and neither a file nor a folder, such as a pipe.

    Reading those may never end, and a result file would take the place of a device such as /dev/null.

    Raises:
        MomeError: it is such a path.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise MomeError(f"{path} is not possible: {error.strerror}") from None
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise MomeError(f"{path} is neither a file nor a folder: give one of them")


def check_text(value: object) -> None:
    """Refuse bytes that are no text, in a string or in a list of them.

    Raises:
        MomeError: there are such bytes.
    """
    try:
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str):
                text.encode()
    except UnicodeEncodeError:
        raise MomeError(f"{value} is not text in UTF-8: rename it or leave it out") from None


def check_number(value: float) -> None:
    """Refuse what is not a number, endless, or larger than any machine counts.

    Raises:
        MomeError: it is such a number.
    """
    if not isfinite(value) or abs(value) > _LARGEST:
        raise MomeError(f"{value} is not possible: give a number of reasonable size")
