"""A training in a file: the network, the losses, the data and the fit, read from YAML and checked key by key."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from keramorph.errors import OptionError
from keramorph.io.settings import check_settings, explain_name, read_settings
from keramorph.preparation import PairOptions
from keramorph.training.alignment import Alignment
from keramorph.training.parts import Part, Shelf, check_part
from keramorph.training.registration_options import RegistrationOptions

EXAMPLE = "keramorph train --print-config"
"""Command that shows a recipe."""

_SOURCES = ("folder", "table", "bids", "synthesis")
_PATHS = ("folder", "labels", "table", "bids", "cache", "maps")


@dataclass(frozen=True)
class Synthesis:
    """What synthetic pairs are made of: label maps, each deformed twice and painted twice, in random contrasts.

    Args:
        num_labels: Number of labels of the random shapes, background included.
        scored: Labels that get a channel; null for all.
        maps: Folder of label maps to take instead of random shapes, with the labels that `preparation` names.
        shapes: Arguments of `keramorph.synthesis.RandomShapes`.
        image: Arguments of `keramorph.synthesis.ImageFromLabels`.
        deformation: Arguments of `keramorph.synthesis.RandomDeformation`.
        affine: Arguments of `keramorph.synthesis.RandomAffine`; null leaves affine maps out.
        alike: Share of the pairs whose two images have one contrast.

    Example:
        >>> Synthesis(num_labels=8, shapes={"scales": [8.0]}).affine is None
        True
    """

    num_labels: int = 16
    scored: tuple[int, ...] | None = None
    maps: str | None = None
    shapes: Part = field(default_factory=dict)
    image: Part = field(default_factory=dict)
    deformation: Part = field(default_factory=dict)
    affine: Part | None = None
    alike: float = 0.0


@dataclass(frozen=True)
class DataSource:
    """Where pairs come from: one of `folder`, `table`, `bids` and `synthesis`. Paths count from the recipe's folder.

    Args:
        folder: Folder of images: each with each other one makes a pair.
        pattern: What the names of these images match.
        labels: Folder with a label map for each image of `folder`, of the same file name.
        table: CSV file with the columns fixed and moving, and perhaps fixed_labels and moving_labels.
        bids: BIDS tree: each anatomical image with each other one.
        suffix: Last part of the names of its images.
        align: What lays each moving image on its fixed one before a network sees it: `rigid`, `similarity` or `affine`,
            as `keramorph register` finds it; null leaves pairs as their middles lie.
        cache: Folder that keeps the prepared images for the next run.
        synthesis: Pairs made of random shapes, new ones in each step.

    Raises:
        OptionError: If none of these is named, or several are.

    Example:
        >>> DataSource(folder="images", labels="maps").pattern
        '*'
    """

    folder: str | None = None
    pattern: str = "*"
    labels: str | None = None
    table: str | None = None
    bids: str | None = None
    suffix: str = "T1w"
    align: Alignment | None = None
    cache: str | None = None
    synthesis: Synthesis | None = None

    def __post_init__(self) -> None:
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise OptionError(
                f"pairs come from one of {', '.join(_SOURCES)}. Received: {' and '.join(given) or 'none of them'}."
            )
        if self.align is not None and self.synthesis is not None:
            raise OptionError("synthetic pairs are aligned as they are made. Received: `align` with `synthesis`.")
        if self.labels is not None and self.folder is None:
            raise OptionError(f"`labels` belong to a `folder`. Received: labels with {given[0]}.")


@dataclass(frozen=True)
class Fit:
    """How the network is trained.

    Args:
        epochs: Times that the network sees all pairs, or `steps` batches.
        steps: Batches in an epoch; null for all pairs of files, and for 100 synthetic ones.
        batch_size: Pairs in a batch.
        optimizer: Class of keras.optimizers, or a mapping of its `class` and arguments.
        learning_rate: Length of the steps at the beginning.
        schedule: Whether the learning rate stays `constant`, or falls to 0 at the last epoch like half a `cosine`.
        ema: Momentum of a moving average of the weights, 0.999 for one, which is then validated and kept; null for
            none.
        accumulate: Batches whose gradients are added up for one step.
        precision: Data type of the network's layers: `float32`, `mixed_float16` or `mixed_bfloat16`.
        patience: Epochs without improvement in validation after which training ends; null for none.
        checkpoint_steps: Steps after which the state is written within an epoch; null for the end of epochs alone.
        pictures: Epochs from one picture of validation pairs to the next; 0 for none.
        seed: Seed of the weights, of the order of the pairs and of all that is drawn.
        workers: Threads that make batches ahead.

    Raises:
        OptionError: If an option cannot take its value.

    Example:
        >>> Fit(epochs=20, schedule="cosine").optimizer
        'Adam'
    """

    epochs: int = 100
    steps: int | None = None
    batch_size: int = 1
    optimizer: str | Part = "Adam"
    learning_rate: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    ema: float | None = None
    accumulate: int = 1
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    patience: int | None = None
    checkpoint_steps: int | None = None
    pictures: int = 10
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        counts = ("epochs", "steps", "batch_size", "accumulate", "patience", "checkpoint_steps", "workers")
        wrong = [f"{name}={value}" for name in counts if (value := getattr(self, name)) is not None and value < 1]
        wrong += [f"{name}={value}" for name in ("pictures", "seed") if (value := getattr(self, name)) < 0]
        if wrong:
            raise OptionError(f"counts are at least 1, `pictures` and `seed` at least 0. Received: {', '.join(wrong)}.")
        if not 0 < self.learning_rate < float("inf"):
            raise OptionError(f"`learning_rate` is more than 0. Received: learning_rate={self.learning_rate}.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise OptionError(f"`ema` lies between 0 and 1. Received: ema={self.ema}. Take 0.999.")


@dataclass(frozen=True)
class Recipe:
    """All that a training needs; `read_recipe` makes one of a file.

    A part of Keramorph or Keras is the name of its class, or a mapping of its `class` and of its arguments:
    `{"class": "VoxelMorph", "mode": "velocity"}`.

    Args:
        data: Where the pairs to learn from come from.
        preparation: The grid that all images are brought onto, the labels, and how pairs vary.
        network: A class of `keramorph.networks`; its `input_shape` follows from the data if it is left out.
        model: File of a model to go on from, instead of `network`.
        similarity: A class of `keramorph.losses` that compares the images; null learns from the labels alone.
        regularity: A class of `keramorph.losses` that measures the displacement.
        options: Weights of the terms of the loss, and further terms.
        validation: Where the pairs to validate with come from; null for none.
        training: How the network is trained.

    Raises:
        OptionError: If there is neither a network nor a model, or both.

    Example:
        >>> recipe = Recipe(DataSource(synthesis=Synthesis()), PairOptions((32, 32)), network="VoxelMorph")
        >>> recipe.training.batch_size
        1
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012, what pydantic reads, for the sections too

    data: DataSource
    preparation: PairOptions
    network: str | Part | None = None
    model: str | None = None
    similarity: str | Part | None = "LNCC"
    regularity: str | Part = "Diffusion"
    options: RegistrationOptions = field(default_factory=RegistrationOptions)
    validation: DataSource | None = None
    training: Fit = field(default_factory=Fit)

    def __post_init__(self) -> None:
        if (self.network is None) == (self.model is None):
            both = "both" if self.network is not None else "neither"
            raise OptionError(f"A recipe names a `network` to begin or a `model` to go on from. Received: {both}.")


