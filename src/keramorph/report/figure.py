"""One picture of a registration: both images, the result, what is left between them, and the deformation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from keramorph.report.layout import Layout
from keramorph.report.panels import DIFFERENCE_COLOURS, FIRST_DIFFERENCE, PANELS
from keramorph.report.planes import cut_planes
from keramorph.report.scores import describe_outcome, describe_scores
from keramorph.report.views import Result, look


def draw_report(result: Result, *, names: tuple[str, str] = ("fixed", "moving")) -> Figure:
    """Return a figure of a registration result: middle slices of both images before and after, and the deformed grid.

    A 3-D result shows an axial, a coronal and a sagittal plane in their physical aspect, in the radiological view.

    Args:
        result: What `keramorph.register` returns, with 2-D or 3-D images.
        names: What the fixed and the moving image are called.

    Returns:
        A figure of matplotlib that opens no window.

    Example:
        >>> from keramorph.registration import register
        >>> rows, columns = np.mgrid[:32, :32]
        >>> fixed = np.exp(-((rows - 15.0) ** 2 + (columns - 15.0) ** 2) / 60)
        >>> figure = draw_report(register(fixed, np.roll(fixed, 2, axis=0)))
        >>> len(figure.axes)
        7
    """
    planes = cut_planes(result.fixed.grid)
    layout = Layout.arrange(planes, len(PANELS))
    figure = Figure(figsize=layout.size, dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    for number, view in enumerate(look(result, planes)):
        for panel, draw in enumerate(PANELS):
            row, column = divmod(number * len(PANELS) + panel, layout.columns)
            draw(figure.add_axes(layout.place_picture(row, column)), view)
    _draw_header(figure, layout, result, names)
    _draw_bar(figure, layout)
    return figure


def write_report(result: Result, path: str | Path, *, names: tuple[str, str] = ("fixed", "moving")) -> None:
    """Write the figure of a registration result to a file.

    Args:
        result: What `keramorph.register` returns.
        path: File to write; its ending (`.png`, `.pdf`, `.svg`) says what it holds.
        names: What the fixed and the moving image are called.

    Example:
        >>> write_report(result, "report.png")  # doctest: +SKIP
    """
    figure = draw_report(result, names=names)
    if Path(path).suffix.lower() == ".png":
        # In a third of the time to a file that is larger by a tenth.
        figure.savefig(path, pil_kwargs={"compress_level": 1})
    else:
        figure.savefig(path)


def _draw_header(figure: Figure, layout: Layout, result: Result, names: tuple[str, str]) -> None:
    lines: tuple[tuple[float, str, dict[str, Any]], ...] = (
        (0.30, f"{names[1]}  moved onto  {names[0]}", {"fontsize": 14, "fontweight": "bold"}),
        (0.57, describe_outcome(result.outcome), {"color": "#1b7f3b" if result.outcome.trusted else "#b3261e"}),
        (0.82, describe_scores(result.metrics), {"color": "#333333"}),
    )
    for below, text, style in lines:
        figure.text(*layout.place_header(below), text, **{"fontsize": 10.5, **style})


def _draw_bar(figure: Figure, layout: Layout) -> None:
    axes = figure.add_axes(layout.place_bar(FIRST_DIFFERENCE % layout.columns))
    colours = ScalarMappable(Normalize(-100, 100), DIFFERENCE_COLOURS)
    bar = figure.colorbar(colours, cax=axes, orientation="horizontal", ticks=np.linspace(-100, 100, 5))
    bar.set_label("fixed minus moving, in % of each image's own range (titles: mean size)", fontsize=9, labelpad=1)
    bar.ax.tick_params(labelsize=8, pad=1)
