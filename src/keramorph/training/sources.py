"""The pairs that a recipe names, as data sets for Keras: from files, or synthetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from keramorph._keras import keras
from keramorph.errors import FileError, OptionError
from keramorph.io import read_image
from keramorph.preparation import PairOptions, prepare_labels, read_on_grid_of
from keramorph.synthesis import PairFromLabels, RandomShapes, SyntheticPairs
from keramorph.training.pair_dataset import PairDataset
from keramorph.training.pair_lists import Pair, is_image, pair_bids, pair_folder, read_pairs
from keramorph.training.parts import build_part
from keramorph.training.recipe import PARTS, DataSource, Fit, Synthesis
from keramorph.transforms import AffineTransform

SYNTHETIC_STEPS, SYNTHETIC_VALIDATION = 100, 8
"""Synthetic batches in an epoch of training, and in a validation, where the recipe names no number."""


class BatchesOf(keras.utils.PyDataset):
    """Some of the batches of another data set, which is a function of its epoch.

    Args:
        dataset: The other one.
        steps: How many of its batches; no more than there are.
        frozen: Whether all epochs have the same ones.
    """

    def __init__(self, dataset: Any, steps: int, *, frozen: bool = False) -> None:
        super().__init__(workers=dataset.workers)
        self.dataset, self.frozen = dataset, frozen
        self.steps = min(steps, len(dataset))

    @property
    def epoch(self) -> int:
        """Number of the epoch of the other one."""
        return self.dataset.epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self.dataset.epoch = value

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def on_epoch_end(self) -> None:
        """Go on to the next epoch."""
        if not self.frozen:
            self.dataset.on_epoch_end()


def list_pairs(source: DataSource) -> list[Pair]:
    """Return the pairs of files that a section of a recipe names."""
    if source.table is not None:
        return read_pairs(source.table)
    if source.bids is not None:
        return pair_bids(source.bids, suffix=source.suffix)
    return pair_folder(str(source.folder), labels=source.labels, pattern=source.pattern)


def count_channels(source: DataSource) -> int:
    """Return how many channels the images of a section have, by the first of them."""
    return 1 if source.synthesis is not None else read_image(list_pairs(source)[0].fixed).channels


def make_learning(source: DataSource, options: PairOptions, fit: Fit) -> Any:
    """Return the batches to learn from, other ones in each epoch."""
    if source.synthesis is not None:
        steps = SYNTHETIC_STEPS if fit.steps is None else fit.steps
        return make_synthetic_pairs(source.synthesis, options, fit, steps=steps)
    pairs = PairDataset(
        list_pairs(source),
        options,
        batch_size=fit.batch_size,
        seed=fit.seed,
        cache=source.cache,
        align=source.align,
        workers=fit.workers,
    )
    return pairs if fit.steps is None else BatchesOf(pairs, fit.steps)


def make_validation(source: DataSource, options: PairOptions, fit: Fit) -> Any:
    """Return the batches to validate with, the same in each epoch."""
    if source.synthesis is None:
        pairs, size = list_pairs(source), fit.batch_size
        return PairDataset(pairs, options, batch_size=size, seed=None, cache=source.cache, align=source.align)
    pairs = make_synthetic_pairs(source.synthesis, options, fit, steps=SYNTHETIC_VALIDATION)
    # An epoch that no training reaches: none of these pairs is ever learned from.
    pairs.epoch = 2**31
    return BatchesOf(pairs, SYNTHETIC_VALIDATION, frozen=True)


def make_synthetic_pairs(synthesis: Synthesis, options: PairOptions, fit: Fit, *, steps: int) -> SyntheticPairs:
    """Return batches of synthetic pairs.

    Args:
        synthesis: What they are made of.
        options: Their sizes, and the labels of the maps if they are made of such.
        fit: Batch size, seed and workers.
        steps: Batches in an epoch.

    Raises:
        OptionError: If a part cannot be made.
        FileError: If label maps are named and there are none.
    """
    maps = None if synthesis.maps is None else _read_maps(Path(synthesis.maps), options)
    num_labels = synthesis.num_labels if maps is None else len(options.labels) + 1
    parts = {
        name: build_part(arguments, PARTS[name], where=f"synthesis.{name}", implied={"num_labels": num_labels})
        for name in ("image", "deformation", "affine")
        if (arguments := getattr(synthesis, name)) is not None
    }
    shapes = build_part(synthesis.shapes, PARTS["shapes"], where="synthesis.shapes", implied={"num_labels": num_labels})
    pairs = PairFromLabels(**parts, scored=synthesis.scored, alike=synthesis.alike)
    labels: RandomShapes | np.ndarray = shapes if maps is None else maps
    batch_size, seed = fit.batch_size, fit.seed
    dataset = SyntheticPairs(options.shape, pairs=pairs, labels=labels, batch_size=batch_size, steps=steps, seed=seed)
    dataset.workers = fit.workers
    return dataset


def _read_maps(folder: Path, options: PairOptions) -> np.ndarray:
    """Label maps `(count, *shape, 1)` on the common grid."""
    if not options.labels:
        raise OptionError(
            "Label maps need the values that count. Received: synthesis.maps with preparation.labels=[]. Name them in "
            "`preparation.labels`."
        )
    files = sorted(path for path in folder.iterdir() if is_image(path)) if folder.is_dir() else []
    if not files:
        raise FileError(f"A folder of label maps was expected. Received: maps={str(folder)!r}, without any.")
    maps = []
    for path in files:
        image, grid = read_on_grid_of(path, options)
        still = AffineTransform(np.eye(grid.ndim + 1))
        maps.append(prepare_labels(image, grid, still, labels=options.labels, name=str(path)))
    return np.stack(maps)