def read_recipe(path: str | Path) -> Recipe:
    """Return the training that a file describes, checked: names, values, and the arguments of all parts.

    Args:
        path: A YAML file. Paths in it count from its own folder.

    Raises:
        FileError: If the file is missing, or no YAML.
        OptionError: If a name is not known or a value does not fit; all of them are told at once.

    Example:
        >>> import tempfile
        >>> text = "network: VoxelMorph\\npreparation: {shape: [32, 32]}\\ndata: {folder: images}"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "recipe.yaml").write_text(text)
        ...     recipe = read_recipe(Path(folder, "recipe.yaml"))
        >>> Path(recipe.data.folder).name, recipe.training.epochs
        ('images', 100)
    """
    path = Path(path)
    given = read_settings(path, kind="recipe", example=EXAMPLE)
    problems = [*_find_unknown(given, Recipe), *_check_parts(given)]
    recipe, wrong = check_settings(Recipe, _leave_out_unknown(given, Recipe))
    problems = [*problems, *wrong]
    if problems:
        listed = "\n".join(problems)
        raise OptionError(f"The recipe {path.name!r} cannot be used. {listed} `{EXAMPLE}` shows all keys.")
    return _resolve(recipe, path.absolute().parent)


def read_synthesis(path: str | Path) -> tuple[Synthesis, PairOptions | None]:
    """Return what a recipe says of synthetic pairs, and of their grid if it does; the rest may be missing.

    Args:
        path: A YAML file with `data: {synthesis: ...}` as in a recipe, or `synthesis:` alone.

    Raises:
        FileError: If the file is missing, or no YAML.
        OptionError: If a name is not known or a value does not fit.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "shapes.yaml").write_text("synthesis: {num_labels: 8}")
        ...     read_synthesis(Path(folder, "shapes.yaml"))[0].num_labels
        8
    """
    path = Path(path)
    given = read_settings(path, kind="recipe", example=EXAMPLE)
    data = given.get("data")
    inner = data.get("synthesis") if isinstance(data, dict) else given.get("synthesis")
    wanted = {"data": {"synthesis": inner}, "network": "VoxelMorph"}
    wanted["preparation"] = given.get("preparation", {"shape": [2, 2]})
    if not isinstance(inner, dict):
        raise OptionError(
            f"A file for synthesis has a section `synthesis`. Received: {path.name!r} with "
            f"{', '.join(map(str, given)) or 'nothing'}. `{EXAMPLE}` shows one."
        )
    problems = [*_find_unknown(wanted, Recipe), *_check_parts(wanted)]
    recipe, wrong = check_settings(Recipe, _leave_out_unknown(wanted, Recipe))
    if problems or wrong:
        raise OptionError(f"The file {path.name!r} cannot be used. " + "\n".join([*problems, *wrong]))
    synthesis: Any = _resolve(recipe, path.absolute().parent).data.synthesis
    return synthesis, recipe.preparation if "preparation" in given else None


