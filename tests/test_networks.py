"""The networks: the published weights, any image size, both modes, mixed precision, and pairs of 200 x 200."""

import keras
import numpy as np
import pytest
from scipy import ndimage

from keramorph.errors import OptionError, ShapeError
from keramorph.networks import UNet, VoxelMorph
from keramorph.networks.padding import CropToMatch, PadToMultiple

SMALL = {"encoder": (4, 4), "decoder": (4, 4), "final": (4,)}


@pytest.fixture
def policy():
    """Function that sets the global data type policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype="float32")


def enlarge(model, factor=2e4):
    """Blow the near-zero head up, so that the model moves something."""
    head = model.get_layer("head")
    kernel, bias = head.get_weights()
    head.set_weights([kernel * factor, bias + np.linspace(0.5, 1.0, len(bias), dtype="float32")])
    return model


@pytest.mark.parametrize(
    ("shape", "mode", "count"),
    [
        ((32, 32, 1), "displacement", 109_170),
        ((32, 32, 1), "velocity", 109_170),
        ((16, 16, 16, 1), "velocity", 327_331),
    ],
)
def test_published_number_of_weights(shape, mode, count):
    assert VoxelMorph(shape, mode=mode).count_params() == count


def test_convolutions_have_the_published_widths():
    """Skip connections from all four levels of the encoder, none from the images themselves."""
    network = VoxelMorph((32, 32, 1)).get_layer("unet")
    kernels = [w.shape for w in network.weights if len(w.shape) == 4]
    widths = [
        (2, 16),
        (16, 32),
        (32, 32),
        (32, 32),
        (32, 32),
        (64, 32),
        (64, 32),
        (64, 32),
        (48, 32),
        (32, 16),
        (16, 16),
    ]
    assert kernels == [(3, 3, *pair) for pair in widths]


def convolve(features, layer):
    """SciPy's 3 x 3 correlation of `(height, width, channels)` with zeros outside, then the leaky ReLU."""
    kernel, bias = (np.asarray(w, "float64") for w in layer.get_weights())
    total = np.stack(
        [
            sum(ndimage.correlate(features[..., i], kernel[..., i, o], mode="constant") for i in range(kernel.shape[2]))
            for o in range(kernel.shape[3])
        ],
        axis=-1,
    )
    total = total + bias
    return np.where(total > 0, total, 0.2 * total)


