"""Pairs of image files as batches for Keras, the same on every run."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keramorph._keras import keras
from keramorph.errors import FileError, InputError, OptionError
from keramorph.io import read_image
from keramorph.preparation import PairOptions, prepare_image, prepare_labels, read_on_grid_of
from keramorph.space import Grid, Image
from keramorph.training.alignment import Align, Alignment, open_alignment
from keramorph.training.image_cache import ImageCache
from keramorph.training.pair_landmarks import count_landmarks, find_indices, read_landmarks, view_indices
from keramorph.training.pair_lists import Pair, check_pairs
from keramorph.transforms import AffineTransform, Transform

_MOST_PROBLEMS = 10


class PairDataset(keras.utils.PyDataset):
    """Batches of pairs of images from files, all on one grid: dictionaries for `RegistrationModel.fit`.

    A batch has `fixed` and `moving`, `(batch, *shape, channels)` float32 in [0, 1], and, where the pairs have label
    maps, `fixed_labels` and `moving_labels`, `(batch, *shape, labels)` float32, one-hot without the background. Where
    some have landmarks, it has `fixed_landmarks` and `moving_landmarks`, `(batch, points, ndim)` float32 in voxels, as
    many as the pair with the most of them has: NaN where one is missing, or lies outside of what the image shows. The
    last batch of an epoch may be smaller.

    All files are read when the dataset is made, so that what is wrong with any of them is said before training starts,
    all of it at once. What comes of them is kept. The order of the pairs, the windows and the mirrorings follow from
    the seed and the number of the epoch alone, whatever has run before.

    Args:
        pairs: Pairs of files: `Pair`s, or tuples of as many of its entries.
        options: The common grid, the labels and the augmentation.
        batch_size: Pairs in a batch.
        seed: Seed of the order and of the augmentation; None goes through the pairs as listed, whole and as they are:
            for validation.
        cache: Folder that keeps what was made of the files for the next run; None keeps it in memory, for this one.
        align: `"rigid"`, `"similarity"` or `"affine"`: what `keramorph.register` finds for each pair, by which the
            moving image, its labels and its landmarks are brought onto the fixed one. Or a function of the fixed and
            the moving `Image` that returns a transform from fixed to moving points; a cache on disk does not see when
            the function changes: then empty it. None leaves pairs as their middles lie. Each is aligned when it is
            first asked for.
        workers: Threads that make batches ahead.

    Attributes:
        epoch: Number of the epoch, from which order and augmentation follow. It goes up at the end of each pass;
            `ResumableCheckpoint` sets it to that of `fit`.

    Raises:
        InputError: If the pairs are no pairs, or their files, which it names, cannot be used together.
        OptionError: If an option cannot take its value.

    Example:
        >>> import tempfile
        >>> from keramorph.io import write_image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("one", "two"):
        ...         write_image(read_image(np.random.default_rng(0).random((20, 18))), f"{folder}/{name}.nii.gz")
        ...     dataset = PairDataset([(f"{folder}/one.nii.gz", f"{folder}/two.nii.gz")], PairOptions((16, 16)))
        >>> dataset[0]["moving"].shape
        (1, 16, 16, 1)
    """

    def __init__(
        self,
        pairs: Sequence[Sequence[str | Path | None]],
        options: PairOptions,
        *,
        batch_size: int = 1,
        seed: int | None = 0,
        cache: str | Path | None = None,
        align: Align | Alignment | None = None,
        workers: int = 1,
    ) -> None:
        super().__init__(workers=workers)
        self.pairs = check_pairs(pairs)
        self.options = options
        self.batch_size = int(batch_size)
        self.seed = seed
        self.align = None if align is None else open_alignment(align)
        self._aligned = f"aligned {align}" if isinstance(align, str) else "aligned"
        self.epoch = 0
        self._cache = ImageCache(cache)
        self._landmarks = 0
        if self.batch_size < 1:
            raise OptionError(f"A batch has at least one pair. Received: batch_size={batch_size!r}. Take 1.")
        if self.has_labels and not options.labels:
            raise OptionError(
                "Label maps need the values that get a channel. Received: pairs with labels, options.labels=(). Give "
                "PairOptions(labels=(1, 2, ...)), or pairs without labels."
            )
        self._check_files()

    @property
    def has_labels(self) -> bool:
        """Whether the pairs have label maps."""
        return self.pairs[0].fixed_labels is not None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self.pairs) // self.batch_size)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Return one batch of the present epoch."""
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches. Received: index={index}.")
        order = np.arange(len(self.pairs))
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        places = range(index * self.batch_size, min((index + 1) * self.batch_size, len(order)))
        samples = [self._vary(self._load(self.pairs[order[place]]), place) for place in places]
        return {name: np.stack([sample[name] for sample in samples]).astype(np.float32) for name in samples[0]}

    def on_epoch_end(self) -> None:
        """Go on to the next epoch; Keras calls it, and once more when `fit` begins."""
        self.epoch += 1

    def _check_files(self) -> None:
        """Prepare each file once; raise what is wrong with any of them, together."""
        wanted = sorted({file for pair in self.pairs for file in _list_files(pair)})
        problems: list[str] = []
        channels: dict[int, Path] = {}
        for path, frame, labelled in wanted:
            try:
                array = self._prepare(path, frame, labelled)
            except InputError as problem:
                # A label map in the frame of a bad image only repeats what is wrong with that.
                problems += [] if str(problem) in problems else [str(problem)]
                continue
            if not labelled:
                channels.setdefault(array.shape[-1], path)
        problems += self._check_landmarks()
        if len(channels) > 1:
            listed = ", ".join(f"{count} in {str(path)!r}" for count, path in sorted(channels.items()))
            problems.append(f"All images have as many channels. Received: {listed}. Take the mean of the colours.")
        if problems:
            more = len(problems) - _MOST_PROBLEMS
            listed = "\n".join(problems[:_MOST_PROBLEMS]) + (f"\nand {more} more" if more > 0 else "")
            raise FileError(f"Of {len(wanted)} files some cannot be used:\n{listed}")

    def _check_landmarks(self) -> list[str]:
        """Count the landmarks of each pair; what is wrong with their files."""
        problems = []
        for pair in self.pairs:
            try:
                self._landmarks = max(self._landmarks, count_landmarks(pair, len(self.options.shape)))
            except FileError as problem:
                problems.append(str(problem))
        return list(dict.fromkeys(problems))

    def _prepare(self, path: Path, frame: Path, labelled: bool) -> np.ndarray:
        """A file on the common grid, laid on the middle of the image `frame`: the file itself, or that of its image."""
        options = self.options
        settings = (options.shape, options.spacing, options.labels if labelled else None)

        def make() -> np.ndarray:
            image, grid = read_on_grid_of(path, options)
            if frame != path:
                grid = read_on_grid_of(frame, options)[1]
            still, name = AffineTransform(np.eye(grid.ndim + 1)), f"image {str(path)!r}"
            if labelled:
                return prepare_labels(image, grid, still, labels=options.labels, name=str(path))
            return prepare_image(image, grid, still, name=name)

        return self._cache.get(self._cache.name((path, frame), *settings), make)

    def _load(self, pair: Pair) -> dict[str, np.ndarray]:
        """Arrays of a pair by name, label maps as numbers of channels."""
        files = {name: Path(file) for name, file in pair._asdict().items() if file is not None}
        settled = files if self.align is None else {name: file for name, file in files.items() if "fixed" in name}
        found = self._load_missing()
        for name, file in settled.items():
            frame = files[name.split("_")[0]]
            if name.endswith("landmarks"):
                found[name] = self._place_landmarks(file, frame)
            else:
                found[name] = self._prepare(file, frame, name.endswith("labels"))
        return found if self.align is None else found | self._load_aligned(files)

    def _load_missing(self) -> dict[str, np.ndarray]:
        """Landmarks of a pair that has none, where others have some."""
        nowhere = np.full((self._landmarks, len(self.options.shape)), np.nan)
        return {f"{side}_landmarks": nowhere for side in ("fixed", "moving") if self._landmarks}

    def _place_landmarks(self, path: Path, frame: Path) -> np.ndarray:
        """Landmarks of a file in voxels of the common grid, laid on the middle of their image."""

        def make() -> np.ndarray:
            grid = read_on_grid_of(frame, self.options)[1]
            return find_indices(read_landmarks(path, grid.ndim), grid, self._landmarks)

        settings = (self.options.shape, self.options.spacing, self._landmarks)
        return self._cache.get(self._cache.name((path, frame), "landmarks", *settings), make)

    def _load_aligned(self, files: dict[str, Path]) -> dict[str, np.ndarray]:
        """The moving image, its labels and its landmarks on the grid of the fixed one, by the transform between."""
        options = self.options

        @functools.cache  # for all of them, and only where the cache lacks one
        def align() -> tuple[Image, Grid, Transform]:
            fixed, grid = read_on_grid_of(files["fixed"], options)
            moving = read_image(files["moving"])
            return moving, grid, self._find_transform(files, fixed, moving)

        def make_image() -> np.ndarray:
            moving, grid, transform = align()
            return prepare_image(moving, grid, transform, name=f"image {str(files['moving'])!r}")

        def make_labels() -> np.ndarray:
            path, (_, grid, transform) = files["moving_labels"], align()
            return prepare_labels(read_image(path), grid, transform, labels=options.labels, name=str(path))

        def make_landmarks() -> np.ndarray:
            _, grid, transform = align()
            points = read_landmarks(files["moving_landmarks"], grid.ndim)
            known = np.isfinite(points).all(axis=-1)
            points[known] = transform.inverse().apply_points(points[known])
            return find_indices(points, grid, self._landmarks)

        settings = (self._aligned, options.shape, options.spacing, options.labels, self._landmarks)
        found = {}
        for kind, make in (("", make_image), ("_labels", make_labels), ("_landmarks", make_landmarks)):
            name = f"moving{kind}"
            if name in files:
                key = self._cache.name((files["fixed"], files["moving"], files[name]), kind, *settings)
                found[name] = self._cache.get(key, make)
        return found

    def _find_transform(self, files: dict[str, Path], fixed: Image, moving: Image) -> Transform:
        try:
            return self.align(fixed, moving)  # type: ignore[misc]
        except InputError as problem:
            said = f"{files['moving']} cannot be aligned with {files['fixed']}: {problem}"
            raise type(problem)(said) from problem

    def _vary(self, arrays: dict[str, np.ndarray], place: int) -> dict[str, np.ndarray]:
        """A sample of a pair: its window, mirrored or not, with a channel for each label."""
        window, mirrored = self._draw_view(place)
        channels = np.arange(1, len(self.options.labels) + 1)
        sample = {}
        for name, array in arrays.items():
            if name.endswith("landmarks"):
                sample[name] = view_indices(array, window, mirrored)
                continue
            seen = np.flip(array[window], mirrored)
            sample[name] = seen == channels if name.endswith("labels") else seen
        return sample

    def _draw_view(self, place: int) -> tuple[tuple[slice, ...], tuple[int, ...]]:
        """Window and mirrored axes of the pair at a place in the order of this epoch."""
        options = self.options
        if self.seed is None:
            return tuple(slice(0, n) for n in options.shape), ()
        generator = np.random.default_rng([self.seed, self.epoch, place])
        crop = options.crop or options.shape
        starts = [int(generator.integers(n - c + 1)) for n, c in zip(options.shape, crop, strict=True)]
        window = tuple(slice(start, start + c) for start, c in zip(starts, crop, strict=True))
        return window, tuple(axis for axis in options.flip if generator.random() < 0.5)


def _list_files(pair: Pair) -> list[tuple[Path, Path, bool]]:
    """Files of a pair, each with the image on whose middle the common grid is laid, and whether it is a label map."""
    sides = ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels))
    images = [(Path(image), Path(image), False) for image, _ in sides]
    return images + [(Path(labels), Path(image), True) for image, labels in sides if labels is not None]
