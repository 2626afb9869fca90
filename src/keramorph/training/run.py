"""A training from a recipe to a folder: begun, killed, gone on with, and what comes of it."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from keramorph._keras import keras
from keramorph.errors import FileError, OptionError
from keramorph.io.keras_models import load_model
from keramorph.io.writing import clear_remains, replacing
from keramorph.training.parts import build_part
from keramorph.training.recipe import PARTS, Fit, Recipe, read_recipe
from keramorph.training.registration_model import RegistrationModel
from keramorph.training.resumable_checkpoint import ResumableCheckpoint
from keramorph.training.run_record import CURVES, LOG, MODEL, RunRecord
from keramorph.training.sources import count_channels, make_learning, make_validation
from keramorph.training.validation_pictures import ValidationPictures

RECIPE, CHECKPOINT, PICTURES = "recipe.yaml", "checkpoint.npz", "pictures"
_FILES = (MODEL, LOG, CURVES, RECIPE, CHECKPOINT)
_EACH_PICTURE = "epoch-*.png"

_MAY_CHANGE = frozenset(
    {"training.patience", "training.pictures", "training.checkpoint_steps", "training.workers", "data.cache"}
)
"""Keys that a training may be resumed with other values of: what is learned does not depend on them."""

SHOWN_AFTER = 0.2
"""Seconds between two reports of the progress: reading a loss waits for the device."""


@dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Args:
        epoch: Number of the present epoch, from 1.
        epochs: Number of epochs.
        step: Steps of this epoch that are done.
        steps: Steps of an epoch.
        logs: Means of the loss and of its terms in this epoch so far, by name.
        seconds_left: Seconds to the end, as it goes.
        is_validated: Whether the epoch has ended, validation included, the values of which are in `logs` too.

    Example:
        >>> Progress(1, 10, 5, 100, {"loss": 0.3}, 12.0, False).epochs
        10
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    logs: dict[str, float]
    seconds_left: float
    is_validated: bool


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Args:
        folder: Folder with the files.
        epochs: Epochs that were trained, those before a resumption among them.
        best_epoch: Number of the epoch whose model was kept, from 1.
        score: Name of what it is the best by: `val_dice`, `val_loss` or `loss`.
        value: The best value.
        has_ended_early: Whether the patience came to its end.

    Example:
        >>> Trained(Path("out"), 10, 8, "val_dice", 0.7, False).best_epoch
        8
    """

    folder: Path
    epochs: int
    best_epoch: int
    score: str
    value: float
    has_ended_early: bool


