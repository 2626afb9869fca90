"""Networks made of networks, and networks told more than the two images: cascades, smoothness, atlases."""

import keras
import numpy as np
import pytest
from scipy import ndimage

from keramorph.networks import Cascade, ConditionalAtlas, ConditionalVoxelMorph, VoxelMorph
from keramorph.networks.modulation import Modulate
from network_cases import SAME_ON_ALL, WIDTHS, call, draw, draw_inputs, make_atlas, set_head, stir, to_numpy

pytestmark = pytest.mark.usefixtures("compile_quickly")


def read(image, displacement):
    """SciPy's `image(x + u(x))` of `(height, width, channels)`, the edge extended."""
    places = np.moveaxis(np.stack(np.indices(image.shape[:2]), axis=-1) + displacement, -1, 0)
    channels = np.moveaxis(image, -1, 0)
    return np.stack([ndimage.map_coordinates(c, places, order=1, mode="nearest") for c in channels], axis=-1)


def test_cascades_displacement_is_that_of_warping_twice():
    first, second = (stir(VoxelMorph((13, 18, 1), **WIDTHS), seed=seed, amount=0.3) for seed in (1, 2))
    network = Cascade((13, 18, 1), networks=[first, second])
    fixed, moving = draw_inputs(network, 13, 18)
    outputs = {name: value[0] for name, value in call(network, [fixed, moving]).items()}
    u = call(first, [fixed, moving])["displacement"][0]
    moved = read(moving[0], u).astype("float32")
    v = call(second, [fixed, moved[None]])["displacement"][0]
    assert min(np.abs(u).max(), np.abs(v).max()) > 0.3
    np.testing.assert_allclose(outputs["displacement"], v + read(u, v), atol=1e-4)
    np.testing.assert_allclose(outputs["moved"], read(moving[0], outputs["displacement"]), atol=1e-4)


def test_cascade_enlarges_what_a_network_finds_in_coarse_images():
    network = VoxelMorph((None, None, 1), **WIDTHS)
    set_head(network, "head", (0.5, -0.25))
    cascade = Cascade((13, 18, 1), networks=[network, network, network], factors=(4, 2, 1))
    displacement = call(cascade, draw_inputs(cascade, 13, 18))["displacement"]
    np.testing.assert_allclose(displacement, np.full((1, 13, 18, 2), (3.5, -1.75)), atol=1e-5)


def test_saved_cascade_still_shares_its_weights(tmp_path):
    shared, other = VoxelMorph((13, 18, 1), **WIDTHS), VoxelMorph((13, 18, 1), mode="velocity", **WIDTHS)
    cascade = stir(Cascade((13, 18, 1), networks=[shared, other, shared]))
    assert cascade.count_params() == shared.count_params() + other.count_params()
    cascade.save(tmp_path / "cascade.keras")
    loaded = keras.saving.load_model(tmp_path / "cascade.keras")
    assert loaded.count_params() == cascade.count_params()
    inputs = draw_inputs(cascade, 13, 18)
    expected = call(cascade, inputs)["displacement"]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(call(loaded, inputs)["displacement"], expected, atol=1e-6)


def test_modulation_is_its_formula():
    features, condition = draw(2, 3, 4, 5), draw(2, 10, seed=1)
    scale, shift = condition[:, None, None, :5], condition[:, None, None, 5:]
    np.testing.assert_allclose(to_numpy(Modulate()([features, condition])), (1 + scale) * features + shift, atol=1e-6)


def test_conditional_voxelmorph_is_voxelmorph_until_it_learns():
    """The weights beyond those of VoxelMorph are the dense layers: two that read, one for each convolution."""
    network, plain = ConditionalVoxelMorph((13, 18, 1), **WIDTHS), VoxelMorph((13, 18, 1), **WIDTHS)
    dense = (1 + 1) * 32 + (32 + 1) * 32 + 5 * (32 + 1) * 2 * 4
    assert network.count_params() == plain.count_params() + dense
    for layer in plain.get_layer("unet").layers:
        if layer.weights:
            network.get_layer(layer.name).set_weights(layer.get_weights())
    head = stir(plain).get_layer("head").get_weights()
    network.get_layer("head").set_weights(head)
    fixed, moving = draw(2, 1, 13, 18, 1)
    expected = call(plain, [fixed, moving])["displacement"]
    for smoothness in (0.0, 0.7):
        found = call(network, [fixed, moving, np.array([[smoothness]], "float32")])["displacement"]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_smoothness_changes_each_pair_by_itself():
    network = stir(ConditionalVoxelMorph((13, 18, 1), **WIDTHS), amount=0.3)
    fixed, moving = (np.repeat(image, 2, axis=0) for image in draw(2, 1, 13, 18, 1))
    low, high, both = (
        call(network, [fixed, moving, np.array(values, "float32")])["displacement"]
        for values in ([[0.1], [0.1]], [[0.9], [0.9]], [[0.1], [0.9]])
    )
    np.testing.assert_allclose(both, [low[0], high[1]], atol=1e-5)
    assert np.abs(low - high).max() > 1e-2


def test_atlas_starts_as_its_template_and_is_what_moves():
    network = make_atlas((13, 18, 1))
    template = draw(13, 18, 1, seed=5)
    network.get_layer("template").set_weights([template])
    outputs = call(network, dict(zip(("fixed", "attributes"), draw_inputs(network, 13, 18), strict=True)))
    np.testing.assert_allclose(outputs["atlas"][0], template, atol=1e-3)
    network.get_layer("change").set_weights([0.1 * draw(3, 3, 4, 1), np.zeros(1, "float32")])
    inner = next(layer for layer in network.layers if isinstance(layer, VoxelMorph))
    set_head(inner, "head", (1.5, -0.5))
    fixed, attributes = draw_inputs(network, 13, 18, batch=2)
    outputs = call(network, [fixed, attributes])
    assert np.abs(outputs["atlas"][0] - outputs["atlas"][1]).max() > 1e-3
    for b in range(2):
        np.testing.assert_allclose(outputs["moved"][b], read(outputs["atlas"][b], (1.5, -0.5)), atol=1e-4)
    reader = keras.Model(network.inputs[1], network.output["atlas"])
    np.testing.assert_allclose(call(reader, attributes), outputs["atlas"], atol=1e-6)


@SAME_ON_ALL
def test_atlas_registers_by_a_network_of_its_own_unless_it_is_given_one():
    network = ConditionalAtlas((8, 12, 1), attributes=1, decoder=(4, 4))
    inner = next(layer for layer in network.layers if isinstance(layer, VoxelMorph))
    assert inner.get_config()["mode"] == "velocity"
    coarse = 4 * 6 * 4
    decoder = 2 * coarse + (9 * 4 + 1) * 4 + (9 * 4 + 1) + 8 * 12
    assert network.count_params() == inner.count_params() + decoder
    assert make_atlas((13, 18, 1)).output["displacement"].shape == (None, 13, 18, 2)
