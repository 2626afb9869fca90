"""Networks that are trained on the images of all pairs of a case but one, without labels, and register that one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from benchmarks.studies import pairs
from benchmarks.studies.networks import NETWORKS
from benchmarks.studies.pairs import Pair
from benchmarks.studies.running import Report, run
from benchmarks.studies.scoring import score
from keramorph.io import read_image
from keramorph.prediction.predictor import to_transform
from keramorph.preparation import cover, finest_spacing, frame_content, lay_in_middle, prepare_image
from keramorph.space import Grid, Image
from keramorph.transforms import AffineTransform, CompositeTransform, write_transform

PROGRAMS = (*NETWORKS, "greedy NCC 100x50x10")
"""The networks, and a program that learns nothing."""
_MULTIPLE = 16
"""What the sizes of the images are divisible by, as the networks halve them four times."""
_LIMIT = 20.0
"""Seconds by the clock for each one of training: what else runs on the machine takes its share."""


class Prepared:
    """The images of a case on grids of one shape and spacing.

    Images of one grid are laid as their headers say, others on the middle of what each of them shows.

    Args:
        paths: Files of the images.
    """

    def __init__(self, paths: list[Path]) -> None:
        images = {path: read_image(path) for path in paths}
        frames = _frame(images)
        spacing = min(finest_spacing(image.grid) for image in images.values())
        sizes = np.max([cover(frame, spacing).shape for frame in frames.values()], axis=0)
        shape = tuple(int(n) for n in -(-sizes // _MULTIPLE) * _MULTIPLE)
        self.grids = {path: lay_in_middle(frame, shape, spacing) for path, frame in frames.items()}
        self.arrays = {path: self._prepare(image, path) for path, image in images.items()}

    def _prepare(self, image: Image, path: Path) -> np.ndarray:
        still = AffineTransform(np.eye(image.grid.ndim + 1))
        return prepare_image(image, self.grids[path], still, name=path.name).mean(axis=-1)


def _frame(images: dict[Path, Image]) -> dict[Path, Grid]:
    """What each image shows of its grid, or all of them together where they share one."""
    first = next(iter(images.values()))
    if all(image.grid.matches(first.grid) for image in images.values()):
        shown = np.any([image.array > np.nanmin(image.array) for image in images.values()], axis=0)
        return dict.fromkeys(images, frame_content(Image(shown, first.grid)))
    return {path: frame_content(image) for path, image in images.items()}


def measure(
    python: Path, threads: int, chosen: list[Pair], programs: list[str], seconds: float, report: Report
) -> Iterator[dict[str, Any]]:
    """Yield one row per pair and program; a program that fails gets a row with the reason."""
    networks = [program for program in programs if program in NETWORKS]
    others = [program for program in programs if program not in NETWORKS]
    cases = {case: [pair for pair in chosen if pair.case == case] for case in dict.fromkeys(p.case for p in chosen)}
    done, total = 0, len(chosen) * len(networks)
    for case, of_case in cases.items():
        # All pairs of the case are there to learn from, also where but some are to be registered.
        every = pairs.read_pairs(of_case[0].folder.parent, [case], None)
        prepared = Prepared(sorted({path for pair in every for path in _list_images(pair)}))
        for pair in of_case:
            with tempfile.TemporaryDirectory(prefix="keramorph-learning-") as name:
                _write_images(pair, prepared, Path(name))
                for program in networks:
                    report(done, total, f"{case}, {pair.entry['id']}: {program}")
                    done += 1
                    row = {"case": case, "pair": pair.entry["id"], "method": program}
                    yield row | _measure_one(python, program, pair, prepared, Path(name), seconds)
    for row in pairs.measure(python, threads, chosen, others, report):
        yield row | ({} if "failed" in row else {"seconds": row["seconds_registering"]})


def _list_images(pair: Pair) -> list[Path]:
    return [pair.folder / pair.entry[side] for side in pairs.SIDES]


def _write_images(pair: Pair, prepared: Prepared, folder: Path) -> None:
    """The pair, and the images of the case that are not in it."""
    fixed, moving = _list_images(pair)
    learning = [array for path, array in prepared.arrays.items() if path not in (fixed, moving)]
    arrays = {"fixed": prepared.arrays[fixed], "moving": prepared.arrays[moving], "learning": np.stack(learning)}
    np.savez(folder / "images.npz", **arrays)


def _measure_one(
    python: Path, program: str, pair: Pair, prepared: Prepared, folder: Path, seconds: float
) -> dict[str, Any]:
    found = folder / "displacement.npy"
    found.unlink(missing_ok=True)
    command = [str(python), "-m", "benchmarks.studies.networks", program, str(folder), str(seconds)]
    finished = run(command, 1, _LIMIT * seconds, framework="tensorflow")
    if finished.code != 0:
        return {"failed": finished.explain(), "seconds_training": seconds}
    transform = _place(np.load(found), *(prepared.grids[path] for path in _list_images(pair)), folder)
    return {**finished.read_figures(), "seconds_training": seconds, **score(pair.folder, pair.entry, transform)}


def _place(displacement: np.ndarray, fixed: Grid, moving: Grid, folder: Path) -> sitk.Transform:
    """The transform between physical points that a displacement in voxels between two grids of one shape stands for."""
    shift = np.eye(fixed.ndim + 1)
    shift[:-1, -1] = moving.center - fixed.center
    whole = CompositeTransform([to_transform(displacement[None], fixed), AffineTransform(shift)])
    write_transform(whole, folder / "transform.h5")
    return sitk.ReadTransform(str(folder / "transform.h5"))
