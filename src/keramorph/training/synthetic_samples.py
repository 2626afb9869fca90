"""A few synthetic pairs to look at, and to write to files: what a recipe's synthesis makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keramorph.errors import OptionError
from keramorph.io import write_image
from keramorph.preparation import PairOptions
from keramorph.space import Grid, Image
from keramorph.training.recipe import Fit, Synthesis
from keramorph.training.sources import make_synthetic_pairs
from keramorph.transforms import DisplacementTransform, from_voxel_displacement, write_transform

NAMES = ("fixed", "moving", "fixed_labels", "moving_labels")


def draw_synthetic_pairs(
    synthesis: Synthesis, options: PairOptions, *, count: int = 4, seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """Return pairs as a training would see them, with the seed that a training has: its first ones.

    Args:
        synthesis: What they are made of.
        options: Their sizes.
        count: Number of pairs.
        seed: Seed of all that is drawn.

    Returns:
        Dictionaries of `fixed` and `moving`, `(*spatial, 1)` float32 from 0 to 1, of `fixed_labels` and
        `moving_labels`, `(*spatial, 1)` int32, 0 where no label is scored, and of the true `displacement`,
        `(*spatial, ndim)` in voxels.

    Raises:
        OptionError: If an option cannot take its value.

    Example:
        >>> from keramorph.preparation import PairOptions
        >>> plain = Synthesis(num_labels=4, image={"effects": []})
        >>> pairs = draw_synthetic_pairs(plain, PairOptions((16, 16)), count=2)
        >>> len(pairs), pairs[0]["fixed"].shape
        (2, (16, 16, 1))
    """
    if count < 1:
        raise OptionError(f"A number of pairs of at least 1 was expected. Received: count={count}. Take 4.")
    dataset = make_synthetic_pairs(synthesis, options, Fit(seed=seed), steps=count)
    scored = np.array(dataset.pairs.scored)
    if synthesis.maps is not None:
        scored = np.array([0, *options.labels])[scored]
    pairs = []
    for index in range(count):
        pair = {name: array[0] for name, array in dataset[index][0].items()}
        for name in ("fixed_labels", "moving_labels"):
            pair[name] = (pair[name] @ scored.astype(np.float32))[..., None].astype(np.int32)
        pairs.append(pair)
    return pairs


def write_synthetic_pair(pair: dict[str, np.ndarray], folder: str | Path, *, spacing: tuple[float, ...]) -> list[Path]:
    """Write a pair to NIfTI files, and its true displacement as a transform that ITK reads.

    Args:
        pair: One of `draw_synthetic_pairs`.
        folder: Folder for `fixed`, `moving`, `fixed_labels` and `moving_labels`, `.nii.gz`, and `transform.h5`, from
            fixed to moving points; made where it is missing.
        spacing: Millimetres between voxels along each array axis.

    Returns:
        The files.

    Example:
        >>> write_synthetic_pair(pair, "pair-1", spacing=(1.0, 1.0))  # doctest: +SKIP
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    grid = Grid.from_spacing(pair["fixed"].shape[:-1], spacing)
    for name in NAMES:
        write_image(Image(pair[name], grid), folder / f"{name}.nii.gz")
    field = from_voxel_displacement(pair["displacement"], grid)
    write_transform(DisplacementTransform(field, grid), folder / "transform.h5")
    return [*(folder / f"{name}.nii.gz" for name in NAMES), folder / "transform.h5"]
