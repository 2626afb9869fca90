"""Losses as Keras has them: in fit, compiled as the backend does by default, in mixed precision, saved and loaded."""

import keras
import numpy as np
import pytest

from differentiate import second_gradient
from keramorph import backend, losses

SIMILARITIES = [
    losses.MSE(),
    losses.NCC(),
    losses.LNCC(5, window="gaussian", squared=False),
    losses.LNCC(5),
    losses.MutualInformation(16, normalized=True),
    losses.MINDSSC(radius=0, dilation=1),
]
LABEL_LOSSES = [losses.SoftDice(), losses.CrossEntropy()]
REGULARIZERS = [
    losses.Diffusion(spacing=(2.0, 1.0), order=1),
    losses.Bending(spacing=2.0),
    losses.JacobianFolding(),
]
EVERY = [*SIMILARITIES, *LABEL_LOSSES, *REGULARIZERS]


def each_loss(cases=EVERY):
    return pytest.mark.parametrize("loss", cases, ids=lambda loss: loss.name)


def draw(shape, seed):
    return np.random.default_rng(seed).uniform(0.1, 1, size=shape).astype("float32")


def draw_arguments(loss, shape=(3, 8, 9), seed=0):
    if loss in REGULARIZERS:
        return np.zeros((shape[0], 1), "float32"), draw((*shape, len(shape) - 1), seed)
    return draw((*shape, 2), seed), draw((*shape, 2), seed + 1)


def to_numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


@each_loss()
def test_loss_survives_serialisation(loss):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(copy) is type(loss)
    assert copy.get_config() == loss.get_config()
    arguments = draw_arguments(loss)
    np.testing.assert_array_equal(to_numpy(copy(*arguments)), to_numpy(loss(*arguments)))
    assert keras.saving.get_registered_name(type(loss)) == f"keramorph>{type(loss).__name__}"


@each_loss()
def test_values_are_those_of_the_samples_and_weights_weigh_them(loss):
    arguments = draw_arguments(loss)
    values = to_numpy(type(loss).from_config({**loss.get_config(), "reduction": None})(*arguments))
    alone = [to_numpy(loss(*(argument[i : i + 1] for argument in arguments))) for i in range(3)]
    assert values.shape == (3,)
    np.testing.assert_allclose(values, alone, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(to_numpy(loss(*arguments)), values.mean(), rtol=1e-5)
    weights = np.array([1.0, 0.0, 3.0], "float32")
    np.testing.assert_allclose(to_numpy(loss(*arguments, weights)), (values * weights).sum() / 3, rtol=1e-5)


@each_loss([losses.NCC(), losses.LNCC(3), losses.MutualInformation(8), losses.MINDSSC(radius=0, dilation=1)])
def test_second_derivatives_are_those_of_the_formula(loss, monkeypatch):
    fixed, moved = (draw((2, 5, 6, 1), seed).astype("float64") for seed in (0, 1))
    name = keras.backend.backend()
    found = second_gradient(name, loss.call, moved, fixed)
    monkeypatch.setattr(type(backend.use(name)), "compare", backend.Engine.compare)
    expected = second_gradient(name, lambda m, f: loss.call(m, f), moved, fixed)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@each_loss(REGULARIZERS)
def test_regulariser_and_function_are_one(loss):
    function = {"diffusion": losses.diffusion, "bending": losses.bending}.get(loss.name, losses.jacobian_folding)
    options = {key: value for key, value in loss.get_config().items() if key in ("spacing", "order")}
    target, field = draw_arguments(loss)
    np.testing.assert_allclose(to_numpy(loss(target, field)), to_numpy(function(field, **options)).mean(), rtol=1e-6)


def build_model(channels, dtype):
    """A network without a fixed image size, with an image, probabilities of labels and a displacement as outputs."""
    image = keras.Input((None, None, channels))
    options = {"padding": "same", "dtype": dtype}
    moved = keras.layers.Conv2D(channels, 3, name="moved", **options)(image)
    labels = keras.layers.Conv2D(3, 3, activation="softmax", name="labels", **options)(image)
    field = keras.layers.Conv2D(2, 3, name="field", **options)(image)
    return keras.Model(image, [moved] * len(SIMILARITIES) + [labels] * len(LABEL_LOSSES) + [field] * len(REGULARIZERS))


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_all_losses_train_a_model(dtype):
    keras.utils.set_random_seed(0)
    model = build_model(2, dtype)
    model.compile(keras.optimizers.Adam(1e-2), loss=EVERY)
    moving, fixed = draw((4, 12, 13, 2), 0), draw((4, 12, 13, 2), 1)
    labels = np.eye(3, dtype="float32")[np.random.default_rng(2).integers(0, 3, size=(4, 12, 13))]
    dummy = np.zeros((4, 1), "float32")
    targets = [fixed] * len(SIMILARITIES) + [labels] * len(LABEL_LOSSES) + [dummy] * len(REGULARIZERS)
    history = model.fit(moving, targets, batch_size=2, epochs=4, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < history[0]


class Field(keras.layers.Layer):
    """Predicts a displacement and adds its energy to the losses."""

    def __init__(self):
        super().__init__()
        self.convolve = keras.layers.Conv2D(2, 3, padding="same")

    def build(self, input_shape):
        self.convolve.build(input_shape)

    def call(self, image):
        field = self.convolve(image)
        self.add_loss(keras.ops.mean(losses.diffusion(field, spacing=(2.0, 1.0))))
        return field


def test_a_regulariser_serves_add_loss():
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 1))
    model = keras.Model(image, Field()(image))
    model.compile(keras.optimizers.Adam(1e-2), loss=None)
    history = model.fit(draw((4, 9, 10, 1), 0), epochs=5, verbose=0).history["loss"]
    assert 0 < history[-1] < history[0]
