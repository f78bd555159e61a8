from __future__ import annotations

import pytest

from mome.errors import in_one_line, reason


@pytest.mark.parametrize(
    ("error", "why", "line"),
    [
        (OSError(28, "No space left on device", "a.json"), "No space left on device", None),
        (ValueError("odd\nand more"), "odd", "ValueError: odd"),
        (ZeroDivisionError(), "ZeroDivisionError", "ZeroDivisionError"),
    ],
)
def test_why_it_failed(error, why, line):
    assert reason(error) == why
    if line is not None:
        assert in_one_line(error) == line
