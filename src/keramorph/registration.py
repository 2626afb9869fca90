"""Two images in, one aligned with the other out, or many such pairs: read, solve, wrap up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from keramorph import backend
from keramorph.errors import ArrayTypeError, InputError, OptionError
from keramorph.io import read_image
from keramorph.prediction.opening import open_predictor
from keramorph.prediction.shipped_network import BUILTIN
from keramorph.preparation import finest_spacing
from keramorph.solver import Config, LevelRecord, MetricChoice, Outcome, Progress, Solution, StartChoice
from keramorph.solver.mapping import to_numpy
from keramorph.solver.pyramid import Landmarks
from keramorph.solver.scan import Scan, list_channels, read_images, read_initial, read_known, to_layers
from keramorph.solver.search import Task, solve_all
from keramorph.solver.trust import judge, measure_field
from keramorph.space import Image
from keramorph.transforms import (
    AffineTransform,
    CompositeTransform,
    DisplacementTransform,
    Transform,
    from_voxel_displacement,
)

__all__ = ["Config", "Outcome", "Progress", "RegistrationResult", "Scan", "register", "register_batch"]


@dataclass(frozen=True, eq=False)
class RegistrationResult:
    """What a registration found, and what it is good for.

    Args:
        fixed: Fixed image; the first one where there are several on either side, as for the next two.
        moving: Moving image, on its own grid.
        moved: Moving image on the fixed grid, aligned, in the moving image's data type; its lowest value where the
            moving image says nothing.
        transform: From fixed to moving points in millimetres: the displacement first, then the affine part; the latter
            alone where `Config.transform` asks for no more. The displacement lies on the fixed grid, or, where that has
            more than `Config.field_voxels` voxels, on a coarser one over the same field of view.
        inverse: From moving to fixed points.
        outcome: Whether the result can be trusted, and what speaks against it.
        metric: What the images were compared by, and why.
        metrics: Numbers by name. `loss_start`, `loss_affine` (or `loss_rigid`, `loss_similarity`), `loss_predicted` (of
            what a model predicted, where the deformation began from that) and `loss_deformable` are 1 minus the
            similarity, by the metric on the grid of the displacement, and what a `Scan` adds; `overlap` is the share of
            the fixed image inside the moving one and `contrast` how much more alike they are than when shifted apart;
            `folds_percent`, `jacobian_min` and `jacobian_max` describe the local change of volume;
            `displacement_mean_mm` and `displacement_max_mm` the deformable part, and `spacing_mm` its finest spacing;
            `inverse_residual_mean_mm` and `inverse_residual_max_mm` the error of the inverse,
            `inverse_residual_mean_voxels` that in units of this spacing; `seconds_affine`, `seconds_deformable` and
            `seconds_total` the time, of all pairs that were deformed together, and since the first of them was read,
            where there were several. With landmarks, `landmarks_start_mm`, `landmarks_mean_mm` and `landmarks_max_mm`
            are their distances.
        history: Losses and seconds of each level.
        config: The parameters.
        start: What the deformation began from, and why; None where no model predicted a start.

    Example:
        >>> rows, columns = np.mgrid[:32, :32]
        >>> fixed = np.exp(-((rows - 15.0) ** 2 / 60 + (columns - 15.0) ** 2 / 30))
        >>> result = register(fixed, np.roll(fixed, 2, axis=0))
        >>> result.apply_points([[15.0, 15.0]]).round(0).tolist()
        [[15.0, 17.0]]
    """

    fixed: Image
    moving: Image
    moved: Image
    transform: CompositeTransform
    inverse: CompositeTransform
    outcome: Outcome
    metric: MetricChoice
    metrics: dict[str, float]
    history: tuple[LevelRecord, ...] = field(repr=False)
    config: Config
    start: StartChoice | None = None

    def apply(self, image: Any, *, labels: bool = False) -> Image:
        """Return another image of the moving space as seen from the fixed grid.

        Args:
            image: Anything that `register` takes, in the physical space of the moving image.
            labels: Whether the values are labels: then each voxel takes the nearest one and 0 outside; otherwise values
                are interpolated, with the lowest of them outside.

        Returns:
            The image on the fixed grid, in its own data type.

        Raises:
            ShapeError: If the image has another number of axes.

        Example:
            >>> rows, columns = np.mgrid[:32, :32]
            >>> fixed = np.exp(-((rows - 15.0) ** 2 / 60 + (columns - 15.0) ** 2 / 30))
            >>> result = register(fixed, np.roll(fixed, 2, axis=0))
            >>> result.apply((np.roll(fixed, 2, axis=0) > 0.5).astype("uint8"), labels=True).array.dtype
            dtype('uint8')
        """
        image = read_image(image)
        if labels:
            return self.transform.resample(image, self.fixed.grid, order=0)
        return self.transform.resample(image, self.fixed.grid, fill_value=_lowest(image.array))

    def apply_points(self, points: Any) -> np.ndarray:
        """Return where points of the fixed image lie in the moving image.

        Args:
            points: Points `(..., ndim)` in millimetres (x, y, z), LPS.

        Returns:
            Points `(..., ndim)` in millimetres, float64.

        Example:
            >>> rows, columns = np.mgrid[:32, :32]
            >>> disc = np.exp(-((rows - 15.0) ** 2 + (columns - 15.0) ** 2) / 60)
            >>> register(disc, disc).apply_points([[4.0, 9.0]]).round(3).tolist()
            [[4.0, 9.0]]
        """
        return self.transform.apply_points(points)


def register(
    fixed: Any,
    moving: Any,
    *,
    masks: tuple[Any, Any] = (None, None),
    initial: Any = None,
    config: Config | None = None,
    engine: str = "numpy",
    progress: Callable[[Progress], None] | None = None,
) -> RegistrationResult:
    """Return the moving image laid on the fixed one, with the transform that does it and its inverse.

    The images may differ in size, spacing, orientation and position; their physical grids say how. They are compared by
    the squared local correlation of their intensities, the mean of the channels where a file has several, or by what
    `Config.metric` names. First the best of several starts (headers, centres, centres of mass, principal axes), then an
    affine transform, then a diffeomorphic deformation, each from coarse to fine; `Config.transform` asks for less, a
    rigid one for example. Images that are alike by this measure nowhere, a CT and an MRI for one, are moved by a small
    affine transform after their mutual information and deformed by a search of their self-similarities; the outcome is
    `untrusted`. Bodies may be turned any way round and lie anywhere.

    Several images of either side, T1 and T2 for example, are channels: how alike two are is the mean over them. Each
    fixed image is compared with the moving one of its place in the list.

    Args:
        fixed: The image whose grid the result lives on: a path, a SimpleITK or nibabel image, a `keramorph.Image`, or a
            NumPy array of 2 or 3 spatial axes with voxels of 1 mm; or a list of these, of which the further ones are
            laid on the grid of the first and count where they reach; or a `Scan`, which adds landmarks and labels.
            What these cost where they do not meet (`Config.landmark_weight`, `Config.label_weight`) is added to the
            loss, and they pull in both stages; the search of self-similarities alone does not heed them.
        moving: The image to be moved, likewise.
        masks: What counts of the fixed and of the moving image, not 0 where it does, on the grid of its image: anything
            that one image may be. None where all counts. Of several images a mask counts for all and lies on the grid
            of the first; a list has one for each, on its own grid, or None. What is masked out, a lesion for one, does
            not draw: it follows what is around it. NaN and infinite values are masked out in any case.
        initial: Where the search starts, in place of looking for a start: a transform from fixed to moving points, or
            the path of its file. The affine part of one that deforms is kept as it is.
        config: Parameters; None for the defaults.
        engine: Whose arrays the solver works on: `"numpy"`, `"torch"`, `"jax"` or `"tensorflow"`. PyTorch takes the
            device behind a colon, `"torch:cuda"`; the other two choose it themselves.
        progress: Called with a `Progress` as the search goes on.

    Returns:
        The result. Whether it can be trusted is in its `outcome`.

    Raises:
        FileError: If a file is missing or cannot be read.
        InputError: If an image has no contrast or no finite value.
        ShapeError: If one image is 2-D and the other 3-D, or a mask, the labels or the landmarks do not fit.
        OptionError: If one side has more images than the other, one image alone has landmarks or labels, or the engine
            is unknown, not installed, or has no such device.

    Example:
        >>> rows, columns = np.mgrid[:32, :32]
        >>> fixed = np.exp(-((rows - 15.0) ** 2 / 60 + (columns - 15.0) ** 2 / 30))
        >>> result = register(fixed, np.roll(fixed, 2, axis=0))
        >>> result.outcome.status, result.moved.array.shape
        ('done', (32, 32, 1))

    References:
        Yushkevich et al., Fast automatic segmentation of hippocampal subfields and medial temporal lobe subregions in
        3 Tesla and 7 Tesla T2-weighted MRI, 2016, doi:10.1016/j.jalz.2016.06.1205; Heinrich et al., Non-parametric
        discrete registration with convex optimisation, 2014, doi:10.1007/978-3-319-08554-8_6.
    """
    began = time.perf_counter()
    config = Config() if config is None else config
    model = _open_model(config)
    given = _read((fixed, moving), masks, initial, config, _choose_arrays(engine))
    (solution,) = solve_all(_hand_over([given], [progress], model), config)
    return _wrap_up(given, solution, config, began)


def register_batch(
    pairs: Iterable[tuple[Any, Any]],
    *,
    masks: Sequence[tuple[Any, Any]] | None = None,
    initial: Sequence[Any] | None = None,
    config: Config | None = None,
    engine: str = "numpy",
    progress: Callable[[int, Progress], None] | None = None,
) -> list[RegistrationResult]:
    """Return what `register` returns of each of many pairs, those of one shape deformed together.

    Each result is that of the pair alone, whatever the others are. Starts and affine transforms are found pair by pair.
    Then those whose images have the same shapes and the fixed ones the same spacing are deformed together, every
    operation on one array of all of them: on a GPU, small images wait for as many launches as one pair would. Others
    form groups of their own. Pairs with landmarks or labels, with a mask for each of several channels, with so many
    voxels that they bend by blocks, and those whose self-similarities are searched are deformed one by one, as all are
    with a time budget, which is that of each pair.

    All pairs are read before the first one is aligned, and are in memory at once.

    Args:
        pairs: Fixed and moving image of each, both anything that `register` takes.
        masks: Those of each pair, as `register` takes them; None where all counts in all pairs.
        initial: Where the search of each pair starts, None to look for a start; None to do so in all pairs.
        config: Parameters of all pairs; None for the defaults.
        engine: Whose arrays the solver works on, as for `register`.
        progress: Called with the number of a pair in the list, from 0, and its `Progress`.

    Returns:
        The results, in the order of the pairs.

    Raises:
        ArrayTypeError: If a pair is no tuple of two images.
        OptionError: If there are no pairs, or not as many masks or starts.
        InputError: What `register` raises of a pair; the message begins with its number.

    Example:
        >>> rows, columns = np.mgrid[:32, :32]
        >>> fixed = np.exp(-((rows - 15.0) ** 2 / 60 + (columns - 15.0) ** 2 / 30))
        >>> results = register_batch([(fixed, np.roll(fixed, shift, axis=0)) for shift in (1, 2)])
        >>> [result.apply_points([[15.0, 15.0]]).round(0).tolist() for result in results]
        [[[15.0, 16.0]], [[15.0, 17.0]]]
    """
    began = time.perf_counter()
    config = Config() if config is None else config
    like, pairs, model = _choose_arrays(engine), list(pairs), _open_model(config)
    if not pairs:
        raise OptionError("At least one pair of images was expected. Received: pairs=[]. Give (fixed, moving) tuples.")
    given = []
    rest = _list_each(masks, "masks", (None, None), len(pairs)), _list_each(initial, "initial", None, len(pairs))
    for number, (pair, mask, start) in enumerate(zip(pairs, *rest, strict=True)):
        with _name_pair(number):
            given.append(_read(_check_two(pair, "images"), _check_two(mask, "masks"), start, config, like))
    listeners = [None if progress is None else partial(progress, number) for number in range(len(pairs))]
    solutions = solve_all(_hand_over(given, listeners, model), config)
    return [_wrap_up(one, solution, config, began) for one, solution in zip(given, solutions, strict=True)]


def _list_each(values: Sequence[Any] | None, name: str, default: Any, count: int) -> list[Any]:
    """An option of each pair."""
    listed = [default] * count if values is None else list(values)
    if len(listed) != count:
        raise OptionError(
            f"`{name}` holds one entry for each pair. Received: {len(listed)} of them for {count} pairs. Put "
            f"{default} where a pair has none."
        )
    return listed


def _check_two(pair: Any, name: str) -> tuple[Any, Any]:
    """What a pair has, of the fixed and of the moving image."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        told = f" of length {len(pair)}" if isinstance(pair, tuple | list) else ""
        raise ArrayTypeError(
            f"The {name} of a pair are a tuple of two, fixed and moving. Received: {type(pair).__name__}{told}. "
            "Several images of one side are a list in the place of one: ([t1, t2], [t1, t2])."
        )
    return pair[0], pair[1]