def test_unet_is_its_definition_in_numpy():
    network = UNet((8, 12, 2), encoder=(4, 4), decoder=(4, 4), final=(4,))
    image = draw(1, 8, 12, 2)
    features, skips = image[0].astype("float64"), []
    for level in (0, 1):
        skips.append(convolve(features, network.get_layer(f"encoder_{level}")))
        height, width = (n // 2 for n in skips[-1].shape[:2])
        features = skips[-1].reshape(height, 2, width, 2, 4).max(axis=(1, 3))
    for level in (1, 0):
        features = convolve(features, network.get_layer(f"decoder_{level}")).repeat(2, axis=0).repeat(2, axis=1)
        features = np.concatenate([features, skips[level]], axis=-1)
    expected = convolve(features, network.get_layer("final_0"))
    np.testing.assert_allclose(to_numpy(network(image))[0], expected, atol=1e-5)


def test_head_starts_near_zero_so_that_nothing_moves_yet():
    model = VoxelMorph((32, 32, 1))
    kernel, bias = model.get_layer("head").get_weights()
    assert np.std(kernel) == pytest.approx(1e-5, rel=0.2)
    assert not bias.any()
    fixed, moving = draw(2, 1, 32, 32, 1)
    outputs = model([fixed, moving])
    assert np.abs(to_numpy(outputs["displacement"])).max() < 1e-2
    np.testing.assert_allclose(to_numpy(outputs["moved"]), moving, atol=2e-2)


def test_called_with_a_list_or_a_dictionary():
    model = enlarge(VoxelMorph((12, 16, 1), **SMALL))
    fixed, moving = draw(2, 3, 12, 16, 1)
    listed = model([fixed, moving])
    named = model({"moving": moving, "fixed": fixed})
    assert set(listed) == {"moved", "displacement"}
    assert listed["displacement"].shape == (3, 12, 16, 2)
    np.testing.assert_array_equal(to_numpy(listed["moved"]), to_numpy(named["moved"]))
    assert np.abs(to_numpy(model([moving, fixed])["moved"]) - to_numpy(listed["moved"])).max() > 1e-3


@pytest.mark.parametrize("size", [(21, 18), (4, 9), (20, 16)])
def test_unet_of_any_size_is_that_of_the_image_in_a_frame_of_zeros(size):
    network = UNet((None, None, 2), **SMALL)
    image = draw(1, *size, 2)
    missing = [-n % 4 for n in size]
    widths = [(m // 2, m - m // 2) for m in missing]
    framed = np.pad(image, [(0, 0), *widths, (0, 0)])
    expected = to_numpy(network(framed))[:, widths[0][0] :, widths[1][0] :][:, : size[0], : size[1]]
    np.testing.assert_allclose(to_numpy(network(image)), expected, atol=1e-5)


def test_volumes_are_padded_in_a_graph_too_where_tensorflow_lost_what_convolutions_pad():
    image = keras.Input((9, 11, 10, 1))
    model = keras.Model(image, UNet((9, 11, 10, 1), **SMALL)(image))
    model.compile(jit_compile=False)
    volume = draw(1, 9, 11, 10, 1)
    np.testing.assert_allclose(model.predict_on_batch(volume), to_numpy(model(volume)), atol=1e-5)


@pytest.mark.parametrize("mode", ["displacement", "velocity"])
def test_known_and_unknown_sizes_give_the_same(mode):
    known, unknown = VoxelMorph((13, 18, 1), mode=mode, **SMALL), VoxelMorph((None, None, 1), mode=mode, **SMALL)
    unknown.set_weights(enlarge(known).get_weights())
    pair = list(draw(2, 1, 13, 18, 1))
    expected = {key: to_numpy(value) for key, value in known(pair).items()}
    assert unknown.output["displacement"].shape == (None, None, None, 2)
    outputs = unknown.predict_on_batch(pair)
    for key in ("moved", "displacement"):
        np.testing.assert_allclose(outputs[key], expected[key], atol=1e-5)


def test_velocity_is_integrated_at_half_resolution():
    model = enlarge(VoxelMorph((12, 16, 1), mode="velocity", **SMALL))
    assert model.get_layer("velocity").output.shape == (None, 6, 8, 2)
    reader = keras.Model(model.inputs, model.get_layer("velocity").output)
    assert to_numpy(reader(list(draw(2, 1, 12, 16, 1)))).shape == (1, 6, 8, 2)


def test_constant_velocity_comes_back_as_that_displacement():
    """The head gives 3 and -2 voxels everywhere: half of it at half resolution, integrated, and whole again."""
    model = VoxelMorph((12, 16, 1), mode="velocity", **SMALL)
    head = model.get_layer("head")
    head.set_weights([np.zeros_like(head.get_weights()[0]), np.array([3.0, -2.0], "float32")])
    displacement = to_numpy(model(list(draw(2, 1, 12, 16, 1)))["displacement"])
    np.testing.assert_allclose(displacement, np.broadcast_to([3.0, -2.0], displacement.shape), atol=1e-5)


def test_head_and_field_are_float32_under_mixed_precision(policy):
    policy("mixed_float16")
    model = VoxelMorph((12, 16, 1), mode="velocity", **SMALL)
    assert model.get_layer("head").compute_dtype == "float32"
    assert model.get_layer("unet").get_layer("encoder_0").compute_dtype == "float16"
    outputs = model(list(draw(2, 1, 12, 16, 1)))
    assert {keras.backend.standardize_dtype(x.dtype) for x in outputs.values()} == {"float32"}
    assert outputs["moved"].dtype == model([*draw(2, 1, 12, 16, 1)])["moved"].dtype


@pytest.mark.parametrize(
    "model",
    [
        lambda: UNet((None, 20, 2), dtype="mixed_float16", name="mine", **SMALL),
        lambda: UNet((17, 2), encoder=(4,), decoder=(4,), final=(4,)),
        lambda: VoxelMorph((20, None, 1), mode="velocity", steps=3, **SMALL),
    ],
)
def test_configurations_come_back(model):
    model = model()
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert loaded.get_config() == model.get_config()
    assert type(loaded) is type(model)
    assert [w.shape for w in loaded.weights] == [w.shape for w in model.weights]
    assert {layer.compute_dtype for layer in loaded.layers} == {layer.compute_dtype for layer in model.layers}


def test_one_and_three_dimensions_from_the_same_code():
    for shape in [(10,), (6, 5, 9)]:
        outputs = enlarge(VoxelMorph((*shape, 2), **SMALL))(list(draw(2, 1, *shape, 2)))
        assert tuple(outputs["moved"].shape) == (1, *shape, 2)
        assert tuple(outputs["displacement"].shape) == (1, *shape, len(shape))


def test_mission_network_trains_on_pairs_of_200_by_200():
    keras.utils.set_random_seed(0)
    x, y = np.meshgrid(np.arange(200), np.arange(200), indexing="ij")
    fixed, moving = (
        np.exp(-((x - c) ** 2 + (y - 100) ** 2) / 800)[None, ..., None].astype("float32") for c in (106, 98)
    )
    model = VoxelMorph((200, 200, 1))
    model.compile(keras.optimizers.Adam(1e-3), loss={"moved": "mse", "displacement": None})
    losses = [float(model.train_on_batch([fixed, moving], {"moved": fixed})) for _ in range(6)]
    assert losses[-1] < 0.9 * losses[0]
    assert model.predict_on_batch([fixed, moving])["displacement"].shape == (1, 200, 200, 2)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_padding_is_numpys_and_cropping_undoes_it(data_format):
    tensor = draw(2, 5, 8, 3) if data_format == "channels_last" else draw(2, 3, 5, 8)
    widths = [(1, 2), (0, 0)]
    padded = PadToMultiple(4, data_format=data_format)(tensor)
    around = [(0, 0), *widths, (0, 0)] if data_format == "channels_last" else [(0, 0), (0, 0), *widths]
    np.testing.assert_array_equal(to_numpy(padded), np.pad(tensor, around))
    np.testing.assert_array_equal(to_numpy(CropToMatch(data_format=data_format)([padded, tensor])), tensor)


def test_what_cannot_be_built_is_refused():
    for make in (UNet, VoxelMorph):
        with pytest.raises(ShapeError, match="Received: "):
            make((200, 200, None))
        with pytest.raises(ShapeError, match="Received: "):
            make((4, 4, 4, 4, 1))
        with pytest.raises(OptionError, match="Received: "):
            make((16, 16, 1), encoder=(4, 4), decoder=(4,))
    with pytest.raises(OptionError, match="Received: "):
        VoxelMorph((16, 16, 1), mode="flow")
    with pytest.raises(OptionError, match="Received: "):
        PadToMultiple(0)
    with pytest.raises(ShapeError, match="Received: "):
        CropToMatch()([draw(1, 4, 4, 1), draw(1, 5, 4, 1)])
