"""Checkpoints from which a killed training goes on as if nothing had happened."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keramorph._keras import keras
from keramorph.errors import FileError, InputError, OptionError
from keramorph.io.writing import replacing

_VERSION = 1


class _Place(NamedTuple):
    """How far a training has come: whole epochs, and steps of the one begun."""

    epoch: int
    step: int


class ResumableCheckpoint(keras.callbacks.Callback):
    """Callback that writes all of a training's state to a file, and lets `fit` go on from it exactly.

    The same script, started again, goes on where the file says, to the same weights as if it had never been killed:

        checkpoint = ResumableCheckpoint("run.npz", every=100, dataset=dataset)
        model.fit(dataset, epochs=50, initial_epoch=checkpoint.initial_epoch, callbacks=[checkpoint])

    The file holds weights, the optimizer's state with gradients that are being accumulated and moving averages, the
    states of the seed generators, and of PyTorch's own, and the metrics of the epoch. It is written to another name and
    moved into place, so that a kill at any moment leaves the last whole one. Within an epoch, the batches that were
    trained on already are drawn once more and let go of, which takes as long as reading them.

    What must be the same each time: the model, `compile`, and the data, which must be a function of the epoch and the
    place in it: a `PairDataset`, or another `keras.utils.PyDataset` that is. `fit(shuffle=True)` orders the batches of
    such a dataset by Python's `random`, which this callback seeds at the start of each epoch. Callbacks with a memory
    of their own, `EarlyStopping` for one, begin anew. To begin all over, delete the file.

    Args:
        path: File to write, ending in `.npz`; its folder must exist.
        every: Steps after which it is written, counted in each epoch, a multiple of `steps_per_execution`; None writes
            it at the end of each epoch only, where it is written in any case.
        dataset: Dataset of the training, if its attribute `epoch` is to follow that of `fit`, as for a `PairDataset`.
        seed: Seed of the order of the batches.

    Raises:
        OptionError: If `every` is not positive, or the path has another ending.
        FileError: If the file is damaged, or cannot be written.
        InputError: If the file is of another model or optimizer, or `fit` begins at another epoch.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> x, y = np.ones((4, 2)), np.ones((4, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for epochs in (2, 3):
        ...         checkpoint = ResumableCheckpoint(f"{folder}/run.npz")
        ...         begin = checkpoint.initial_epoch
        ...         history = model.fit(
        ...             x, y, epochs=epochs, initial_epoch=begin, callbacks=[checkpoint], shuffle=False, verbose=0
        ...         )
        >>> begin, len(history.history["loss"])
        (2, 1)
    """

    def __init__(self, path: str | Path, *, every: int | None = None, dataset: Any = None, seed: int = 0) -> None:
        super().__init__()
        self.path = Path(path)
        if self.path.suffix != ".npz":
            raise OptionError(f"A checkpoint's name ends in .npz. Received: path={str(path)!r}. Change its name.")
        if every is not None and every < 1:
            raise OptionError(f"`every` is a number of steps, at least 1. Received: every={every!r}. Take 100.")
        self.every = every
        self.dataset = dataset
        self.seed = seed
        self._epoch = 0
        self._resume_at: _Place | None = None
        self._train: Any = None
        self._stopping = False

    def stop(self) -> None:
        """Let `fit` end after the present step: it writes the file and raises `KeyboardInterrupt`.

        For the handler of a signal, so that an interrupted training loses nothing. Place this callback last: at the
        end of an epoch those behind it are not called any more.
        """
        self._stopping = True

    @property
    def initial_epoch(self) -> int:
        """Epoch at which `fit` begins: that of the file, 0 where there is none."""
        return self._read_place().epoch if self.path.exists() else 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take up the state of the file, if there is one."""
        self._resume_at, self._train = None, None
        if self.path.exists():
            self._resume_at = self._read_place()
            self._restore(self._list_state())

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Settle what the batches of the epoch are, and pass over those that are done."""
        self._epoch = epoch
        # Keras draws the order of the batches from Python's own generator once this has returned.
        random.seed(f"{self.seed} {epoch}")
        if self.dataset is not None:
            self.dataset.epoch = epoch
        place, self._resume_at = self._resume_at, None
        if place is None:
            return
        if epoch != place.epoch:
            raise InputError(
                f"`fit` goes on at the epoch of the checkpoint. Received: initial_epoch={epoch}, "
                f"path={str(self.path)!r} of epoch {place.epoch}. Pass initial_epoch=checkpoint.initial_epoch, or "
                "delete the file."
            )
        if not place.step:
            _set_random(self._open({"random"}))
        else:
            metrics = self._list_metrics()
            # Keras has just reset them, and they belong to the steps of this epoch that are done. Those of `compile`
            # may not be there yet: then the logs of this epoch are of what comes now.
            if metrics.keys() == self._open({"metric"}).keys():
                self._restore(metrics)
            self._pass_over(place.step)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the file when it is time."""
        due = self._stopping or (self.every is not None and (batch + 1) % self.every == 0)
        # While batches are passed over, the file holds what there is.
        if self._train is None and due:
            self._write(_Place(self._epoch, batch + 1))
        self._end_if_stopped()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the file."""
        self._write(_Place(epoch + 1, 0))
        self._end_if_stopped()

    def _end_if_stopped(self) -> None:
        if self._stopping:
            self._stopping = False
            raise KeyboardInterrupt

    def _pass_over(self, steps: int) -> None:
        """Let the next steps draw their batches and do nothing else."""
        model, left = self.model, steps
        self._train = model.train_function
        keeps_state = keras.backend.backend() == "jax"

        def draw_only(*arguments: Any) -> Any:
            # JAX's function takes and returns the state; PyTorch's gets the batch itself, already drawn.
            nonlocal left
            for _ in range(model.steps_per_execution if hasattr(arguments[-1], "__next__") else 0):
                next(arguments[-1])
            left -= model.steps_per_execution
            if left <= 0:
                model.train_function, self._train = self._train, None
                # Not sooner: PyTorch's own loader of data draws from it when an epoch begins.
                _set_random(self._open({"random"}))
            return ({}, arguments[0]) if keeps_state else {}

        model.train_function = draw_only

    def _list_metrics(self) -> dict[str, Any]:
        return {f"metric_{number}": variable for number, variable in enumerate(self.model.metrics_variables)}

    def _list_state(self) -> dict[str, Any]:
        """Variables by the names under which the file holds them."""
        model = self.model
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        kinds: dict[str, Any] = {
            "weight": [*model.trainable_variables, *model.non_trainable_variables],
            "optimizer": model.optimizer.variables,
        }
        return {f"{kind}_{n}": variable for kind, variables in kinds.items() for n, variable in enumerate(variables)}

    def _write(self, place: _Place) -> None:
        # On JAX, `self.model` first brings the model's variables up to date.
        variables = self._list_state() | self._list_metrics()
        arrays = {name: _to_array(variable) for name, variable in variables.items()} | _get_random()
        about = json.dumps({"version": _VERSION, **place._asdict()})
        with replacing(self.path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, about=np.array(about), **arrays)  # type: ignore[arg-type]

    def _read_place(self) -> _Place:
        about = json.loads(str(self._open({"about"})["about"]))
        if about["version"] != _VERSION:
            raise FileError(
                f"A checkpoint of version {_VERSION} was expected. Received: path={str(self.path)!r} of version "
                f"{about['version']}. Go on with the Keramorph that wrote it, or delete it."
            )
        return _Place(about["epoch"], about["step"])

    def _open(self, kinds: set[str]) -> dict[str, np.ndarray]:
        """Arrays of the file whose names begin with one of the kinds."""
        try:
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                return {name: content[name] for name in content.files if name.split("_")[0] in kinds}
        except Exception as problem:
            raise FileError(
                f"The file is no checkpoint, or damaged. Received: path={str(self.path)!r} ({problem}). Delete it to "
                "begin anew."
            ) from problem

    def _restore(self, variables: dict[str, Any]) -> None:
        """Give variables the values that the file holds."""
        arrays = self._open({name.split("_")[0] for name in variables})
        held = {name: array.shape for name, array in arrays.items()}
        wanted = {name: tuple(variable.shape) for name, variable in variables.items()}
        if held != wanted:
            odd = min(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name))
            raise InputError(
                f"The checkpoint is of another model or optimizer. Received: path={str(self.path)!r}, in which {odd} "
                f"has the shape {held.get(odd)} instead of {wanted.get(odd)}. Delete it to begin anew."
            )
        for name, variable in variables.items():
            variable.assign(arrays[name])


def _to_array(variable: Any) -> np.ndarray:
    """Values of a variable in a data type that NumPy can write: half floats fit into single precision exactly."""
    array = keras.ops.convert_to_numpy(variable)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _get_random() -> dict[str, np.ndarray]:
    """States of PyTorch's own generators, from which Keras draws a dropout without seed; others keep none."""
    torch: Any = sys.modules.get("torch") if keras.backend.backend() == "torch" else None
    if torch is None:
        return {}
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {f"random_{n}": state.numpy() for n, state in enumerate([torch.get_rng_state(), *of_gpus])}


def _set_random(arrays: dict[str, np.ndarray]) -> None:
    """Take up what `_get_random` returned, on as many devices as there were."""
    torch: Any = sys.modules.get("torch") if keras.backend.backend() == "torch" else None
    if torch is None or not arrays:
        return
    first, *of_gpus = (torch.from_numpy(arrays[f"random_{n}"]) for n in range(len(arrays)))
    torch.set_rng_state(first)
    if len(of_gpus) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(of_gpus)
