"""Models with the layers train: compiled, in mixed precision, with sizes unknown, and from bare operations."""

import keras
import numpy as np
import pytest

from keramorph import ops
from keramorph.layers import AffineWarp, Compose, Exponentiate, Resample, ResizeDisplacement, Warp

LAST = {"data_format": "channels_last"}
COMPILED = keras.config.backend() != "torch"


@pytest.fixture
def policy():
    """Function that sets the global data type policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def make_pairs(count=2, size=(12, 14)):
    """Bright blobs, and the same blobs two voxels on: fixed images for moving ones."""
    x, y = np.meshgrid(*map(np.arange, size), indexing="ij")
    rows = np.linspace(4, 7, count).reshape(-1, 1, 1)
    fixed, moving = (np.exp(-((x - rows - shift) ** 2 + (y - 7.0) ** 2) / 8.0) for shift in (2.0, 0.0))
    return fixed[..., None].astype("float32"), moving[..., None].astype("float32")


def predict_field(fixed, moving):
    pair = keras.layers.Concatenate()([fixed, moving])
    hidden = keras.layers.Conv2D(8, 3, padding="same", activation="relu", data_format="channels_last")(pair)
    return keras.layers.Conv2D(2, 3, padding="same", data_format="channels_last", dtype="float32")(hidden)


def make_inputs(shape=(12, 14, 1)):
    return [keras.Input(shape, name="fixed"), keras.Input(shape, name="moving")]


def assert_learns(model, jit_compile):
    fixed, moving = make_pairs()
    model.compile(keras.optimizers.Adam(0.02), loss="mse", jit_compile=jit_compile)
    losses = [float(model.train_on_batch([fixed, moving], fixed)) for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]


class Shift(keras.layers.Layer):
    """Matrices `[identity | shift]` of shifts `(batch, 2)`."""

    def call(self, shift):
        eye = keras.ops.zeros_like(shift)[..., None] + keras.ops.eye(2, dtype=shift.dtype)
        return keras.ops.concatenate([eye, shift[..., None]], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape, 3)


def make_model_of_every_layer():
    """A shift of the whole image, then a velocity at half resolution composed with a displacement."""
    fixed, moving = make_inputs()
    velocity = ResizeDisplacement(scale=0.5, **LAST)(predict_field(fixed, moving))
    smooth = ResizeDisplacement(shape=(12, 14), **LAST)(Exponentiate(steps=1, **LAST)(velocity))
    displacement = Compose(**LAST)([smooth, predict_field(fixed, moving)])
    shift = keras.layers.Dense(2, dtype="float32")(keras.layers.GlobalAveragePooling2D(dtype="float32")(fixed))
    shifted = AffineWarp(**LAST)([moving, Shift(dtype="float32")(shift)])
    moved = Warp(dtype="float32", **LAST)([shifted, displacement])
    return keras.Model([fixed, moving], Resample(**LAST)([moved, 3.0 + displacement]))


def test_training_brings_the_moved_image_nearer_to_the_fixed_one():
    keras.utils.set_random_seed(0)
    fixed, moving = make_inputs()
    model = keras.Model([fixed, moving], Warp(**LAST)([moving, predict_field(fixed, moving)]))
    assert_learns(model, jit_compile=COMPILED)


def test_one_step_of_fit_through_every_layer_in_mixed_precision(policy):
    """With a loss scale of 2**15: a gradient that overflowed would leave the weights as they were."""
    policy("mixed_float16")
    keras.utils.set_random_seed(0)
    fixed, moving = make_pairs()
    model = make_model_of_every_layer()
    before = [np.copy(w) for w in model.get_weights()]
    model.compile(keras.optimizers.Adam(1e-3), loss="mse", jit_compile=COMPILED)
    history = model.fit([fixed, moving], fixed, batch_size=2, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert all(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert model.output.dtype == "float32"


def test_sizes_unknown_until_the_images_come():
    fixed, moving = make_inputs((None, None, 1))
    velocity = ResizeDisplacement(scale=0.5, **LAST)(predict_field(fixed, moving))
    displacement = ResizeDisplacement(scale=2.0, **LAST)(Exponentiate(steps=1, **LAST)(velocity))
    model = keras.Model([fixed, moving], Warp(**LAST)([moving, displacement]))
    model.compile("sgd", loss="mse")
    for size in [(12, 14), (16, 10)]:
        images = make_pairs(2, size)
        assert np.isfinite(model.train_on_batch(images, images[0]))
        assert model.predict_on_batch(images).shape == (2, *size, 1)


def test_bare_operations_build_and_train_a_functional_model():
    keras.utils.set_random_seed(0)
    fixed, moving = make_inputs()
    model = keras.Model([fixed, moving], ops.warp(moving, predict_field(fixed, moving)))
    assert model.output_shape == (None, 12, 14, 1)
    assert_learns(model, jit_compile=COMPILED)
