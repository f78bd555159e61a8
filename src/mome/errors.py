"""The exception with a message for the user, and helpers that write such messages."""

from __future__ import annotations

from collections.abc import Sequence


class MomeError(Exception):
    """An error that the user can mend. The message is one line that names the file or option and says how.

    The command line prints the message without a traceback and exits with code 2.
    """


def listed(names: Sequence[object], most: int = 5) -> str:
    """Names separated by commas; beyond ``most``, only the number of further names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def shortened(value: object, most: int = 80) -> str:
    """A value as text on one line, cut after ``most`` characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[:most]}…"


def in_one_line(error: BaseException) -> str:
    """The first line of an exception's message, after the name of its class unless the message speaks for itself."""
    line = next(iter(str(error).splitlines()), "")
    if isinstance(error, MomeError | RuntimeError | OSError) and line:
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def reason(error: BaseException) -> str:
    """Why an operation on a file failed: the system's words, or the message's first line."""
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
