"""The one exception that carries a message for the user, how messages list names, and how other exceptions read."""

from __future__ import annotations

from collections.abc import Sequence


class MomeError(Exception):
    """Something the user can mend: one line that names the file or option and says how.

    The command line prints the message without a traceback and exits with code 2.
    """


def listed(names: Sequence[object], most: int = 5) -> str:
    """The names with commas between, of many the first ones and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def shortened(value: object, most: int = 80) -> str:
    """A value as a message quotes it: on one line, and not all of it where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[:most]}…"


def in_one_line(error: BaseException) -> str:
    """The first line of the message, after the name of the class where the message may make no sense without it."""
    line = next(iter(str(error).splitlines()), "")
    if isinstance(error, MomeError | RuntimeError | OSError) and line:
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def reason(error: BaseException) -> str:
    """Why it failed, to follow the name of a file: the system's words, else the first line of the message."""
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
