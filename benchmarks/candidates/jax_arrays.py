"""On JAX arrays, all under `jax.jit`: Keramorph, keras.ops, and what one would write by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import keras

from benchmarks.candidates.candidate import Arrays, Candidate, Offer, each_number, export_last, make_identity
from benchmarks.plan import FORWARD, TO_BOTH, TO_FIELD, Task
from keramorph import losses, ops

Warp = Callable[[jax.Array, jax.Array], jax.Array]


def build_warp(warp: Warp) -> Callable[[Task, Arrays], Candidate]:
    return lambda task, arrays: differentiate(warp, task, arrays)


def bind(function: Callable, task: Task, *arrays: jax.Array) -> Callable[[], tuple]:
    """Return the compiled function on these arrays, without arguments, that waits for its results.

    For peak memory it is compiled right away: calling it to have it compiled would leave memory in XLA's pool.
    """
    run = jax.jit(function)
    if task.section == "memory":
        run = run.lower(*arrays).compile()
    return lambda: jax.block_until_ready(run(*arrays))


def differentiate(warp: Warp, task: Task, arrays: Arrays) -> Candidate:
    """Return the warp and its gradients against a given cotangent, each compiled as a whole."""
    image, field, cotangent = (jnp.asarray(arrays[name]) for name in ("image", "field", "cotangent"))

    def forward(image, field):
        return (warp(image, field),)

    def to_field(image, field, cotangent):
        moved, pull = jax.vjp(lambda field: warp(image, field), field)
        return moved, *pull(cotangent)

    def to_both(image, field, cotangent):
        moved, pull = jax.vjp(warp, image, field)
        to_image, to_field = pull(cotangent)
        return moved, to_field, to_image

    modes = {
        FORWARD: bind(forward, task, image, field),
        TO_FIELD: bind(to_field, task, image, field, cotangent),
        TO_BOTH: bind(to_both, task, image, field, cotangent),
    }
    return Candidate(modes, export_last)


def gather_corners(image: jax.Array, field: jax.Array) -> jax.Array:
    """Linear interpolation as one writes it: the corners gathered, weighted and added."""
    sizes = image.shape[1:-1]
    places = field + jnp.asarray(make_identity(sizes))
    places = jnp.clip(places, 0, jnp.asarray(sizes, dtype="float32") - 1)
    low = jnp.floor(places)
    part, index = places - low, low.astype("int32")
    rows = image.reshape(image.shape[0], -1)
    total = 0.0
    for corner in itertools.product((0, 1), repeat=len(sizes)):
        flat, weight = 0, 1.0
        for axis, step in enumerate(corner):
            flat = flat * sizes[axis] + jnp.minimum(index[..., axis] + step, sizes[axis] - 1)
            weight = weight * (part[..., axis] if step else 1 - part[..., axis])
        total += weight * jax.vmap(lambda row, at: row[at])(rows, flat)
    return total[..., None]


def map_coordinates(image: jax.Array, field: jax.Array) -> jax.Array:
    identity = jnp.asarray(make_identity(image.shape[1:-1]))
    moved = [
        keras.ops.image.map_coordinates(one[..., 0], jnp.moveaxis(identity + by, -1, 0), 1, "nearest")
        for one, by in zip(image, field, strict=True)
    ]
    return jnp.stack(moved)[..., None]


def build_lncc(make_loss: Callable[[int], Callable]) -> Callable[[Task, Arrays], Candidate]:
    """Value and gradient to the moved image, compiled per window."""

    def build(task: Task, arrays: Arrays) -> Candidate:
        fixed, moved = jnp.asarray(arrays["fixed"]), jnp.asarray(arrays["moved"])

        def make(size: int) -> Callable[[], tuple]:
            return bind(jax.value_and_grad(make_loss(size), argnums=1), task, fixed, moved)

        return Candidate(each_number(task, make), export_last)

    return build


def correlate(average: Callable) -> Callable[[int], Callable]:
    """Local correlation by its definition, from five window averages."""

    def make_loss(size: int) -> Callable:
        def loss(fixed, moved):
            f, m = fixed[..., 0], moved[..., 0]
            mean_f, mean_m, ff, mm, fm = (average(x, size) for x in (f, m, f * f, m * m, f * m))
            cross = fm - mean_f * mean_m
            variances = (jax.nn.relu(ff - mean_f**2) + 1e-5) * (jax.nn.relu(mm - mean_m**2) + 1e-5)
            return -jnp.mean(cross**2 / variances)

        return loss

    return make_loss


def average_by_cumsum(x: jax.Array, size: int) -> jax.Array:
    for axis in range(1, x.ndim):
        widths = [(size // 2 + 1, size // 2) if k == axis else (0, 0) for k in range(x.ndim)]
        total = jnp.cumsum(jnp.pad(x, widths), axis=axis)
        count = total.shape[axis]
        first = jax.lax.slice_in_dim(total, 0, count - size, axis=axis)
        x = jax.lax.slice_in_dim(total, size, count, axis=axis) - first
    return x / size ** (x.ndim - 1)


def average_by_reduce_window(x: jax.Array, size: int) -> jax.Array:
    for axis in range(1, x.ndim):
        window = tuple(size if k == axis else 1 for k in range(x.ndim))
        x = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1,) * x.ndim, "SAME")
    return x / size ** (x.ndim - 1)


def average_by_shifts(x: jax.Array, size: int) -> jax.Array:
    for axis in range(1, x.ndim):
        count = x.shape[axis]
        widths = [(size // 2, size // 2) if k == axis else (0, 0) for k in range(x.ndim)]
        padded = jnp.pad(x, widths)
        x = sum(jax.lax.slice_in_dim(padded, k, k + count, axis=axis) for k in range(size))
    return x / size ** (x.ndim - 1)


def average_by_matmul(x: jax.Array, size: int) -> jax.Array:
    for axis in range(1, x.ndim):
        index = jnp.arange(x.shape[axis])
        band = (jnp.abs(index[:, None] - index) <= size // 2).astype(x.dtype)
        x = jnp.moveaxis(jnp.tensordot(x, band, axes=(axis, 1)), -1, axis)
    return x / size ** (x.ndim - 1)


def build_filter(function: Callable) -> Callable[[Task, Arrays], Candidate]:
    """Candidates that take the field, and per mode one number."""

    def build(task: Task, arrays: Arrays) -> Candidate:
        field = jnp.asarray(arrays["field"])

        def make(number: int) -> Callable[[], tuple]:
            return bind(lambda field: (function(field, number),), task, field)

        return Candidate(each_number(task, make), export_last)

    return build


def exponentiate_by_gather(field: jax.Array, steps: int) -> jax.Array:
    field = field / 2**steps
    for _ in range(steps):
        field += jnp.concatenate(
            [gather_corners(field[..., d : d + 1], field) for d in range(field.shape[-1])], axis=-1
        )
    return field


OFFERS = {
    "warp": [
        Offer("keramorph", build_warp(ops.warp), "jit"),
        Offer("keras map_coordinates (jit)", build_warp(map_coordinates)),
        Offer("gather by hand (jit)", build_warp(gather_corners), "differentiated by JAX"),
    ],
    "lncc": [
        Offer("keramorph", build_lncc(losses.LNCC), "jit"),
        Offer("JAX cumsum", build_lncc(correlate(average_by_cumsum)), "jit"),
        Offer("JAX reduce_window", build_lncc(correlate(average_by_reduce_window)), "jit; axis by axis"),
        Offer("JAX shifted sums", build_lncc(correlate(average_by_shifts)), "jit; axis by axis"),
        Offer("JAX band matrices", build_lncc(correlate(average_by_matmul)), "jit; axis by axis"),
    ],
    "gaussian": [Offer("keramorph", build_filter(lambda field, sigma: ops.gaussian(field, sigma=sigma)), "jit")],
    "exponentiate": [
        Offer("keramorph", build_filter(lambda field, steps: ops.exponentiate(field, steps=steps)), "jit"),
        Offer("gather by hand (jit)", build_filter(exponentiate_by_gather)),
    ],
}