def train(
    recipe: Recipe,
    output: str | Path,
    *,
    existing: Literal["refuse", "resume", "replace"] = "refuse",
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Return what came of the training that a recipe describes, its files in a folder.

    The folder gets `model.keras`, the model of the best epoch (by Dice in validation, or by the loss), `log.csv` and
    `curves.png`, `recipe.yaml`, `checkpoint.npz`, from which a killed training goes on to the same weights, and
    `pictures`. At SIGINT (Ctrl-C) and SIGTERM the present step is finished and the checkpoint written.

    Args:
        recipe: What to train on what, and how.
        output: Folder for the files, made where it is missing.
        existing: What becomes of a training that is in the folder: it is an error, it goes on, or it is replaced.
        progress: Function that is called a few times a second.

    Raises:
        FileError: If the folder holds something already, or cannot be written.
        OptionError: If a part of the recipe cannot be made, or a training is resumed with another recipe.
        KeyboardInterrupt: At a signal, with the checkpoint written.

    Example:
        >>> import tempfile
        >>> from keramorph.preparation import PairOptions
        >>> from keramorph.training import DataSource, Fit, Synthesis
        >>> recipe = Recipe(
        ...     DataSource(synthesis=Synthesis(num_labels=4, image={"effects": []})),
        ...     PairOptions((16, 16)),
        ...     network={"class": "VoxelMorph", "encoder": [4], "decoder": [4], "final": [4]},
        ...     training=Fit(epochs=1, steps=2, pictures=0),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trained = train(recipe, folder)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['checkpoint.npz', 'curves.png', 'log.csv', 'model.keras', 'recipe.yaml']
    """
    folder = Path(output)
    _claim(folder, recipe, existing)
    fit = recipe.training
    keras.utils.set_random_seed(fit.seed)
    model = build_model(recipe)
    learning = make_learning(recipe.data, recipe.preparation, fit)
    validation = recipe.validation and make_validation(recipe.validation, recipe.preparation, fit)
    model.compile(make_optimizer(fit, len(learning)))
    checkpoint = ResumableCheckpoint(folder / CHECKPOINT, every=fit.checkpoint_steps, dataset=learning, seed=fit.seed)
    begin = checkpoint.initial_epoch
    average = None if fit.ema is None else keras.callbacks.SwapEMAWeights()
    record = RunRecord(
        folder, patience=fit.patience, initial_epoch=begin, average=average, curves_every=fit.pictures or 10
    )
    callbacks = [*([] if average is None else [average]), record]
    if progress is not None:
        callbacks.append(_Report(progress, len(learning), begin))
    if validation is not None and fit.pictures:
        callbacks.append(ValidationPictures(_first_batch(validation), folder / PICTURES, every=fit.pictures))
    if begin < fit.epochs and not record.is_exhausted:
        with _finishing_the_step(checkpoint):
            callbacks.append(checkpoint)
            model.fit(
                learning, validation_data=validation, epochs=fit.epochs, initial_epoch=begin, callbacks=callbacks,
                verbose=0,
            )  # fmt: skip
    best = record.best or {"epoch": 0, record.score: float("nan")}
    return Trained(folder, len(record.rows), int(best["epoch"]), record.score, best[record.score], record.is_exhausted)


def build_model(recipe: Recipe) -> RegistrationModel:
    """Return the model of a recipe, new or read from its file, not yet compiled."""
    fit = recipe.training
    if recipe.model is not None:
        found = load_model(Path(recipe.model))
        network = getattr(found, "network", found)
    else:
        sizes = recipe.preparation.shape if recipe.preparation.crop is None else (None,) * len(recipe.preparation.shape)
        implied = {"input_shape": (*sizes, count_channels(recipe.data)), "dtype": fit.precision}
        network = build_part(recipe.network, PARTS["network"], where="network", implied=implied)
    similarity, regularity = (
        None if part is None else build_part(part, PARTS[name], where=name)
        for name, part in (("similarity", recipe.similarity), ("regularity", recipe.regularity))
    )
    return RegistrationModel(
        network,
        similarity,
        regularity,
        options=recipe.options,
        preparation=recipe.preparation,
        dtype=fit.precision,
    )


def make_optimizer(fit: Fit, steps: int) -> Any:
    """Return the optimizer of a training with so many steps in an epoch."""
    rate: Any = fit.learning_rate
    if fit.schedule == "cosine":
        updates = max(1, fit.epochs * steps // fit.accumulate)
        rate = keras.optimizers.schedules.CosineDecay(fit.learning_rate, updates)
    settled: dict[str, Any] = {"learning_rate": rate}
    if fit.ema is not None:
        settled |= {"use_ema": True, "ema_momentum": fit.ema}
    if fit.accumulate > 1:
        settled["gradient_accumulation_steps"] = fit.accumulate
    part = fit.optimizer if isinstance(fit.optimizer, dict) else {"class": fit.optimizer}
    return build_part({**part, **settled}, PARTS["optimizer"], where="training.optimizer")


def _first_batch(validation: Any) -> Any:
    """At most four pairs to look at."""
    batch = validation[0]
    batch = batch[0] if isinstance(batch, tuple) else batch
    return {name: array[:4] for name, array in batch.items()}


def _claim(folder: Path, recipe: Recipe, existing: str) -> None:
    """Make the folder ready, and write the recipe; refuse what is in the way."""
    taken = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if taken and existing == "refuse":
        raise FileError(
            f"A folder for a new training was expected. Received: output={str(folder)!r}, which holds something. Go on "
            "with the training in it by `--resume`, begin anew by `--overwrite`, or choose another folder."
        )
    if taken and existing == "resume":
        _compare(folder, recipe)
    if taken and existing == "replace":
        for path in (*(folder / name for name in _FILES), *_list_pictures(folder)):
            path.unlink(missing_ok=True)
    if taken:
        for name in _FILES:
            clear_remains(folder, name)
        clear_remains(folder / PICTURES, _EACH_PICTURE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise FileError(
            f"A folder that can be written was expected. Received: output={str(folder)!r} ({problem.strerror})."
        ) from problem
    with replacing(folder / RECIPE) as temporary:
        temporary.write_text(format_recipe(recipe), encoding="utf-8")


def _list_pictures(folder: Path) -> list[Path]:
    return sorted((folder / PICTURES).glob(_EACH_PICTURE))


def format_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML, with all that it leaves to the defaults."""
    import yaml

    return yaml.safe_dump(_to_lists(dataclasses.asdict(recipe)), sort_keys=False)


def _to_lists(value: Any) -> Any:
    """A value in YAML's own types, which have no tuples."""
    if isinstance(value, dict):
        return {name: _to_lists(one) for name, one in value.items()}
    return [_to_lists(one) for one in value] if isinstance(value, list | tuple) else value


def _compare(folder: Path, recipe: Recipe) -> None:
    """Refuse to go on with a training by another recipe: its checkpoint would not fit, or not mean the same."""
    if not (folder / RECIPE).exists():
        raise FileError(
            f"A folder with a training was expected. Received: output={str(folder)!r}, without {RECIPE}. Begin in "
            "another folder."
        )
    before, now = (_flatten(dataclasses.asdict(one)) for one in (read_recipe(folder / RECIPE), recipe))
    may_change = _MAY_CHANGE | ({"training.epochs"} if recipe.training.schedule == "constant" else set())
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    odd = [f"{name}: {before.get(name)!r}, now {now.get(name)!r}" for name in differing if name not in may_change]
    if odd:
        raise OptionError(
            f"A training goes on with its own recipe. Received: output={str(folder)!r} with {'; '.join(odd)}. Begin "
            "anew by `--overwrite`, or change that back."
        )


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Values of nested mappings by their paths."""
    if not isinstance(value, dict):
        return {path: _to_lists(value)}
    found: dict[str, Any] = {}
    for name, one in value.items():
        found |= _flatten(one, f"{path}.{name}" if path else name)
    return found


@contextmanager
def _finishing_the_step(checkpoint: ResumableCheckpoint) -> Iterator[None]:
    """Let the signals that end a program end the training after its step; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():  # Python has handlers nowhere else
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        checkpoint.stop()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Report(keras.callbacks.Callback):
    """Callback that tells how far a training has come."""

    def __init__(self, show: Callable[[Progress], None], steps: int, initial_epoch: int) -> None:
        super().__init__()
        self.show, self.steps = show, steps
        self._epoch = self._first = initial_epoch
        self._begun = self._shown = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if time.perf_counter() - self._shown >= SHOWN_AFTER or batch + 1 == self.steps:
            self._tell(batch + 1, logs, False)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._tell(self.steps, logs, True)

    def _tell(self, step: int, logs: dict[str, Any] | None, over: bool) -> None:
        self._shown = time.perf_counter()
        done = (self._epoch - self._first) * self.steps + step
        left = (self.params["epochs"] - self._epoch) * self.steps - step
        values = {name: float(value) for name, value in (logs or {}).items()}
        seconds = (self._shown - self._begun) / done * left
        self.show(Progress(self._epoch + 1, self.params["epochs"], step, self.steps, values, seconds, over))
