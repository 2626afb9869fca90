"""The terminal's tables."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.plan import REFERENCE
from benchmarks.targets import Rows, Verdict, find_time, fit_exponents

TITLES = {
    "warp": "Warp, 3-D",
    "warp2d": "Warp, 2-D",
    "lncc": "Local correlation: value and gradient to the moved image",
    "gaussian": "Gaussian smoothing of a field",
    "exponentiate": "Exponential of a velocity field",
    "sizes": "Cost against size",
}
REFERENCES = {
    "warp": ("torch", REFERENCE),
    "warp2d": ("torch", REFERENCE),
    "lncc": ("peers", "MONAI LNCC"),
    "gaussian": ("numpy", "scipy gaussian_filter"),
    "exponentiate": ("torch", "grid_sample loop"),
    "sizes": ("torch", REFERENCE),
}
"""To whom the ratios of a section are; a mode that this one lacks is compared with nobody."""

_TOLERANCES = {"lncc": 1e-2}
"""Difference, as a share of the greatest value, from which a result counts as another one: 1e-3 unless it is here.

Libraries differ in what a window holds at the border, which moves the mean correlation a little.
"""


def print_section(console: Console, section: str, rows: Rows) -> None:
    """Print one line per candidate: milliseconds with half the interquartile range, and the ratio, per mode."""
    rows = [row for row in rows if row["section"] == section]
    if not rows:
        return
    if section == "sizes":
        _print_sizes(console, rows)
        return
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    shape = " x ".join(map(str, rows[0]["shape"]))
    reference = REFERENCES[section]
    table = Table(
        title=f"{TITLES[section]} ({shape}); ratios: how many times as fast as {reference[1]}", title_justify="left"
    )
    table.add_column("on")
    table.add_column("candidate")
    for mode in modes:
        table.add_column(f"{mode}\nms  spread  ratio", justify="right")
    table.add_column("difference", justify="right")
    for framework, name in dict.fromkeys((row["framework"], row["name"]) for row in rows):
        mine = {row["mode"]: row for row in rows if (row["framework"], row["name"]) == (framework, name)}
        cells = [_describe(mine.get(mode), find_time(rows, section, *reference, mode)) for mode in modes]
        style = "bold green" if name == "keramorph" else "cyan" if name == reference[1] else ""
        table.add_row(framework, name, *cells, _describe_differences(list(mine.values())), style=style)
    console.print(table)


def _describe(row: dict[str, Any] | None, base: float) -> str:
    if row is None:
        return ""
    low, high = row["quartiles"]
    spread = 50 * (high - low) / row["milliseconds"]
    ratio = "" if math.isnan(base) else f"{base / row['milliseconds']:7.2f}x"
    return f"{row['milliseconds']:9.2f} ±{spread:3.0f}% {ratio}"


def _describe_differences(rows: Rows) -> str:
    values = [one for row in rows for one in row["differences"]]
    if not values:
        return ""
    worst = max(values)
    tolerance = _TOLERANCES.get(rows[0]["section"], 1e-3)
    return f"{worst:.0e}" if worst <= tolerance else f"[red]{worst:.0e}[/red]"


def _print_sizes(console: Console, rows: Rows) -> None:
    exponents = fit_exponents(rows)
    for ndim in (2, 3):
        mine = [row for row in rows if len(row["shape"]) - 1 == ndim]
        shapes = sorted({tuple(row["shape"]) for row in mine})
        table = Table(title=f"Cost against size, {ndim}-D, milliseconds; p: time = c voxels**p", title_justify="left")
        for heading in ("on", "candidate", "image", "mode"):
            table.add_column(heading)
        for shape in shapes:
            table.add_column(f"{shape[-1]}^{ndim}", justify="right")
        table.add_column("p", justify="right")
        keys = ("framework", "name", "dtype", "mode")
        for key in dict.fromkeys(tuple(row[k] for k in keys) for row in mine):
            times = {tuple(row["shape"]): row["milliseconds"] for row in mine if tuple(row[k] for k in keys) == key}
            power = [e["exponent"] for e in exponents if tuple(e[k] for k in keys) == key and e["ndim"] == ndim]
            cells = [f"{times[shape]:.3g}" if shape in times else "" for shape in shapes]
            table.add_row(*key, *cells, f"{power[0]:.2f}" if power else "")
        console.print(table)


def print_memory(console: Console, memory: list[dict[str, Any]]) -> None:
    """Print peak memory of each kernel beside what is allowed."""
    measured = [one for one in memory if "extra" in one]
    if not measured:
        return
    table = Table(
        title="Peak memory of one call beyond its inputs, MB (allowed: output and one field)", title_justify="left"
    )
    engines = list(dict.fromkeys(one["engine"] for one in measured))
    table.add_column("kernel")
    table.add_column("allowed", justify="right")
    for engine in engines:
        table.add_column(engine, justify="right")
    for kernel in dict.fromkeys(one["kernel"] for one in measured):
        mine = {one["engine"]: one for one in measured if one["kernel"] == kernel}
        cells = [_describe_memory(mine.get(engine)) for engine in engines]
        table.add_row(kernel, f"{next(iter(mine.values()))['allowed'] / 1e6:.0f}", *cells)
    console.print(table)


def _describe_memory(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    text = f"{one['extra'] / 1e6:.0f}"
    return text if one["extra"] <= one["allowed"] else f"[red]{text}[/red]"


def print_registration(console: Console, rows: Rows) -> None:
    """Print how long the command took."""
    for row in rows:
        outcome = "" if row["exit"] == 0 else f" (exit status {row['exit']})"
        console.print(f"keramorph register {row['pair']}, kernels {row['kernels']}: {row['seconds']:.1f} s{outcome}")


def print_missing(console: Console, missing: dict[str, str]) -> None:
    """Print who is absent, and why."""
    for name, reason in missing.items():
        console.print(f"[yellow]missing[/yellow] {name}: {reason}", highlight=False)


def print_verdicts(console: Console, verdicts: list[Verdict], *, complete: bool) -> None:
    """Print target, measured, met: one line per promise and framework."""
    if not verdicts:
        return
    title = "Targets" if complete else "Targets (they speak of the full sizes: what follows only shows that all works)"
    table = Table(title=title, title_justify="left")
    for heading in ("what", "on"):
        table.add_column(heading)
    for heading in ("target", "measured", "met"):
        table.add_column(heading, justify="right")
    for one in verdicts:
        bound = f"{'at least' if one.at_least else 'at most'} {one.bound:g}{one.unit}"
        met = "yes" if one.met else "[red]no[/red]"
        table.add_row(one.what, one.framework, bound, f"{one.measured:.2f}{one.unit}", met)
    console.print(table)
    kept = sum(one.met for one in verdicts)
    console.print(f"{kept} of {len(verdicts)} met")
