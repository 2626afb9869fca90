"""Files of a run, and the page in the docs that shows those that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.page import RESULTS, replace_measured, write_machine
from benchmarks.studies.drawing import draw
from benchmarks.studies.tables import make_tables

PAGE = RESULTS.parents[1] / "docs" / "reference" / "studies.md"
TITLES = {
    "recovery": "A known deformation",
    "robustness": "Any way round",
    "pairs": "Real pairs",
    "learning": "Networks",
}
"""The studies, as they follow each other on the page."""


def write_json(study: str, result: dict[str, Any], folder: Path) -> Path:
    """Write what was measured, even where a study is not at its end."""
    path = folder / f"{study}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def write_picture(study: str, result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw a study; returns the file, where there was something to draw."""
    figure = draw(study, result["rows"])
    if figure is None:
        return []
    path = folder / f"{study}.png"
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
    return [path]


def record(study: str, result: dict[str, Any], results: Path = RESULTS, page: Path = PAGE) -> None:
    """Keep the JSON and the picture of a study, and renew the page from those of all studies."""
    write_json(study, result, results)
    write_picture(study, result, results)
    parts = []
    for name, title in TITLES.items():
        path = results / f"{name}.json"
        if path.exists():
            parts += _render(name, title, json.loads(path.read_text(encoding="utf-8")), results)
    replace_measured(page, "\n\n".join(parts) + "\n")


def _render(study: str, title: str, result: dict[str, Any], results: Path) -> list[str]:
    parts = [f"## Measured: {title[0].lower()}{title[1:]}", write_machine(result["machine"])]
    if (results / f"{study}.png").exists():
        parts.append(f"![{title}](../../benchmarks/results/{study}.png)")
    return parts + [table.write() for table in make_tables(study, result["rows"])]