@contextmanager
def _name_pair(number: int) -> Iterator[None]:
    """Put the number of a pair before the message of what is wrong with it."""
    try:
        yield
    except (InputError, ArrayTypeError) as problem:
        raise type(problem)(f"pairs[{number}]: {problem}") from problem


@dataclass(eq=False)
class _Given:
    """A pair as it was read: the first image of either side, its landmarks, and what the solver takes, once."""

    fixed: Image
    moving: Image
    landmarks: Landmarks | None
    tasks: list[Task]


def _hand_over(
    given: Sequence[_Given], listeners: Sequence[Callable[[Progress], None] | None], model: Any
) -> Iterator[Task]:
    """What the solver takes, which nobody else holds: it may let go of the images."""
    for one, listener in zip(given, listeners, strict=True):
        predict = None if model is None else partial(_predict, model, one.fixed, one.moving)
        yield replace(one.tasks.pop(), listener=listener, predict=predict)


def _predict(model: Any, fixed: Image, moving: Image, matrix: np.ndarray) -> Transform:
    """The displacement that a model finds of two images once a matrix has aligned them."""
    return model.predict(fixed, moving, matrix=matrix)


def _read(pair: tuple[Any, Any], masks: tuple[Any, Any], initial: Any, config: Config, like: Any) -> _Given:
    """Images, and what is known of them, in arrays of an engine."""
    scans = tuple(given if isinstance(given, Scan) else Scan(given) for given in pair)
    images = read_images(scans)
    fixed, moving = images[0][0], images[1][0]
    start = None if initial is None else read_initial(initial, fixed.grid, like)
    known = read_known(scans, (fixed, moving), like)
    channels = list_channels(images, masks, config.channels)
    layers = to_layers(channels, like, together=config.metric == "mse")
    return _Given(fixed, moving, known.landmarks, [Task(*layers, known, start)])


