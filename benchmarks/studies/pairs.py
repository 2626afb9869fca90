"""How registration programs do on folders of real pairs: one row per pair and program."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from benchmarks.studies.methods import METHODS
from benchmarks.studies.running import LIMIT, Report, run, shorten, write_command, write_peer_command
from benchmarks.studies.scoring import score

COMMANDS = {"keramorph": (), "keramorph fast": ("--preset", "fast")}
"""Options of the command that a user runs."""
SIDES = ("fixed", "moving")
_FILES = (
    *SIDES,
    *(f"{side}_{what}" for side in SIDES for what in ("labels", "labels_2", "landmarks")),
    "landmarks",
    "flow",
)
PROGRAMS = (*COMMANDS, *METHODS["pairs"])


@dataclass(frozen=True)
class Pair:
    """Two images of a case.

    Args:
        case: Name of the case.
        folder: Where its files are.
        entry: What its `case.json` says about the pair.
    """

    case: str
    folder: Path
    entry: dict[str, Any]


def read_pairs(data: Path, cases: list[str] | None, most: int | None) -> list[Pair]:
    """The pairs of all sub-folders with a `case.json`, or of the named cases; of each case the first ones alone."""
    pairs = []
    for path in sorted(data.resolve().glob("*/case.json")):
        case = json.loads(path.read_text(encoding="utf-8"))
        if cases is None or case["case"] in cases:
            pairs += [Pair(case["case"], path.parent, entry) for entry in case["pairs"][:most]]
    return pairs


def find_missing(pairs: list[Pair]) -> Path | None:
    """The first file that a pair names and that is not there."""
    named = (pair.folder / pair.entry[key] for pair in pairs for key in _FILES if key in pair.entry)
    return next((path for path in named if not path.exists()), None)


def measure(
    python: Path, threads: int, pairs: list[Pair], programs: list[str], report: Report
) -> Iterator[dict[str, Any]]:
    """Yield one row per pair and program; a program that fails gets a row with the reason."""
    for place, pair in enumerate(pairs):
        with tempfile.TemporaryDirectory(prefix="keramorph-pairs-") as name:
            folder = Path(name)
            plain = tuple(_write_plain(pair, side, folder) for side in SIDES)
            for done, program in enumerate(programs, place * len(programs)):
                report(done, len(pairs) * len(programs), f"{pair.case}, {pair.entry['id']}: {program}")
                if program in COMMANDS:
                    images = [pair.folder / pair.entry[side] for side in SIDES]
                    command = write_command(*images, folder, *COMMANDS[program])
                else:
                    command = write_peer_command(python, "pairs", program, plain, folder / "transform.h5")
                row = {"case": pair.case, "pair": pair.entry["id"], "method": program}
                yield row | _measure_one(command, threads, pair, folder)


def _measure_one(command: list[str], threads: int, pair: Pair, folder: Path) -> dict[str, Any]:
    out, summary = folder / "transform.h5", folder / "summary.json"
    for path in (out, summary):
        path.unlink(missing_ok=True)
    finished = run(command, threads, LIMIT)
    # keramorph's 1 means "not to be trusted": there is a transform all the same. Nobody else may end with 1.
    if not out.exists() or finished.code not in ((0, 1) if summary.exists() else (0,)):
        return {"failed": finished.explain(), **finished.measure()}
    if summary.exists():
        own = json.loads(summary.read_text(encoding="utf-8"))["metrics"]["seconds_total"]
    else:
        own = finished.read_figures()["seconds"]
    row = {**finished.measure(), "seconds_registering": own}
    try:
        row |= score(pair.folder, pair.entry, sitk.ReadTransform(str(out)))
    except RuntimeError as problem:  # of SimpleITK: a transform that is none is a result, too
        return {"failed": shorten(str(problem)), **row}
    return row | ({"flagged": True} if finished.code == 1 else {})


def _write_plain(pair: Pair, side: str, folder: Path) -> Path:
    """An image as every program can read it: one channel of float32, the mean of a picture's colours, in MetaImage."""
    image = sitk.ReadImage(str(pair.folder / pair.entry[side]))
    channels = image.GetNumberOfComponentsPerPixel()
    if channels > 1:
        colours = [sitk.VectorIndexSelectionCast(image, n, sitk.sitkFloat32) for n in range(channels)]
        colours = colours[:-1] if channels in (2, 4) else colours  # without the opacity
        image = sum(colours[1:], colours[0]) / len(colours)
    plain = sitk.Cast(image, sitk.sitkFloat32)
    sitk.WriteImage(plain, str(folder / f"{side}.mha"))
    return folder / f"{side}.mha"
