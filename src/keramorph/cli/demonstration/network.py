"""Part two of the demo: a network in a dozen lines of Keras learns, in about a minute, to register such slices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keramorph.cli.demonstration.scene import (
    CROP,
    Answer,
    bend,
    change_contrast,
    draw_displacement,
    make_scene,
    read_slice,
)

SHAPE = (200, 200)
STEPS, COPIES = 1800, 160
TRAINING_SEED, TEST_SEED = 1, 2026
"""Two streams of chance: no deformation and no contrast of the test pair occurs in training."""


def build_network(shape: tuple[int, int] = SHAPE) -> Any:
    """Return a Keras model from a fixed and a moving picture to the moved picture and the displacement.

    Args:
        shape: Rows and columns of the pictures.

    Returns:
        The compiled model: inputs `[fixed, moving]`, outputs `[moved, displacement]`.

    Example:
        >>> [tuple(output.shape) for output in build_network().outputs]
        [(None, 200, 200, 1), (None, 200, 200, 2)]
    """
    from keramorph._keras import keras
    from keramorph.layers import ResizeDisplacement, Warp
    from keramorph.losses import LNCC, Diffusion

    keras.utils.set_random_seed(TRAINING_SEED)

    def convolve(tensor: Any, width: int, stride: int = 1) -> Any:
        return keras.layers.Conv2D(width, 3, stride, padding="same", activation="leaky_relu")(tensor)

    fixed, moving = keras.Input((*shape, 1)), keras.Input((*shape, 1))
    half = convolve(keras.layers.Concatenate()([fixed, moving]), 16, stride=2)
    quarter = convolve(half, 32, stride=2)
    eighth = convolve(convolve(convolve(quarter, 32, stride=2), 32), 32)
    joined = keras.layers.Concatenate()([quarter, keras.layers.UpSampling2D()(eighth)])
    small = keras.layers.Conv2D(2, 3, padding="same")(convolve(convolve(joined, 32), 32))
    displacement = ResizeDisplacement(shape=shape)(small)
    moved = Warp()([moving, displacement])
    model = keras.Model([fixed, moving], [moved, displacement])
    rate = keras.optimizers.schedules.CosineDecay(2e-3, STEPS)
    model.compile(keras.optimizers.Adam(rate), loss=[LNCC(), Diffusion()], loss_weights=[1.0, 0.3])
    return model


def train_network(model: Any, *, steps: int, advance: Callable[[float], None] | None = None) -> Answer:
    """Return a trained network's answer to a pair of slices that it has not seen.

    Args:
        model: What `build_network` returns; it is trained.
        steps: Number of training steps, each on new random pairs.
        advance: Called after each step with the loss.

    Returns:
        The answer, with the time that the training took.

    Example:
        >>> train_network(build_network(), steps=1).displacement.shape  # doctest: +SKIP
        (200, 200, 2)
    """
    from keramorph._keras import keras

    anatomy = read_slice()[CROP]
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: advance(float(logs["loss"])) if advance else None
    )
    generator = np.random.default_rng(TRAINING_SEED)
    start = time.perf_counter()
    pairs = draw_batches(bend_copies(anatomy, generator, count=COPIES), generator)
    model.fit(pairs, steps_per_epoch=steps, callbacks=[watch], shuffle=False, verbose=0)
    seconds = time.perf_counter() - start
    scene = make_scene(anatomy, np.random.default_rng(TEST_SEED))
    pictures = [picture[None, ..., None] for picture in (scene.fixed, scene.moving)]
    moved, displacement = (keras.ops.convert_to_numpy(output)[0] for output in model(pictures))
    return Answer(scene, displacement, moved[..., 0], seconds)


def bend_copies(anatomy: np.ndarray, generator: np.random.Generator, *, count: int) -> np.ndarray:
    """Return bent copies `(count, rows, columns)` of a picture: any two of them make a pair to train with."""
    sizes = generator.uniform(2.0, 9.0, size=count)
    fields = (draw_displacement(generator, anatomy.shape, largest=size) for size in sizes)
    return np.stack([bend(anatomy, field) for field in fields])


def draw_batches(copies: np.ndarray, generator: np.random.Generator) -> Iterator[tuple[Any, Any]]:
    """Yield batches of one pair for `fit` without end: `((fixed, moving), (fixed, zeros))`, some of them mirrored."""
    while True:
        picked = copies[generator.choice(len(copies), size=2, replace=False), :, :: generator.choice((-1, 1))]
        fixed, moving = (change_contrast(picture, generator)[None, ..., None] for picture in picked)
        yield (fixed, moving), (fixed, np.zeros((1, 1), np.float32))