def _open_model(config: Config) -> Any:
    """What predicts a start of the deformation; None without a model."""
    if config.model is None or (config.model == BUILTIN and config.transform != "deformable"):
        return None  # the builtin one may come with a preset, and nobody asked for it
    if config.transform != "deformable":
        raise OptionError(
            f"A model predicts a displacement, for a deformable transform. Received: transform={config.transform!r} "
            "and a model. Leave one of the two out."
        )
    return open_predictor(config.model)


def _choose_arrays(engine: str) -> Any:
    """An array of an engine, on its device: what all others are to be like."""
    name, _, device = engine.partition(":")
    like = backend.use(name).xp.zeros((1,), dtype="float32")
    if not device:
        return like
    try:
        return like.to(device)
    except (AttributeError, RuntimeError, AssertionError) as problem:
        raise OptionError(
            f"A device that the engine has was expected. Received: engine={engine!r} ({problem}). "
            'Take "torch:cuda" where PyTorch finds a GPU; the other engines choose their device themselves.'
        ) from None


def _measure_landmarks(result: RegistrationResult, fixed: np.ndarray, moving: np.ndarray) -> RegistrationResult:
    """The result with the distances of its landmarks."""
    before, after = (np.linalg.norm(points - moving, axis=1) for points in (fixed, result.apply_points(fixed)))
    found = {"start": before.mean(), "mean": after.mean(), "max": after.max()}
    return replace(result, metrics=result.metrics | {f"landmarks_{k}_mm": float(v) for k, v in found.items()})


