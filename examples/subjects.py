"""The subjects that the examples learn from: slices of one random body, bent anew for each subject."""

from typing import NamedTuple

import keras
import numpy as np

from keramorph import ops, synthesis

SIZE = 64
ORGANS = 6
RADIUS = 25.0
FIRST_CONTRAST = 2


class Subjects(NamedTuple):
    """Images `(count, 64, 64, 1)` from 0 to 1, and which voxels each organ covers, `(count, 64, 64, 6)`."""

    images: np.ndarray
    labels: np.ndarray


def draw_body(seed=2):
    """A body of six organs, each a label from 1 to 6, in front of a background of 0: `(1, 64, 64, 1)`."""
    shapes = synthesis.RandomShapes(num_labels=ORGANS, scales=(12.0, 16.0), strength=4.0, seed=seed)
    organs = keras.ops.convert_to_numpy(shapes(np.zeros((1, SIZE, SIZE, 1)))) + 1
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return np.where(np.hypot(rows, columns)[None, ..., None] < RADIUS, organs, 0)


def draw_subjects(count, *, seed, bodies=None, contrast=FIRST_CONTRAST, noise=0.05):
    """Subjects of one population: the organs of a body, or of one of their own, each where that subject has it."""
    bodies = np.tile(draw_body(), (count, 1, 1, 1)) if bodies is None else bodies
    bend = synthesis.RandomDeformation(strength=(3.0, 3.0), scales=(16.0, 24.0), seed=seed)
    labels = keras.ops.convert_to_numpy(ops.warp(bodies, bend(bodies), order=0))
    images = paint(labels, contrast=contrast)
    for effect in (synthesis.RandomBlur(sigma=0.7, seed=seed), synthesis.RandomNoise(sd=noise, seed=seed)):
        images = effect(images, training=True)
    return Subjects(keras.ops.convert_to_numpy(images), (labels == np.arange(1, ORGANS + 1)).astype("float32"))


def paint(labels, *, contrast=FIRST_CONTRAST):
    """The image of a map of organs in which each has a brightness, another one in each contrast."""
    brightness = np.random.default_rng(contrast).permutation(np.linspace(0.3, 0.9, ORGANS))
    return np.concatenate([[0.0], brightness]).astype("float32")[labels]


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
