"""On TensorFlow tensors, all inside `tf.function`: Keramorph, and keras.ops with and without XLA."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from benchmarks.candidates.candidate import Arrays, Candidate, Offer, each_number, make_identity
from benchmarks.plan import FORWARD, TO_BOTH, TO_FIELD, Task
from keramorph import losses, ops

Warp = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def build_warp(warp: Warp, *, xla: bool = False) -> Callable[[Task, Arrays], Candidate]:
    return lambda task, arrays: differentiate(warp, arrays, xla=xla)


def differentiate(warp: Warp, arrays: Arrays, *, xla: bool) -> Candidate:
    """Return the warp and its gradients against a given cotangent, each a graph of its own."""
    image, field, cotangent = (tf.constant(arrays[name]) for name in ("image", "field", "cotangent"))
    compiled = tf.function(jit_compile=xla)

    @compiled
    def forward(image, field):
        return (warp(image, field),)

    @compiled
    def to_field(image, field, cotangent):
        with tf.GradientTape() as tape:
            tape.watch(field)
            moved = warp(image, field)
        return moved, tape.gradient(moved, field, cotangent)

    @compiled
    def to_both(image, field, cotangent):
        with tf.GradientTape() as tape:
            tape.watch((image, field))
            moved = warp(image, field)
        return moved, *tape.gradient(moved, (field, image), cotangent)

    modes = {
        FORWARD: lambda: forward(image, field),
        TO_FIELD: lambda: to_field(image, field, cotangent),
        TO_BOTH: lambda: to_both(image, field, cotangent),
    }
    return Candidate(modes, _export)


def map_coordinates(image: tf.Tensor, field: tf.Tensor) -> tf.Tensor:
    identity = tf.constant(make_identity(tuple(image.shape[1:-1])))
    moved = [
        keras.ops.image.map_coordinates(
            image[item, ..., 0], keras.ops.moveaxis(identity + field[item], -1, 0), 1, "nearest"
        )
        for item in range(image.shape[0])
    ]
    return tf.stack(moved)[..., None]


def build_lncc(task: Task, arrays: Arrays) -> Candidate:
    fixed, moved = tf.constant(arrays["fixed"]), tf.constant(arrays["moved"])

    def make(size: int) -> Callable[[], tuple]:
        loss = losses.LNCC(size)

        @tf.function
        def run(fixed, moved):
            with tf.GradientTape() as tape:
                tape.watch(moved)
                value = loss(fixed, moved)
            return value, tape.gradient(value, moved)

        return lambda: run(fixed, moved)

    return Candidate(each_number(task, make), _export)


def build_filter(function: Callable) -> Callable[[Task, Arrays], Candidate]:
    """Candidates that take the field, and per mode one number."""

    def build(task: Task, arrays: Arrays) -> Candidate:
        field = tf.constant(arrays["field"])

        def make(number: int) -> Callable[[], tuple]:
            run = tf.function(lambda field: function(field, number))
            return lambda: (run(field),)

        return Candidate(each_number(task, make), _export)

    return build


def _export(results: tuple) -> list[np.ndarray]:
    return [np.asarray(tf.convert_to_tensor(result)) for result in results]


OFFERS = {
    "warp": [
        Offer("keramorph", build_warp(ops.warp), "inside tf.function"),
        Offer("keras map_coordinates (function)", build_warp(map_coordinates)),
        Offer("keras map_coordinates (XLA)", build_warp(map_coordinates, xla=True)),
    ],
    "lncc": [Offer("keramorph", build_lncc, "inside tf.function")],
    "gaussian": [
        Offer("keramorph", build_filter(lambda field, sigma: ops.gaussian(field, sigma=sigma)), "inside tf.function")
    ],
    "exponentiate": [
        Offer(
            "keramorph",
            build_filter(lambda field, steps: ops.exponentiate(field, steps=steps)),
            "inside tf.function",
        )
    ],
}
