"""The data set that never ends: batches of pairs for `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keramorph import backend
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError, ShapeError
from keramorph.synthesis.pair_from_labels import PairFromLabels
from keramorph.synthesis.random_shapes import RandomShapes


class SyntheticPairs(keras.utils.PyDataset):
    """Data set whose batches are pairs of `PairFromLabels`, new ones in each step, for `keras.Model.fit`.

    `pairs[index]` is `(pair,)`, or `(pair, targets)` where targets are named: `pair` the dictionary of
    `PairFromLabels` as NumPy arrays, of which a functional model takes the inputs that it has by name, and `targets`
    a dictionary with what each output of the model is compared to. A batch depends on the seed, on the epoch and on its
    index, and on nothing else: on neither the number of workers nor the batches before it. Each epoch has other ones.

    Args:
        shape: Spatial sizes of the images.
        pairs: Layer that makes the pairs; None takes `PairFromLabels(16)`.
        labels: Where the label maps come from: `RandomShapes`, or an array `(count, *shape, 1)` of integers, of which
            each pair takes one at random. None takes `RandomShapes` of as many labels as `pairs` takes.
        batch_size: Pairs in a batch.
        steps: Batches in an epoch; None never ends it, and `fit` then wants `steps_per_epoch`.
        targets: For outputs of a model, by name, the part of the pair that each is compared to, by name.
        seed: Seed of all batches. The states of the layers' own random numbers are left as they are.

    Attributes:
        epoch: Number of the epoch; each call of `on_epoch_end` counts it on. `fit` makes one such call before its first
            epoch. A training that is resumed with `initial_epoch=n` gets the batches that would have come once
            `epoch` is set to n.
        workers: Threads that draw ahead while the model trains, by default one that does not; with more than one, `fit`
            begins with batches left over from its own preparations. `use_multiprocessing` and `max_queue_size` as well
            are those of `keras.utils.PyDataset`.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the label maps have not the sizes of the images.

    Example:
        >>> pairs = SyntheticPairs((24, 32), batch_size=2, steps=5, targets={"moved": "fixed"}, seed=1)
        >>> pair, targets = pairs[0]
        >>> len(pairs), pair["moving"].shape, targets["moved"].shape
        (5, (2, 24, 32, 1), (2, 24, 32, 1))
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        pairs: PairFromLabels | None = None,
        labels: RandomShapes | Array | None = None,
        batch_size: int = 1,
        steps: int | None = 100,
        targets: dict[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shape = tuple(int(n) for n in shape)
        self.pairs = PairFromLabels(16) if pairs is None else pairs
        self.labels = RandomShapes(num_labels=self.pairs.num_labels) if labels is None else labels
        for name, value in {"batch_size": batch_size, "steps": 1 if steps is None else steps}.items():
            if int(value) != value or value < 1:
                raise OptionError(f"SyntheticPairs expects `{name}` to be 1 or more. Received: {name}={value!r}.")
        self.batch_size, self.steps, self.seed, self.epoch = batch_size, steps, seed, 0
        self.targets = None if targets is None else dict(targets)
        self._check_labels()
        self._check_targets()
        # TensorFlow draws several times faster in a graph. XLA would take longer to compile it than it ever saves.
        graph = keras.backend.backend() == "tensorflow"
        self._draw = backend.use("tensorflow").xp.compile(self._draw_pair) if graph else self._draw_pair

    @property
    def num_batches(self) -> int | None:
        """Batches in an epoch; None if it has no end."""
        return self.steps

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("SyntheticPairs with steps=None have no length. Say `steps=` where one is needed.")
        return self.steps

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], ...]:
        generator = np.random.default_rng((self.seed, self.epoch, index))
        states = [_draw_states(layer, generator) for layer in self._layers()]
        drawn = self._draw(self._choose(generator), states)
        pair = {name: keras.ops.convert_to_numpy(tensor) for name, tensor in drawn.items()}
        if self.targets is None:
            return (pair,)
        return pair, {output: pair[name] for output, name in self.targets.items()}

    def on_epoch_end(self) -> None:
        """Count the epoch; Keras calls it."""
        self.epoch += 1

    def _layers(self) -> list[Any]:
        return [self.pairs, self.labels] if isinstance(self.labels, RandomShapes) else [self.pairs]

    def _choose(self, generator: np.random.Generator) -> Array | None:
        """Label maps of a batch, or None where they are drawn with it."""
        if isinstance(self.labels, RandomShapes):
            return None
        chosen = generator.integers(len(self.labels), size=self.batch_size)
        return keras.ops.convert_to_tensor(np.stack([self.labels[i] for i in chosen]), dtype="int32")

    def _draw_pair(self, labels: Array | None, states: list[list[Array]]) -> dict[str, Array]:
        """Pairs that depend on the states given alone, and leave those of the layers as they are."""
        if labels is None:
            reference = keras.ops.zeros((self.batch_size, *self.shape, 1))
            labels = _call_with(self.labels, states[1], reference)
        return _call_with(self.pairs, states[0], labels)

    def _check_labels(self) -> None:
        if isinstance(self.labels, RandomShapes):
            most = self.labels.num_labels
            if most > self.pairs.num_labels:
                raise OptionError(
                    "SyntheticPairs expects `pairs` made for as many labels as there are. Received: "
                    f"{most} labels, pairs.num_labels={self.pairs.num_labels}."
                )
            return
        if tuple(self.labels.shape[1:]) != (*self.shape, 1) or not len(self.labels):
            raise ShapeError(
                f"SyntheticPairs expects label maps (count, *{self.shape}, 1). Received: "
                f"labels.shape={tuple(self.labels.shape)}. Resample them, or name their sizes in `shape`."
            )

    def _check_targets(self) -> None:
        parts = self.pairs.compute_output_shape((None, *self.shape, 1))
        unknown = {name for name in (self.targets or {}).values() if name not in parts}
        if unknown:
            raise OptionError(
                f"SyntheticPairs expects the values of `targets` to be among {', '.join(parts)}. "
                f"Received: targets={self.targets}."
            )


def _draw_states(layer: Any, generator: np.random.Generator) -> list[Array]:
    """What the variables of a layer hold, but for the states of its random numbers, which are drawn."""
    kept = {id(variable) for variable in layer.weights}
    return [
        variable.value
        if id(variable) in kept
        else keras.ops.convert_to_tensor([int(generator.integers(2**30)), 0], dtype=variable.dtype)
        for variable in layer.non_trainable_variables
    ]


def _call_with(layer: Any, states: list[Array], inputs: Array) -> Any:
    return layer.stateless_call([v.value for v in layer.trainable_variables], states, inputs)[0]
