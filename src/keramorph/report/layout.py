"""Where the pictures of a report stand, measured in inches from its upper left corner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keramorph.report.planes import Plane

HEADER, TITLE, FOOTER, MARGIN, GAP = 0.95, 0.3, 0.62, 0.2, 0.12
"""Inches that hold no picture."""

Box = tuple[float, float, float, float]
"""Left, bottom, width and height in shares of the figure, as matplotlib places axes."""


@dataclass(frozen=True)
class Layout:
    """A table of pictures, all of one width, each row with the height that its plane needs.

    Args:
        columns: Number of pictures beside each other.
        width: Inches across one picture.
        heights: Inches down each row of pictures.
    """

    columns: int
    width: float
    heights: tuple[float, ...]

    @classmethod
    def arrange(cls, planes: Sequence[Plane], panels: int) -> Layout:
        """Return the layout of `panels` pictures per plane: two rows for one plane, else one row for each plane."""
        rows, columns, width = (2, panels // 2, 3.6) if len(planes) == 1 else (1, panels, 2.4)
        ratios = [float(np.clip(plane.height / plane.width, 0.35, 1.6)) for plane in planes for _ in range(rows)]
        return cls(columns, width, tuple(width * ratio for ratio in ratios))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        wide = 2 * MARGIN + self.columns * self.width + (self.columns - 1) * GAP
        return wide, HEADER + sum(self.heights) + TITLE * len(self.heights) + FOOTER

    def place_picture(self, row: int, column: int) -> Box:
        """Box of the picture in a row and a column of the table."""
        top = HEADER + sum(self.heights[:row]) + TITLE * (row + 1)
        return self._place(self._left(column), top, self.width, self.heights[row])

    def place_bar(self, column: int) -> Box:
        """Box of a colour bar under the last row, centred under a column and the one to its right."""
        top = self.size[1] - FOOTER + 0.1
        return self._place(self._left(column) + self.width / 2, top, self.width + GAP, 0.13)

    def place_header(self, below: float) -> tuple[float, float]:
        """Point at the left margin, `below` inches under the upper edge, in shares of the figure."""
        return MARGIN / self.size[0], 1 - below / self.size[1]

    def _left(self, column: int) -> float:
        return MARGIN + column * (self.width + GAP)

    def _place(self, left: float, top: float, width: float, height: float) -> Box:
        wide, high = self.size
        return left / wide, 1 - (top + height) / high, width / wide, height / high
