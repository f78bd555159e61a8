"""Figures for a paper: readable at the width of a column, in colours that the colour-blind tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mome.errors import MomeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.4, 7.0
"""Widths in inches of one column and of a page's text."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, without its yellow, which is too light for lines on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SEQUENTIAL, DIVERGING = "viridis", "PuOr"
"""Colour maps of heat maps: of a quantity, and of one with a sign."""


@contextmanager
def drawing() -> Iterator[None]:
    """Draw and save in this block: the style of all figures, without a window.

    Raises:
        MomeError: Matplotlib is not installed.
    """
    try:
        import matplotlib
        from cycler import cycler
    except ImportError as error:
        raise MomeError("figures need Matplotlib: pip install 'mome[analysis]'") from error
    style: dict[Any, Any] = {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=COLOURS) + cycler(marker=MARKERS),
        "lines.markersize": 4,
        "lines.linewidth": 1.2,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,  # TrueType, which journals ask for
    }
    with matplotlib.rc_context(style):
        yield


def panels(rows: int = 1, columns: int = 1, *, width: float = COLUMN, height: float = 2.4) -> tuple[Figure, np.ndarray]:
    """A figure ``width`` inches wide, ``height`` for each row, and its axes ``(rows, columns)``.

    It has no window and nothing to close. Call it in :func:`drawing`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, rows * height))
    return figure, figure.subplots(rows, columns, squeeze=False)


def heat_map(
    axes: Axes,
    values: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    limits: tuple[float, float] | None = None,
    signed: bool = False,
) -> None:
    """Draw ``values (R, C)`` as coloured cells with the names of rows and columns and a scale that says ``label``."""
    low, high = limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    colours = DIVERGING if signed else SEQUENTIAL
    image = axes.imshow(values, aspect="auto", cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes.set_xticks(*_ticks(columns))
    axes.set_yticks(*_ticks(rows))
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure = axes.figure
    figure.colorbar(image, ax=axes, label=label)


def _ticks(names: Sequence[str], most: int = 12) -> tuple[list[int], list[str]]:
    """At most ``most`` positions and names, evenly spaced from the first on."""
    step = -(-len(names) // most)
    places = list(range(0, len(names), step))
    return places, [names[place] for place in places]
