"""The page in the docs: tables of one run between two marks, figures beside the JSON."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.machine import ROOT
from benchmarks.tables import REFERENCES, TITLES
from benchmarks.targets import Rows, find_time

PAGE = ROOT / "docs" / "reference" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"
_FIGURES = {
    "ratios": "How long a 3-D warp takes: Keramorph on each framework, other libraries, the bare kernel and a copy",
    "cost": "Cost against size",
    "roofline": "Bytes moved per second against the bandwidth of a copy",
}


def read_recorded() -> dict[str, Any]:
    """What was recorded last."""
    return json.loads((RESULTS / "cpu.json").read_text())


def record(result: dict[str, Any], flames: Path) -> None:
    """Renew the JSON, the figures, with the flame graph where there is one, and the measured part of the page."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cpu.json").write_text(json.dumps(result, indent=1) + "\n")
    drawn = figures.draw_all(result, RESULTS)
    if result["register"]:
        (RESULTS / flames.name).unlink(missing_ok=True)  # the picture of another run
        if flames.exists():
            shutil.copy(flames, RESULTS)
    replace_measured(PAGE, render(result, drawn))


def replace_measured(page: Path, measured: str) -> None:
    """Put what was measured between the marks of a page."""
    head, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    page.write_text(f"{head}{_BEGIN}\n\n{measured}\n{_END}{tail}", encoding="utf-8")


def render(result: dict[str, Any], drawn: list[Path]) -> str:
    """Markdown of all that was measured."""
    parts = [write_machine(result["machine"])]
    for path in drawn:
        parts.append(f"![{_FIGURES[path.stem]}](../../benchmarks/results/{path.name})")
    for section in ("warp", "warp2d", "lncc", "gaussian", "exponentiate"):
        parts += _render_section(section, [row for row in result["rows"] if row["section"] == section])
    parts += _render_exponents(result["exponents"])
    parts += _render_memory(result["memory"])
    parts += _render_registration(result["register"])
    parts += _render_targets(result["targets"])
    return "\n\n".join(parts) + "\n"


def write_machine(about: dict[str, Any]) -> str:
    """One sentence on the machine and the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    where = f"{about['cpu']}, {about['threads']} threads, Python {about['python']}"
    return f"Measured on {about['date']}: {where}, {versions}."


def _render_section(section: str, rows: Rows) -> list[str]:
    if not rows:
        return []
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    shape = " × ".join(map(str, rows[0]["shape"]))
    lines = [f"| on | candidate | {' | '.join(modes)} | difference |", f"| --- | --- |{' ---: |' * (len(modes) + 1)}"]
    for framework, name in dict.fromkeys((row["framework"], row["name"]) for row in rows):
        mine = {row["mode"]: row for row in rows if (row["framework"], row["name"]) == (framework, name)}
        cells = [_describe(mine.get(mode), find_time(rows, section, *REFERENCES[section], mode)) for mode in modes]
        differences = [one for row in mine.values() for one in row["differences"]]
        away = f"{max(differences):.0e}" if differences else ""
        bold = "**" if name == "keramorph" else ""
        lines.append(f"| {framework} | {bold}{name}{bold} | {' | '.join(cells)} | {away} |")
    explained = (
        f"Milliseconds ± half the interquartile range; in brackets how many times as fast as {REFERENCES[section][1]}."
    )
    return [f"### {TITLES[section]}, {shape}", explained, "\n".join(lines)]


def _describe(row: dict[str, Any] | None, base: float) -> str:
    if row is None:
        return ""
    low, high = row["quartiles"]
    ratio = "" if math.isnan(base) else f" ({figures.shorten(base / row['milliseconds'])}×)"
    return f"{figures.shorten(row['milliseconds'])} ± {50 * (high - low) / row['milliseconds']:.0f} %{ratio}"


def _render_exponents(lines: list[dict[str, Any]]) -> list[str]:
    if not lines:
        return []
    rows = ["| on | candidate | image | mode | 2-D | 3-D |", "| --- | --- | --- | --- | ---: | ---: |"]
    keys = ("framework", "name", "dtype", "mode")
    for key in dict.fromkeys(tuple(line[k] for k in keys) for line in lines):
        found = {line["ndim"]: line["exponent"] for line in lines if tuple(line[k] for k in keys) == key}
        rows.append(f"| {' | '.join(key)} | {' | '.join(f'{found[n]:.2f}' if n in found else '' for n in (2, 3))} |")
    return ["### Cost against size: the exponent p of time = c · voxels^p", "\n".join(rows)]


def _render_memory(memory: list[dict[str, Any]]) -> list[str]:
    measured = [one for one in memory if "extra" in one]
    if not measured:
        return []
    engines = list(dict.fromkeys(one["engine"] for one in measured))
    rows = [f"| kernel | allowed | {' | '.join(engines)} |", f"| --- | ---: |{' ---: |' * len(engines)}"]
    for kernel in dict.fromkeys(one["kernel"] for one in measured):
        mine = {one["engine"]: one for one in measured if one["kernel"] == kernel}
        cells = [f"{mine[engine]['extra'] / 1e6:.0f}" if engine in mine else "" for engine in engines]
        rows.append(f"| {kernel} | {next(iter(mine.values()))['allowed'] / 1e6:.0f} | {' | '.join(cells)} |")
    return ["### Peak memory of one call beyond its inputs, MB", "\n".join(rows)]


def _render_registration(rows: Rows) -> list[str]:
    if not rows:
        return []
    lines = [f"- {row['pair']}, kernels {row['kernels']}: {row['seconds']:.1f} s" for row in rows]
    parts = [f"### A whole registration from the shell, on {rows[0]['date']}", "\n".join(lines)]
    if (RESULTS / "register.svg").exists():
        parts += [
            "Where the time goes with the kernels on, as Python sees it: each bar is a function, as wide as its time.",
            "![Flame graph of keramorph register](../../benchmarks/results/register.svg)",
        ]
    return parts


def _render_targets(targets: list[dict[str, Any]]) -> list[str]:
    if not targets:
        return []
    rows = ["| what | on | target | measured | met |", "| --- | --- | ---: | ---: | --- |"]
    for one in targets:
        bound = f"{'≥' if one['at_least'] else '≤'} {one['bound']:g}{one['unit'].replace('x', '×')}"
        measured = f"{one['measured']:.2f}{one['unit'].replace('x', '×')}"
        rows.append(
            f"| {one['what']} | {one['framework']} | {bound} | {measured} | {'yes' if one['met'] else '**no**'} |"
        )
    return ["### Targets", "\n".join(rows)]
