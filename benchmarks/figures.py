"""The figures of the page in the docs, drawn from the JSON of one run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.candidates.bytes_moved import bytes_per_voxel
from benchmarks.plan import FORWARD, REFERENCE, TO_BOTH, TO_FIELD
from benchmarks.targets import OWN, Rows, find_time

_OWN_COLOUR, _BARE_COLOUR, _REFERENCE_COLOUR, _OTHER_COLOUR = "#1b7f5c", "#7cc3a8", "#c0504d", "#b9bec6"
_COLOURS = dict(zip(OWN, ("#4c566a", "#c0504d", "#1b7f5c", "#d08b2e"), strict=True))
_COPY = "copy of the same bytes"


def draw_all(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what the run has measured; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, drawn = result["rows"], []
    for name, draw in (("ratios", draw_ratios), ("cost", draw_cost), ("roofline", draw_roofline)):
        figure = draw(rows)
        if figure is not None:
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=120, metadata={"Software": None})
            plt.close(figure)
            drawn.append(path)
    return drawn


def draw_ratios(rows: Rows) -> plt.Figure | None:
    """How long everybody takes for the 3-D warp, and how many times as fast as the reference that is."""
    rows = [row for row in rows if row["section"] == "warp"]
    if not rows:
        return None
    modes = [mode for mode in (FORWARD, TO_FIELD, TO_BOTH) if any(row["mode"] == mode for row in rows)]
    count = max(sum(row["mode"] == mode for row in rows) for mode in modes)
    figure, panels = plt.subplots(1, len(modes), figsize=(5.2 * len(modes), 1.2 + 0.27 * count), layout="constrained")
    for panel, mode in zip([panels] if len(modes) == 1 else panels, modes, strict=True):
        base = find_time(rows, "warp", "torch", REFERENCE, mode)
        mine = sorted((row for row in rows if row["mode"] == mode), key=lambda row: -row["milliseconds"])
        times = [row["milliseconds"] for row in mine]
        panel.barh(range(len(mine)), times, color=[_colour(row) for row in mine])
        for place, time in enumerate(times):
            ratio = "" if math.isnan(base) else f", {shorten(base / time)}x"
            panel.text(1.1 * time, place, f"{shorten(time)} ms{ratio}", va="center", fontsize=7)
        panel.set_xlim(min(times) / 3, 12 * max(times))
        panel.set(xscale="log", title=mode, xlabel="milliseconds", yticks=range(len(mine)))
        panel.set_yticklabels([_label(row) for row in mine], fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    size = " x ".join(map(str, rows[0]["shape"][1:]))
    figure.suptitle(f"Warp of {size} float32; x: how many times as fast as {REFERENCE}")
    return figure


def shorten(number: float) -> str:
    """Write a number with two digits or more, and no exponent."""
    return f"{number:.0f}" if number >= 99.5 else f"{number:.2g}"


def _colour(row: dict[str, Any]) -> str:
    if row["name"] == "keramorph":
        return _OWN_COLOUR
    if row["name"] in ("bare kernel", _COPY):
        return _BARE_COLOUR
    return _REFERENCE_COLOUR if row["name"] == REFERENCE else _OTHER_COLOUR


def _label(row: dict[str, Any]) -> str:
    return f"{row['name']}, {row['framework']}" if row["name"] == "keramorph" else row["name"]


def draw_cost(rows: Rows) -> plt.Figure | None:
    """Time against the number of voxels, both logarithmic, with lines of slope 1 behind."""
    rows = [row for row in rows if row["section"] == "sizes"]
    if not rows:
        return None
    figure, panels = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained", sharex="col", sharey=True)
    for column, ndim in enumerate((2, 3)):
        for line, mode in enumerate((FORWARD, TO_FIELD)):
            panel = panels[line][column]
            mine = [row for row in rows if len(row["shape"]) - 1 == ndim and row["mode"] == mode]
            _draw_lines(panel, mine)
            panel.set(xscale="log", yscale="log", title=f"{ndim}-D, {mode}")
            panel.set_xlabel("pixels" if ndim == 2 else "voxels")
            panel.set_ylabel("milliseconds")
    for panel in panels.flat:
        _draw_slopes(panel)
    panels[0][0].legend(fontsize=7, loc="upper left")
    figure.suptitle("Cost against size; grey: exactly linear; dashed: float16 images")
    return figure


def _draw_lines(panel: plt.Axes, rows: Rows) -> None:
    for framework, name, dtype in dict.fromkeys((row["framework"], row["name"], row["dtype"]) for row in rows):
        if name == "bare kernel":
            continue
        points = sorted(
            (math.prod(row["shape"]), row["milliseconds"])
            for row in rows
            if (row["framework"], row["name"], row["dtype"]) == (framework, name, dtype)
        )
        colour = _COLOURS[framework] if name == "keramorph" else "black"
        style = {_COPY: ":", REFERENCE: "-."}.get(name, "--" if dtype == "float16" else "-")
        label = framework if name == "keramorph" else name
        panel.plot(*zip(*points, strict=True), style, color=colour, label=label if dtype == "float32" else None, lw=1.4)


def _draw_slopes(panel: plt.Axes) -> None:
    left, right = panel.get_xlim()
    low, high = panel.get_ylim()
    for power in range(-10, 3):
        start = 10.0**power * left
        panel.plot([left, right], [start, start * right / left], color="0.9", lw=0.8, zorder=0)
    panel.set(xlim=(left, right), ylim=(low, high))


def draw_roofline(rows: Rows) -> plt.Figure | None:
    """Bytes that a warp cannot avoid to move, per second, against the bandwidth of a plain copy."""
    sections = [one for one in ("warp", "warp2d") if any(row["section"] == one for row in rows)]
    if not sections:
        return None
    figure, panels = plt.subplots(
        1, len(sections), figsize=(6.5 * len(sections), 4.6), layout="constrained", squeeze=False
    )
    for panel, section in zip(panels[0], sections, strict=True):
        _draw_bandwidths(panel, [row for row in rows if row["section"] == section], section)
    figure.legend(*panels[0][0].get_legend_handles_labels(), fontsize=8, ncols=6, loc="outside lower center")
    figure.suptitle(
        "Bytes moved per second; line: a copy of as many bytes, and how long it takes: the floor of the time"
    )
    return figure


def _draw_bandwidths(panel: plt.Axes, rows: Rows, section: str) -> None:
    shape = rows[0]["shape"]
    modes = [mode for mode in (FORWARD, TO_FIELD, TO_BOTH) if any(row["mode"] == mode for row in rows)]
    bars = [("numpy", "bare kernel"), *((framework, "keramorph") for framework in OWN), ("torch", REFERENCE)]
    for group, mode in enumerate(modes):
        size = bytes_per_voxel(len(shape) - 1, mode) * math.prod(shape)
        for place, (framework, name) in enumerate(bars):
            time = find_time(rows, section, framework, name, mode)
            colour = _COLOURS[framework] if name == "keramorph" else "0.75" if name == "bare kernel" else "black"
            label = framework if name == "keramorph" else name
            panel.bar(group + place / 8, size / time / 1e6, 0.11, color=colour, label=label if group == 0 else None)
        floor = find_time(rows, section, "numpy", _COPY, mode)
        panel.hlines(size / floor / 1e6, group - 0.08, group + 0.72, color="0.3", lw=2)
        panel.text(group - 0.08, size / floor / 1e6, f"{floor:.3g} ms", va="bottom", fontsize=8)
    labels = [mode.replace(" backward", "\nbackward") for mode in modes]
    panel.set_xticks([group + 0.3 for group in range(len(modes))], labels)
    panel.set(ylabel="GB/s", title=" x ".join(map(str, shape)))
    panel.spines[["top", "right"]].set_visible(False)