SECTIONS: dict[str, Any] = {
    "data": DataSource,
    "validation": DataSource,
    "preparation": PairOptions,
    "options": RegistrationOptions,
    "training": Fit,
    "synthesis": Synthesis,
}
"""Keys whose value has keys of its own."""

PARTS = {
    "network": Shelf(
        "keramorph.networks",
        (
            "AffineNetwork", "Cascade", "ConditionalVoxelMorph", "DualStream", "JointNetwork", "LapIRN", "TransMorph",
            "VoxelMorph",
        ),
    ),
    "similarity": Shelf("keramorph.losses", ("LNCC", "MINDSSC", "MSE", "MutualInformation", "NCC")),
    "regularity": Shelf("keramorph.losses", ("Bending", "Diffusion", "JacobianFolding")),
    "optimizer": Shelf(
        "keras.optimizers",
        ("Adam", "AdamW", "Adamax", "Lamb", "Lion", "Nadam", "RMSprop", "SGD"),
        settled=("learning_rate", "use_ema", "ema_momentum", "ema_overwrite_frequency", "gradient_accumulation_steps"),
    ),
    "shapes": Shelf("keramorph.synthesis", ("RandomShapes",), settled=("num_labels",)),
    "image": Shelf("keramorph.synthesis", ("ImageFromLabels",), settled=("num_labels",)),
    "deformation": Shelf("keramorph.synthesis", ("RandomDeformation",)),
    "affine": Shelf("keramorph.synthesis", ("RandomAffine",)),
}  # fmt: skip
"""Keys whose value is a class and its arguments, and where they find it."""


def _names_of(kind: Any) -> list[str]:
    return [one.name for one in dataclasses.fields(kind)]


def _find_unknown(given: Any, kind: Any, where: str = "") -> list[str]:
    """A sentence for each key that no section has."""
    problems = []
    for name, value in given.items():
        if name not in _names_of(kind):
            problems.append(explain_name(name, _names_of(kind), where=where, kind="key"))
        elif name in SECTIONS and isinstance(value, dict):
            problems += _find_unknown(value, SECTIONS[name], f"{where}{name}.")
    return problems


def _leave_out_unknown(given: Any, kind: Any) -> dict[str, Any]:
    """The rest, so that what is wrong with it is said too."""
    return {
        name: _leave_out_unknown(value, SECTIONS[name]) if name in SECTIONS and isinstance(value, dict) else value
        for name, value in given.items()
        if name in _names_of(kind)
    }


def _check_parts(given: Any, where: str = "") -> list[str]:
    """A sentence for each part that cannot be made."""
    problems = []
    for name, value in given.items():
        if name in PARTS and isinstance(value, str | dict):
            problems += check_part(value, PARTS[name], where=f"{where}{name}")
        elif name in SECTIONS and isinstance(value, dict):
            problems += _check_parts(value, f"{where}{name}.")
    return problems


def _resolve(recipe: Recipe, base: Path) -> Recipe:
    """The recipe with paths that hold from anywhere."""

    def settle(source: DataSource | None) -> Any:
        if source is None:
            return None
        inner = source.synthesis and _join_paths(source.synthesis, base)
        return dataclasses.replace(_join_paths(source, base), synthesis=inner)

    model = None if recipe.model is None else str(base / recipe.model)
    return dataclasses.replace(recipe, data=settle(recipe.data), validation=settle(recipe.validation), model=model)


def _join_paths(section: Any, base: Path) -> Any:
    names = [name for name in _PATHS if getattr(section, name, None) is not None]
    return dataclasses.replace(section, **{name: str(base / getattr(section, name)) for name in names})
