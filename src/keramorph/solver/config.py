"""The parameters of a registration."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from keramorph.errors import OptionError
from keramorph.solver.motion import Kind

Preset = Literal["fast", "default", "accurate"]
Metric = Literal["auto", "lncc", "ncc", "mse", "nmi", "ngf", "mind"]
Transform = Literal["rigid", "similarity", "affine", "deformable"]
Channels = Literal["mean", "each"]
Algorithm = Literal["greedy", "velocity", "symmetric", "bspline", "mixed"]

_PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"voxels": 1_000_000},
    "default": {},
    "accurate": {
        "iterations": 200,
        "tolerance": 3e-4,
        "work": 250_000_000,
        "model": "builtin",
        "model_iterations": 200,
    },
}


@dataclass(frozen=True)
class Config:
    """What a registration can be told; the defaults suit images of any size, spacing and dimension.

    Lengths are multiples of a level's spacing, which is isotropic and in millimetres: the finest level has the smallest
    spacing of the fixed image, and each coarser one twice the spacing of the one before. An axis whose voxels are
    larger than that keeps its own.

    Args:
        metric: What the images are compared by: `"lncc"`, squared local correlation; `"ncc"`, squared correlation of
            the whole images; `"mse"`, squared differences, for images of one unit; `"nmi"`, normalised mutual
            information; `"ngf"`, directions of edges; `"mind"`, self-similarities, which are searched, not followed.
            `"auto"` takes the local correlation, and self-similarities where that finds nothing.
        channels: What of an image with several channels, a coloured one for one: their `"mean"`, or `"each"` of them
            with that of the other image.
        transform: What may be found: `"rigid"`, rotation and shift; `"similarity"`, one scale besides; `"affine"`,
            stretch and shear too; `"deformable"`, an affine transform and a deformation.
        algorithm: How a deformation is found: `"greedy"`, by small updates composed one after the other; `"velocity"`,
            by a stationary velocity whose exponential it is; `"symmetric"`, by bending both images until they meet;
            `"bspline"`, by moving the control points of a spline; `"mixed"`, by a spline at the coarser levels and
            small updates at the finest.
        levels: Most levels of the pyramid of the deformable stage.
        iterations: Most iterations of the deformable stage at each level; 0 leaves it out.
        affine_levels: Most levels of the pyramid of the affine stage.
        affine_iterations: Most iterations of the affine stage at each level; 0 leaves the start as it is.
        window: Edge of the windows of the local correlation, in spacings of the level.
        finest_window: Edge of those windows at the finest level of the deformable stage, in its spacings, if that is no
            more than a quarter of the image: narrow ones tell a structure by its outline alone, wide ones by its
            brightness among its neighbours too.
        update_smoothing: Standard deviation of the Gaussian that smooths each update, in spacings of the level; two
            fifths more at the next coarser one, and again at all others.
        field_smoothing: Standard deviation of the Gaussian that smooths the displacement after each update, in spacings
            of the level; up to four times as much where the coarser level left more than two sevenths unexplained.
        control_spacing: Distance of the control points of a spline, in spacings of the level.
        step: Longest update in one iteration, in spacings of the level; below 0.5 no update folds.
        tolerance: The finest level ends when ten iterations raise the similarity by less than this share of it, the
            others when they raise it by less than a seventh of that.
        landmark_weight: Similarity that landmarks cost which miss each other by one spacing of the level, as a root
            mean square.
        label_weight: Similarity that labels cost which do not overlap at all.
        strain_weight: Similarity that a unit of squared strain of the affine part costs, which keeps it from being
            stretched where the images do not ask for it.
        voxels: Largest number of voxels at which the deformation is optimised; larger images are solved at the next
            coarser level.
        field_voxels: Largest number of voxels of the displacement; larger images are compared voxel by voxel, but bend
            by a displacement of twice their spacing.
        work: Most voxels that the deformable stage visits at each level, iterations times voxels of the level: what
            bounds the time that a large image takes.
        time_budget: Seconds that the whole of a registration may take, its files included; 0 for as many as it needs.
            What has been found by then is the result, which depends on the machine.
        model: A network that predicts one more start of the deformation, after the affine stage: `"builtin"` for that
            which comes along, the path of a `.keras` file, a Keras model, or a `keramorph.prediction.Predictor`; or a
            list, for their mean. It is taken if it lowers the loss where the deformation begins, and in any case where
            `iterations` is 0. The network stays as it is.
        model_iterations: Most iterations of the deformable stage at each level where the model's start is taken: what
            is nearly there needs few.
        search: Whether to look for a start among the headers, the centres and all turns; otherwise the headers are it.
        seed: Seed of every random choice, so that a run can be repeated; the present algorithms make none.

    Raises:
        OptionError: If a value is out of range.

    Example:
        >>> Config(iterations=0).levels
        5
    """

    metric: Metric = "auto"
    channels: Channels = "mean"
    transform: Transform = "deformable"
    algorithm: Algorithm = "greedy"
    levels: int = 5
    iterations: int = 100
    affine_levels: int = 3
    affine_iterations: int = 40
    window: float = 7.0
    finest_window: float = 45.0
    update_smoothing: float = 1.73
    field_smoothing: float = 0.5
    control_spacing: float = 4.0
    step: float = 0.4
    tolerance: float = 1e-3
    landmark_weight: float = 0.01
    label_weight: float = 1.0
    strain_weight: float = 0.05
    voxels: int = 20_000_000
    field_voxels: int = 700_000
    work: int = 60_000_000
    time_budget: float = 0.0
    model: Any = None
    model_iterations: int = 18
    search: bool = True
    seed: int = 0

    @classmethod
    def preset(cls, name: Preset) -> Config:
        """Return the parameters of a preset.

        Args:
            name: `"default"`; `"fast"` leaves the finest level of large images out; `"accurate"` lets every level go
                on as long as it gains, and asks the builtin network for one more start. `dataclasses.replace` changes
                single parameters of what comes.

        Raises:
            OptionError: If there is no such preset.

        Example:
            >>> Config.preset("fast").voxels
            1000000
        """
        if name not in _PRESETS:
            raise OptionError(f"`preset` must be one of {', '.join(get_args(Preset))}. Received: preset={name!r}.")
        return cls(**_PRESETS[name])

    @property
    def linear_kind(self) -> Kind:
        """What the linear stage finds: the transform, or the affine part of a deformable one."""
        return "affine" if self.transform == "deformable" else self.transform

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check_type(field.name, str(field.type))
        if self.metric not in get_args(Metric):
            raise OptionError(
                f"`metric` must be one of {', '.join(get_args(Metric))}. Received: metric={self.metric!r}. "
                "Its default is auto."
            )
        for name, lowest, highest in _RANGES:
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise OptionError(
                    f"`{name}` must lie between {lowest:g} and {highest:g}. Received: {name}={value}. "
                    f"Its default is {type(self).__dataclass_fields__[name].default}."
                )

    def _check_type(self, name: str, kind: str) -> None:
        value = getattr(self, name)
        if kind == "Any":  # what opens a model says what it expects
            return
        if kind in _CHOICES:
            if value not in _CHOICES[kind]:
                names = ", ".join(_CHOICES[kind])
                raise OptionError(f"`{name}` must be one of {names}. Received: {name}={value!r}.")
            return
        allowed, words = _TYPES[kind]
        if not isinstance(value, allowed) or isinstance(value, bool) != (kind == "bool"):
            raise OptionError(
                f"`{name}` must be {words}. Received: {name}={value!r}. "
                f"Its default is {type(self).__dataclass_fields__[name].default}."
            )


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "True or False"),
    "Metric": ((str,), f"one of {', '.join(get_args(Metric))}"),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "Channels": get_args(Channels),
    "Transform": get_args(Transform),
    "Algorithm": get_args(Algorithm),
}
_RANGES = (
    ("levels", 1, 12),
    ("iterations", 0, 100_000),
    ("model_iterations", 1, 100_000),
    ("affine_levels", 1, 12),
    ("affine_iterations", 0, 100_000),
    ("window", 3, 99),
    ("finest_window", 3, 999),
    ("update_smoothing", 0.5, 20),
    ("field_smoothing", 0, 20),
    ("control_spacing", 1, 100),
    ("step", 0.01, 0.5),
    ("tolerance", 0, 1),
    ("landmark_weight", 0, 1000),
    ("label_weight", 0, 1000),
    ("strain_weight", 0, 1000),
    ("voxels", 1000, 10**12),
    ("field_voxels", 1000, 10**12),
    ("work", 1000, 10**15),
    ("time_budget", 0, 10**9),
    ("seed", 0, 2**63),
)
