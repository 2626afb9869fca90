"""Lists of points in files: comma-separated, with a header, in millimetres."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keramorph.errors import FileError

NAMES = (("x", "y", "z"), ("x_mm", "y_mm", "z_mm"))


@dataclass(frozen=True, eq=False)
class PointTable:
    """Rows of a file of points.

    Args:
        rows: The cells of each row by the names of their columns.
        columns: Names of the columns that hold the coordinates.
        points: The coordinates `(rows, ndim)` in millimetres (x, y, z), LPS.
    """

    rows: list[dict[str, str]]
    columns: tuple[str, ...]
    points: np.ndarray


def read_points(path: Path, *, missing: bool = False) -> PointTable:
    """Return the points in a file with the columns x, y and perhaps z, or x_mm, y_mm and z_mm.

    Args:
        path: Comma-separated values with a header; other columns are kept.
        missing: Whether a row may lack its coordinates, which are then NaN.

    Raises:
        FileError: If the file is missing, has no such columns, or holds something else than numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, header = list(reader), reader.fieldnames or []
    except FileNotFoundError:
        raise FileError(f"A file of points was expected. Received: path={str(path)!r}, which is not there.") from None
    except (UnicodeDecodeError, csv.Error) as problem:
        raise FileError(f"Text was expected. Received: path={str(path)!r} ({problem}). Save it as UTF-8.") from None
    for names in NAMES:
        columns = tuple(name for name in names if name in header)
        if len(columns) >= 2:
            return PointTable(rows, columns, _read_numbers(rows, columns, path, missing))
    raise FileError(
        f"The columns x, y and perhaps z were expected, in millimetres. Received: path={str(path)!r} with "
        f"{', '.join(header) or 'no header'}. Rename the columns in the first line."
    )


def write_points(table: PointTable, points: np.ndarray, path: Path) -> None:
    """Write the rows of a table with other coordinates.

    Args:
        table: What `read_points` returned.
        points: New coordinates `(rows, ndim)` in millimetres.
        path: File to write.
    """
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, table.rows[0].keys())
        writer.writeheader()
        for row, point in zip(table.rows, points, strict=True):
            writer.writerow(row | {name: f"{value:.6f}" for name, value in zip(table.columns, point, strict=True)})


def _read_numbers(rows: list[dict[str, str]], columns: tuple[str, ...], path: Path, missing: bool) -> np.ndarray:
    try:
        points = np.array([[float(row[name] or "nan") for name in columns] for row in rows])
    except (TypeError, ValueError):
        points = np.array([[np.inf]])
    if not rows or np.isinf(points).any() or (np.isnan(points).any() and not missing):
        raise FileError(
            f"A number was expected in each of {', '.join(columns)}, and one row at least. Received: "
            f"path={str(path)!r}. Fill in or drop the rows that are incomplete."
        )
    return points