def _wrap_up(given: _Given, solution: Solution, config: Config, began: float) -> RegistrationResult:
    """Transforms, moved image and numbers of a solution."""
    fixed, moving, landmarks = given.fixed, given.moving, given.landmarks
    affine = AffineTransform(solution.matrix)
    field_mm = from_voxel_displacement(to_numpy(solution.displacement)[0], solution.grid)
    displacement = DisplacementTransform(field_mm, solution.grid)
    back, residual = displacement.inverse_with_residual()
    bends = config.transform == "deformable"
    transform = CompositeTransform([displacement, affine] if bends else [affine])
    moved = transform.resample(moving, fixed.grid, fill_value=_lowest(moving.array))
    metrics = {
        **{f"loss_{name}": loss for name, loss in solution.losses.items()},
        "overlap": solution.overlap,
        "contrast": solution.contrast,
        **measure_field(solution, field_mm),
        "inverse_residual_mean_mm": float(residual.mean()),
        "inverse_residual_max_mm": float(residual.max()),
        "inverse_residual_mean_voxels": float(residual.mean()) / finest_spacing(solution.grid),
        **{f"seconds_{stage}": _add_seconds(solution, stage) for stage in ("affine", "deformable")},
        "seconds_total": time.perf_counter() - began,
    }
    inverse = CompositeTransform([affine.inverse(), back] if bends else [affine.inverse()])
    outcome = judge(solution, folds=metrics["folds_percent"])
    found = (solution.metric, metrics, solution.history, config, solution.start)
    result = RegistrationResult(fixed, moving, moved, transform, inverse, outcome, *found)
    return result if landmarks is None else _measure_landmarks(result, *landmarks)


def _add_seconds(solution: Solution, stage: str) -> float:
    return sum(record.seconds for record in solution.history if record.stage == stage)


def _lowest(array: np.ndarray) -> float:
    """Lowest finite value of an image: what lies outside it, background or air."""
    finite = array if array.dtype.kind != "f" else array[np.isfinite(array)]
    return float(finite.min()) if finite.size else 0.0
