"""The subjects that the examples learn from: slices of one random anatomy, bent anew for each subject."""

from typing import NamedTuple

import numpy as np

from keramorph import ops, synthesis
import keras

SIZE = 64
LABELS = 6
RADIUS = 25.0


class Subjects(NamedTuple):
    """Images `(count, 64, 64, 1)` from 0 to 1, and which voxels each label covers, `(count, 64, 64, 6)`."""

    images: np.ndarray
    labels: np.ndarray


def draw_anatomy(seed):
    """A body of six organs, each a label from 1 to 6, in front of a background of 0: `(1, 64, 64, 1)`."""
    shapes = synthesis.RandomShapes(num_labels=LABELS, scales=(12.0, 16.0), strength=4.0, seed=seed)
    organs = keras.ops.convert_to_numpy(shapes(np.zeros((1, SIZE, SIZE, 1)))) + 1
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return np.where(np.hypot(rows, columns)[None, ..., None] < RADIUS, organs, 0)


def draw_subjects(count, *, seed, anatomy=2, noise=0.05):
    """Subjects of one population: the same organs in the same brightness, each where that subject has it."""
    template = keras.ops.tile(draw_anatomy(anatomy), (count, 1, 1, 1))
    bend = synthesis.RandomDeformation(strength=(3.0, 3.0), scales=(16.0, 24.0), seed=seed)
    labels = ops.warp(template, bend(template), order=0)
    brightness = np.random.default_rng(anatomy).permutation(np.linspace(0.3, 0.9, LABELS))
    images = keras.ops.take(keras.ops.convert_to_tensor([0.0, *brightness], dtype="float32"), labels)
    for effect in (synthesis.RandomBlur(sigma=0.7, seed=seed), synthesis.RandomNoise(sd=noise, seed=seed)):
        images = effect(images, training=True)
    found = (images, keras.ops.one_hot(labels[..., 0], LABELS + 1)[..., 1:])
    return Subjects(*(keras.ops.convert_to_numpy(tensor) for tensor in found))


def draw_pairs(subjects, count, *, seed):
    """Pairs of unlike subjects, as `RegistrationModel` takes them."""
    generator, available = np.random.default_rng(seed), len(subjects.images)
    fixed = generator.integers(available, size=count)
    moving = (fixed + generator.integers(1, available, size=count)) % available
    return {
        "fixed": subjects.images[fixed],
        "moving": subjects.images[moving],
        "fixed_labels": subjects.labels[fixed],
        "moving_labels": subjects.labels[moving],
    }
