"""Train the networks that Keramorph ships: `python models/train_shapes.py 2` for 2-D images, 3 for 3-D ones.

They see random shapes alone, no image of anything. From the same seed, framework and machine come the same weights; the
log of the run that made the shipped ones lies beside this file. TensorFlow is the fastest here:

    KERAS_BACKEND=tensorflow python models/train_shapes.py 2
"""

import argparse
import csv
import time
from pathlib import Path
from typing import NamedTuple

import keras

from keramorph import synthesis
from keramorph.networks import DualStream
from keramorph.weights import write_weights

SEED = 2026
STEPS_PER_EPOCH = 50
DESIGNS = {
    2: {"radius": 2, "encoder": (24, 32, 32, 32), "decoder": (32, 32, 32, 24), "finest": 1},
    3: {"radius": 1, "encoder": (16, 24, 32), "decoder": (32, 32, 24), "finest": 1},
}


class Lessons(NamedTuple):
    """What a network is shown, and for how long; lengths in voxels, ground and alike shares of the pairs."""

    shape: tuple[int, ...]
    batch_size: int
    epochs: int
    labels: int
    sizes: tuple[float, ...]
    strength: float
    scales: tuple[float, ...]
    ground: float
    alike: float


LESSONS = {
    2: Lessons(
        (160, 128), 2, 160, labels=30, sizes=(5, 10, 20), strength=4.0, scales=(8, 16, 32, 64), ground=0.5, alike=0.7
    ),
    3: Lessons(
        (48, 48, 48),
        1,
        140,
        labels=20,
        sizes=(6, 12, 24, 48),
        strength=3.0,
        scales=(8, 16, 32, 64),
        ground=0,
        alike=0.6,
    ),
}


class EndPointError(keras.losses.Loss):
    """Mean distance in voxels of a displacement from the true one, which is averaged down to its grid."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, y_true, y_pred):
        """Mean distance in each image."""
        pool = {"pool_size": self.factor, "strides": self.factor, "data_format": "channels_last"}
        true = keras.ops.average_pool(y_true, **pool) if self.factor > 1 else y_true
        squares = keras.ops.sum(keras.ops.square(self.factor * y_pred - true), axis=-1)
        return keras.ops.mean(keras.ops.sqrt(squares + 0.01), axis=tuple(range(1, len(squares.shape))))


class Log(keras.callbacks.Callback):
    """Appends each epoch to a table: losses, the seconds that have passed, and those that the processor worked."""

    def __init__(self, path):
        super().__init__()
        self.path, self.began, self.rows = path, (time.perf_counter(), time.process_time()), []

    def on_epoch_end(self, epoch, logs=None):
        """Write the table anew."""
        clocks = (time.perf_counter, time.process_time)
        wall, worked = (now() - then for now, then in zip(clocks, self.began, strict=True))
        row = {"epoch": epoch + 1, "seconds": round(wall, 1), "processor_seconds": round(worked, 1)}
        self.rows.append(row | {name: float(f"{value:.5g}") for name, value in (logs or {}).items()})
        with self.path.open("w", newline="") as file:
            table = csv.DictWriter(file, self.rows[0].keys())
            table.writeheader()
            table.writerows(self.rows)


def make_image(ndim):
    """Painter of weak effects and little noise in 2-D; of all effects, and more noise, in 3-D."""
    lessons = LESSONS[ndim]
    if ndim == 3:
        image = synthesis.ImageFromLabels(lessons.labels, seed=SEED + 1)
        image.effects.append(synthesis.RandomNoise(sd=0.08, seed=SEED + 2))
        return image
    effects = [
        synthesis.RandomBlur(sigma=0.8, seed=SEED + 11),
        synthesis.RandomBias(sd=0.2, scale=40.0, seed=SEED + 12),
        synthesis.RandomGamma(sd=(0.15, 0.15), seed=SEED + 13),
        synthesis.RandomNoise(sd=0.04, seed=SEED + 2),
    ]
    return synthesis.ImageFromLabels(
        lessons.labels, sd=(0.0, 0.05), black_background=0.8, effects=effects, seed=SEED + 1
    )


def make_data(ndim, targets):
    """Pairs of random shapes, some on an empty ground, deformed and a little turned, shifted and stretched."""
    lessons = LESSONS[ndim]
    pairs = synthesis.PairFromLabels(
        make_image(ndim),
        scored=(0,),
        deformation=synthesis.RandomDeformation(strength=(0.5, lessons.strength), scales=lessons.scales, seed=SEED + 3),
        affine=synthesis.RandomAffine(translation=2.5, rotation=0.05, scale=1.05, shear=0.02, seed=SEED + 4),
        alike=lessons.alike,
        seed=SEED,
    )
    return synthesis.SyntheticPairs(
        lessons.shape,
        pairs=pairs,
        labels=synthesis.RandomShapes(
            num_labels=lessons.labels, scales=lessons.sizes, ground=lessons.ground, seed=SEED + 5
        ),
        batch_size=lessons.batch_size,
        steps=STEPS_PER_EPOCH,
        targets=targets,
        seed=SEED,
    )


def train(ndim, output, *, epochs):
    """Train a network and write its weights."""
    keras.utils.set_random_seed(SEED)
    network = DualStream((None,) * ndim + (1,), **DESIGNS[ndim])
    levels = range(1, 1 + len(DESIGNS[ndim]["encoder"]))
    outputs = {f"level_{level}": network.get_layer(f"displacement_{level}").output for level in levels}
    outputs["displacement"] = network.output["displacement"]
    model = keras.Model(network.inputs, outputs)
    factors = {"displacement": 1, **{f"level_{level}": 2**level for level in levels}}
    steps = epochs * STEPS_PER_EPOCH
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - 100, warmup_target=1e-3, warmup_steps=100)
    model.compile(
        keras.optimizers.Adam(rate, global_clipnorm=1.0),
        loss={name: EndPointError(factor) for name, factor in factors.items()},
        loss_weights={name: 1.0 if factor == 1 else 0.5 for name, factor in factors.items()},
        jit_compile=False,
    )
    data = make_data(ndim, dict.fromkeys(factors, "displacement"))
    callbacks = [
        Log(output.with_suffix(".csv")),
        keras.callbacks.ModelCheckpoint(str(output.with_suffix(".last.keras"))),
    ]
    model.fit(data, epochs=epochs, callbacks=callbacks, verbose=2)
    arrays = {weight.path: keras.ops.convert_to_numpy(weight.value) for weight in network.weights}
    write_weights(output.with_suffix(".npz"), {"input_shape": (None,) * ndim + (1,), **DESIGNS[ndim]}, arrays)


def main():
    """Parse the command and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ndim", type=int, choices=(2, 3))
    parser.add_argument("--epochs", type=int, help="fewer than it takes, to try")
    parser.add_argument("--output", type=Path, default=Path("models"))
    options = parser.parse_args()
    options.output.mkdir(exist_ok=True)
    path = options.output / f"shapes_{options.ndim}d"
    train(options.ndim, path, epochs=options.epochs or LESSONS[options.ndim].epochs)


if __name__ == "__main__":
    main()
