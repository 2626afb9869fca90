"""Keras metrics of the overlap of labels given as one channel each."""

from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import ShapeError

ops = keras.ops


@keras.saving.register_keras_serializable(package="keramorph")
class Dice(keras.metrics.Mean):
    """Mean Dice overlap of the labels of a sample, averaged over the samples: 1 where all labels agree.

    Call arguments are `y_true`, the fixed labels, and `y_pred`, the moved ones: `(batch, *spatial, labels)` both,
    one-hot or probabilities. Each voxel counts for its most probable label; for none of them where what the channels
    leave over, the probability of an unlisted background, is greater still. Labels in neither map do not count, nor do
    samples without any label. `sample_weight` weighs samples.

    Args:
        name: Name of the metric.
        dtype: Data type of its state, `keras.config.floatx()` where it is None.

    Raises:
        ShapeError: If the label maps differ in shape.

    Example:
        >>> import numpy as np
        >>> fixed = np.eye(2, dtype="float32")[np.array([[0, 0, 1, 1]])]
        >>> moved = np.eye(2, dtype="float32")[np.array([[0, 1, 1, 1]])]
        >>> round(float(Dice()(fixed, moved)), 4)
        0.7333
    """

    def __init__(self, *, name: str = "dice", dtype: str | None = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> None:
        """Add the samples of one batch."""
        overlap, present = _measure_overlap(y_true, y_pred)
        count = ops.sum(present, axis=-1)
        weight = ops.cast(count > 0, count.dtype) * _weigh_samples(sample_weight, count)
        super().update_state(ops.sum(overlap, axis=-1) / ops.maximum(count, 1.0), sample_weight=weight)


@keras.saving.register_keras_serializable(package="keramorph")
class DicePerLabel(keras.metrics.Metric):
    """Dice overlap of each label `(labels,)`, averaged over the samples: 1 where they agree, nan for an absent label.

    Call arguments are `y_true`, the fixed labels, and `y_pred`, the moved ones: `(batch, *spatial, labels)` both,
    one-hot or probabilities. Each voxel counts for its most probable label; for none of them where what the channels
    leave over, the probability of an unlisted background, is greater still. A sample counts for the labels that one
    of its maps holds. `sample_weight` weighs samples.

    Args:
        num_labels: Number of labels, that of the channels.
        name: Name of the metric.
        dtype: Data type of its state, `keras.config.floatx()` where it is None.

    Raises:
        ShapeError: If the label maps differ in shape, or do not have as many channels as there are labels.

    Example:
        >>> import numpy as np
        >>> fixed = np.eye(3, dtype="float32")[np.array([[0, 0, 1, 1]])]
        >>> moved = np.eye(3, dtype="float32")[np.array([[0, 1, 1, 1]])]
        >>> [round(float(score), 4) for score in DicePerLabel(3)(fixed, moved)]
        [0.6667, 0.8, nan]
    """

    def __init__(self, num_labels: int, *, name: str = "dice_per_label", dtype: str | None = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.num_labels = int(num_labels)
        self.total = self.add_variable(shape=(self.num_labels,), initializer="zeros", dtype=self.dtype, name="total")
        self.count = self.add_variable(shape=(self.num_labels,), initializer="zeros", dtype=self.dtype, name="count")

    def update_state(self, y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> None:
        """Add the samples of one batch."""
        overlap, present = _measure_overlap(y_true, y_pred)
        if overlap.shape[-1] != self.num_labels:
            raise ShapeError(
                f"This metric counts {self.num_labels} labels, one per channel. Received: "
                f"y_pred.shape={tuple(y_pred.shape)}. Build it with num_labels={y_pred.shape[-1]}."
            )
        weight = _weigh_samples(sample_weight, overlap[:, 0])[:, None]
        self.total.assign_add(ops.cast(ops.sum(weight * overlap, axis=0), self.dtype))
        self.count.assign_add(ops.cast(ops.sum(weight * present, axis=0), self.dtype))

    def result(self) -> Array:
        """Overlap of each label over the samples so far, `(labels,)`."""
        count = ops.convert_to_tensor(self.count)
        mean = ops.convert_to_tensor(self.total) / ops.where(count > 0, count, ops.ones_like(count))
        return ops.where(count > 0, mean, float("nan") * ops.ones_like(count))

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the metric."""
        return {**super().get_config(), "num_labels": self.num_labels}


def _measure_overlap(fixed: Array, moved: Array) -> tuple[Array, Array]:
    """Overlap `(batch, labels)`, 0 where absent, and whether one of the maps holds the label, as 0 or 1."""
    fixed, moved = ops.convert_to_tensor(fixed), ops.convert_to_tensor(moved)
    clash = any(a != b for a, b in zip(fixed.shape, moved.shape, strict=False) if a is not None and b is not None)
    if len(fixed.shape) != len(moved.shape) or len(moved.shape) < 3 or clash:
        raise ShapeError(
            "Overlap needs two maps of one shape (batch, *spatial, labels). Received: "
            f"y_true.shape={tuple(fixed.shape)}, y_pred.shape={tuple(moved.shape)}. "
            "Give each label its own channel, with `keras.ops.one_hot`."
        )
    axes = tuple(range(1, len(fixed.shape) - 1))
    in_fixed, in_moved = _decide(fixed), _decide(moved)
    volume = ops.sum(in_fixed + in_moved, axis=axes)
    overlap = 2.0 * ops.sum(in_fixed * in_moved, axis=axes) / ops.maximum(volume, 1.0)
    return overlap, ops.cast(volume > 0, overlap.dtype)


def _decide(probability: Array) -> Array:
    """Most probable label of each voxel, one-hot in float32; no label where the remainder to 1 is greater."""
    probability = ops.cast(probability, "float32")  # in half precision the remainder of three thirds is not 0
    remainder = 1.0 - ops.sum(probability, axis=-1, keepdims=True)
    best = ops.argmax(ops.concatenate([remainder, probability], axis=-1), axis=-1)
    return ops.one_hot(best, probability.shape[-1] + 1, dtype="float32")[..., 1:]


def _weigh_samples(sample_weight: Array | None, values: Array) -> Array:
    """Weights `(batch,)` of the samples, ones where there are none."""
    if sample_weight is None:
        return ops.ones_like(values)
    return ops.reshape(ops.cast(sample_weight, values.dtype), (-1,))
