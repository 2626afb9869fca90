"""What issue 3 promises, and whether this run kept it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.plan import FORWARD, REFERENCE, TO_BOTH, TO_FIELD

Rows = list[dict[str, Any]]

OWN = ("numpy", "torch", "jax", "tensorflow")
_JAX_FORMS = ("JAX cumsum", "JAX reduce_window", "JAX shifted sums", "JAX band matrices")
_SMALLEST = 2**16
"""Voxels from which the cost of a call itself no longer counts in the fit of cost against size."""

_LINEAR = 1.1
"""Exponent of cost against size up to which the cost counts as linear: small images lie in the cache."""


@dataclass(frozen=True)
class Verdict:
    """One promise: `measured` must be at least (or at most) `bound`."""

    what: str
    framework: str
    bound: float
    at_least: bool
    measured: float
    unit: str

    @property
    def met(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"measured": round(self.measured, 4), "met": self.met}


def find_time(rows: Rows, section: str, framework: str, name: str, mode: str) -> float:
    """Median milliseconds, or NaN where that was not measured."""
    for row in rows:
        if (row["section"], row["framework"], row["name"], row["mode"]) == (section, framework, name, mode):
            return float(row["milliseconds"])
    return math.nan


def judge(result: dict[str, Any]) -> list[Verdict]:
    """All promises about which this run says something."""
    rows = result["rows"]
    found = [*_judge_warp(rows), *_judge_filters(rows), *_judge_lncc(rows), *_judge_memory(result["memory"])]
    found += [
        Verdict(
            f"cost against size, {line['ndim']}-D {line['mode']}",
            line["framework"],
            _LINEAR,
            False,
            line["exponent"],
            "",
        )
        for line in fit_exponents(rows)
        if line["name"] == "keramorph" and line["dtype"] == "float32"
    ]
    return [verdict for verdict in found if not math.isnan(verdict.measured)]


def _judge_warp(rows: Rows) -> Iterator[Verdict]:
    for section, label, bounds in (
        ("warp", "3-D", {FORWARD: 22, TO_FIELD: 18, TO_BOTH: 13}),
        ("warp2d", "2-D", {FORWARD: 8, TO_FIELD: 8, TO_BOTH: 8}),
    ):
        for mode, bound in bounds.items():
            base = find_time(rows, section, "torch", REFERENCE, mode)
            for framework in OWN:
                least = 10 if framework == "tensorflow" and section == "warp" else bound
                own = find_time(rows, section, framework, "keramorph", mode)
                yield Verdict(f"{label} {mode}, against grid_sample", framework, least, True, base / own, "x")
    if any(row["name"] == "bare kernel" and row["note"].startswith("no extension") for row in rows):
        return  # nothing bare to compare with: that row is the NumPy engine
    for framework in OWN:
        most = 1.5 if framework == "tensorflow" else 1.2
        for mode in (FORWARD, TO_FIELD, TO_BOTH):
            own = find_time(rows, "warp", framework, "keramorph", mode)
            bare = find_time(rows, "warp", "numpy", "bare kernel", mode)
            yield Verdict(f"3-D {mode}, against the bare kernel", framework, most, False, own / bare, "x")


def _judge_filters(rows: Rows) -> Iterator[Verdict]:
    for framework in OWN:
        for mode, bound in (("sigma 1", 10), ("sigma 3", 6)):
            base = find_time(rows, "gaussian", "numpy", "scipy gaussian_filter", mode)
            own = find_time(rows, "gaussian", framework, "keramorph", mode)
            yield Verdict(f"Gaussian, {mode}, against scipy", framework, bound, True, base / own, "x")
    for framework in OWN:
        base = find_time(rows, "exponentiate", "torch", "grid_sample loop", "7 squarings")
        own = find_time(rows, "exponentiate", framework, "keramorph", "7 squarings")
        yield Verdict("exponentiate, against the torch loop", framework, 10, True, base / own, "x")


def _judge_lncc(rows: Rows) -> Iterator[Verdict]:
    forms = [find_time(rows, "lncc", "jax", name, "window 9") for name in _JAX_FORMS]
    best = min((one for one in forms if not math.isnan(one)), default=math.nan)
    monai = find_time(rows, "lncc", "peers", "MONAI LNCC", "window 9")
    for framework in OWN:
        own = {size: find_time(rows, "lncc", framework, "keramorph", f"window {size}") for size in (5, 9, 17)}
        yield Verdict("LNCC window 9, against MONAI", framework, 150, True, monai / own[9], "x")
        yield Verdict("LNCC window 9, against the best jitted JAX form", framework, 4, True, best / own[9], "x")
        yield Verdict("LNCC, window 17 against window 5", framework, 1.15, False, own[17] / own[5], "x")


def _judge_memory(memory: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
    for one in memory:
        if "extra" in one:
            share = one["extra"] / one["allowed"]
            what = f"peak memory of {one['kernel']}, against output and one field"
            yield Verdict(what, one["engine"], 1.0, False, share, "x")


def fit_exponents(rows: Rows) -> list[dict[str, Any]]:
    """Per candidate the exponent p of time = c voxels**p, fitted in logarithms over images that are not tiny."""
    groups: dict[tuple, list[tuple[float, float]]] = {}
    for row in rows:
        voxels = math.prod(row["shape"])
        if row["section"] == "sizes" and voxels >= _SMALLEST:
            key = (row["framework"], row["name"], row["mode"], row["dtype"], len(row["shape"]) - 1)
            groups.setdefault(key, []).append((math.log(voxels), math.log(row["milliseconds"])))
    names = ("framework", "name", "mode", "dtype", "ndim")
    return [
        dict(zip(names, key, strict=True)) | {"exponent": float(np.polyfit(*zip(*points, strict=True), 1)[0])}
        for key, points in groups.items()
        if len(points) > 1
    ]
