"""What holds for every network: any size, both inputs by name, no motion before training, half precision, storing."""

import keras
import numpy as np
import pytest

from keramorph.errors import OptionError, ShapeError
from keramorph.networks import Cascade, ConditionalAtlas, DualStream, JointNetwork, LapIRN, TransMorph
from network_cases import MAKE, SAME_ON_ALL, call, draw_inputs, list_layers, make_atlas, stir, to_numpy

pytestmark = pytest.mark.usefixtures("compile_quickly")

EACH = pytest.mark.parametrize("name", MAKE)


@pytest.fixture
def policy():
    """Function that sets the global data type policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@EACH
def test_known_and_unknown_sizes_give_the_same(name):
    """Sizes that nothing divides; `predict_on_batch` compiles, so that TensorFlow does not know them inside."""
    known, unknown = MAKE[name]((13, 18, 1)), MAKE[name]((None, None, 1))
    unknown.set_weights(stir(known).get_weights())
    inputs = draw_inputs(known, 13, 18)
    expected = call(known, inputs)
    assert expected["displacement"].shape == (1, 13, 18, 2)
    assert np.abs(expected["displacement"]).max() > 0.05
    outputs = unknown.predict_on_batch(inputs) if keras.config.backend() == "tensorflow" else call(unknown, inputs)
    assert set(outputs) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(outputs[key], value, atol=1e-4, err_msg=key)


@EACH
def test_untrained_it_leaves_the_image_as_it_is(name):
    """The affine network by its law alone: what is equal stays in place."""
    network = MAKE[name]((13, 18, 1))
    inputs = draw_inputs(network, 13, 18)
    if name in ("affine", "joint"):
        inputs[1] = inputs[0]
    names = [x.name for x in network.inputs]
    outputs = call(network, dict(zip(names, inputs, strict=True)))
    assert {"moved", "displacement"} <= set(outputs)
    assert np.abs(outputs["displacement"]).max() < 1e-2
    np.testing.assert_allclose(outputs["moved"], inputs[1], atol=1e-2)


@EACH
def test_fields_are_float32_under_mixed_precision(name, policy):
    policy("mixed_float16")
    network = stir(MAKE[name]((13, 18, 1)))
    assert {x.dtype for x in network.output.values()} == {"float32"}
    computed = {layer.compute_dtype for layer in list_layers(network) if type(layer).__name__.startswith("Conv")}
    assert computed == ({"float16"} if name == "affine" else {"float16", "float32"})
    if keras.config.backend() != "jax":  # which would compile everything once more, and slowly
        outputs = network(draw_inputs(network, 13, 18))
        assert {keras.backend.standardize_dtype(x.dtype) for x in outputs.values()} == {"float32"}
        assert all(np.isfinite(to_numpy(x)).all() for x in outputs.values())


@SAME_ON_ALL
@EACH
@pytest.mark.parametrize("sizes", [(9,), (4, 5, 9)])
def test_one_and_three_dimensions_from_the_same_code(name, sizes):
    network = MAKE[name]((*sizes, 2))
    assert network.output["moved"].shape == (None, *sizes, 2)
    assert network.output["displacement"].shape == (None, *sizes, len(sizes))
    if len(sizes) == 3:
        outputs = network(draw_inputs(network, *sizes))
        assert tuple(outputs["displacement"].shape) == (1, *sizes, len(sizes))


@pytest.mark.parametrize("name", [*MAKE, "atlas"])
def test_configurations_come_back(name):
    network = {**MAKE, "atlas": make_atlas}[name]((13, 18, 1), dtype="mixed_float16")
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(network))
    assert type(loaded) is type(network)
    assert loaded.get_config() == network.get_config()
    assert [(w.path, w.shape) for w in loaded.weights] == [(w.path, w.shape) for w in network.weights]
    assert [x.compute_dtype for x in list_layers(loaded)] == [x.compute_dtype for x in list_layers(network)]


@SAME_ON_ALL
@pytest.mark.parametrize(
    "make",
    [
        lambda: LapIRN((16, 16, 1), levels=0),
        lambda: LapIRN((16, 16, 1), mode="flow"),
        lambda: DualStream((16, 16, 1), decoder=(4, 4)),
        lambda: DualStream((16, 16, 1), finest=4),
        lambda: DualStream((16, 16, 1), radius=0),
        lambda: MAKE["affine"]((16, 16, 1), kind="projective"),
        lambda: MAKE["affine"]((16, 16, 1), ridge=0.0),
        lambda: MAKE["conditional"]((16, 16, 1), mode="flow"),
        lambda: TransMorph((16, 16, 1), width=5),
        lambda: TransMorph((16, 16, 1), heads=(5, 2, 4, 4)),
        lambda: TransMorph((16, 16, 1), window=(4, 4, 4)),
        lambda: TransMorph.preset("huge", (16, 16, 1)),
        lambda: Cascade((16, 16, 1), networks=[]),
        lambda: Cascade((16, 16, 1), networks=[MAKE["conditional"]((16, 16, 1))]),
        lambda: Cascade((16, 16, 1), networks=[MAKE["dual"]((16, 16, 1))], factors=(2, 1)),
        lambda: JointNetwork((16, 16, 1), affine=MAKE["dual"]((16, 16, 1)), deformable=MAKE["dual"]((16, 16, 1))),
        lambda: ConditionalAtlas((16, 16, 1), attributes=0),
    ],
)
def test_what_cannot_be_built_is_refused(make):
    with pytest.raises(OptionError, match="Received: "):
        make()


def test_shapes_that_fit_no_network_are_refused():
    for make in (*MAKE.values(), make_atlas):
        with pytest.raises(ShapeError, match="Received: "):
            make((16, 16, None))
        with pytest.raises(ShapeError, match="Received: "):
            make((4, 4, 4, 4, 1))
    with pytest.raises(ShapeError, match="Received: "):
        ConditionalAtlas((16, None, 1), attributes=2)
