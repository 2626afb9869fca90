"""The drop-ins against the published formulas of what they replace, each written out as a naive loop."""

import itertools
import math

import keras
import numpy as np
import pytest

from keramorph.compat import RescaleTransform, SpatialTransformer, VecInt, dense_image_warp, resampler
from keramorph.errors import OptionError, ShapeError


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def draw(*shape, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype("float32")


# tf.contrib and TensorFlow Addons


def resampler_loop(data, warp):
    """The kernel's rule: bilinear where -1 < x < width and -1 < y < height, pixels outside the image being zero."""
    batch, height, width, channels = data.shape
    points = warp.reshape(batch, -1, 2).astype("float64")
    values = np.zeros((batch, points.shape[1], channels))
    for b, k in np.ndindex(*values.shape[:2]):
        x, y = points[b, k]
        if not (-1 < x < width and -1 < y < height):
            continue
        for i, j in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
            if 0 <= i < height and 0 <= j < width:
                values[b, k] += (1 - abs(x - j)) * (1 - abs(y - i)) * data[b, i, j]
    return values.reshape(*warp.shape[:-1], channels)


@pytest.mark.parametrize("field", [(40,), (5, 8), (2, 3, 4)])
def test_resampler_is_the_published_kernel_inside_at_the_edge_and_beyond(field):
    data = draw(2, 5, 7, 3)
    warp = np.random.default_rng(1).uniform(-2.5, 9, (2, *field, 2)).astype("float32")
    np.testing.assert_allclose(to_numpy(resampler(data, warp)), resampler_loop(data, warp), atol=1e-5)


def test_resampler_fades_over_one_pixel_beyond_each_edge():
    data = np.ones((1, 4, 6, 1), "float32")
    warp = np.array([[[-1.0, 0], [-0.25, 0], [5, 0], [5.25, 0], [6, 0], [0, -0.25], [0, 3.25], [0, 4]]], "float32")
    expected = [0, 0.75, 1, 0.75, 0, 0.75, 0.75, 0]
    np.testing.assert_allclose(to_numpy(resampler(data, warp))[0, :, 0], expected, atol=1e-6)


def test_resampler_takes_one_point_per_image():
    data, warp = draw(2, 4, 5, 3), np.array([[1.5, 2.0], [0.0, 3.0]], "float32")
    np.testing.assert_allclose(to_numpy(resampler(data, warp)), resampler_loop(data, warp), atol=1e-6)


def dense_image_warp_loop(image, flow):
    """`output[b, j, i] = image[b, j - flow[b, j, i, 0], i - flow[b, j, i, 1]]`, bilinear, the edge extended."""
    output = np.zeros(image.shape)
    height, width = image.shape[1:3]
    for b, j, i in np.ndindex(*image.shape[:3]):
        y = min(max(j - float(flow[b, j, i, 0]), 0.0), height - 1.0)
        x = min(max(i - float(flow[b, j, i, 1]), 0.0), width - 1.0)
        for row, column in itertools.product((math.floor(y), math.ceil(y)), (math.floor(x), math.ceil(x))):
            weight = (1 - abs(y - row) if row != y else 1) * (1 - abs(x - column) if column != x else 1)
            repeats = (2 if math.floor(y) == y else 1) * (2 if math.floor(x) == x else 1)
            output[b, j, i] += weight / repeats * image[b, row, column]
    return output


def test_dense_image_warp_subtracts_rows_then_columns():
    image, flow = draw(2, 5, 7, 3), draw(2, 5, 7, 2, scale=3.0, seed=1)
    np.testing.assert_allclose(to_numpy(dense_image_warp(image, flow)), dense_image_warp_loop(image, flow), atol=1e-5)


@pytest.mark.parametrize("call", [resampler, dense_image_warp])
def test_old_calls_with_a_name_in_half_precision_and_in_a_model(call):
    image, field = draw(1, 4, 5, 2), np.full((1, 4, 5, 2), 0.3, "float32")
    expected = to_numpy(call(image, field, name="old"))
    half = to_numpy(call(image.astype("float16"), field.astype("float16")))
    assert half.dtype == "float16"
    np.testing.assert_allclose(half.astype("float32"), expected, atol=5e-3)
    symbols = [keras.Input(batch_shape=x.shape) for x in (image, field)]
    model = keras.Model(symbols, call(*symbols))
    np.testing.assert_allclose(model.predict_on_batch([image, field]), expected, atol=1e-6)


@pytest.mark.parametrize("call", [resampler, dense_image_warp])
def test_old_calls_refuse_three_dimensions(call):
    with pytest.raises(ShapeError, match="Received: "):
        call(draw(1, 4, 5, 6, 1), draw(1, 4, 5, 6, 3))


# VoxelMorph


def interpolate(volume, position, fill_value=None, nearest=False):
    """neurite's `interpn` at one position: clamped corners, or one value wherever a coordinate is outside."""
    top = np.array(volume.shape[:-1]) - 1
    if fill_value is not None and (np.any(position < 0) or np.any(position > top)):
        return np.full(volume.shape[-1], fill_value)
    if nearest:
        return volume[tuple(np.clip(np.round(position), 0, top).astype(int))]
    clipped = np.clip(position, 0, top)
    low = np.floor(clipped).astype(int)
    value = np.zeros(volume.shape[-1])
    for corner in itertools.product((0, 1), repeat=len(top)):
        weight = np.prod([f if up else 1 - f for up, f in zip(corner, clipped - low, strict=True)])
        value += weight * volume[tuple(np.minimum(low + corner, top))]
    return value


def transform_loop(volume, shift, **options):
    """VoxelMorph's `transform`: the volume at each voxel's own index plus its shift."""
    output = np.zeros((*shift.shape[:-1], volume.shape[-1]))
    for index in np.ndindex(*shift.shape[:-1]):
        output[index] = interpolate(volume, np.array(index) + shift[index].astype("float64"), **options)
    return output


def affine_loop(matrix, shape, shift_center):
    """VoxelMorph's `affine_to_dense_shift`: `A x + t - x` for the mesh x, about its middle where asked."""
    shift = np.zeros((*shape, len(shape)))
    middle = (np.array(shape) - 1) / 2 if shift_center else np.zeros(len(shape))
    for index in np.ndindex(*shape):
        x = np.array(index) - middle
        shift[index] = matrix[:, :-1] @ x + matrix[:, -1] - x
    return shift


def swap(field):
    return field[..., [1, 0, *range(2, field.shape[-1])]]


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6)], ids=len)
@pytest.mark.parametrize("fill_value", [None, -3.0])
@pytest.mark.parametrize("interp_method", ["linear", "nearest"])
def test_spatial_transformer_is_the_published_transform(shape, fill_value, interp_method):
    vol, trf = draw(2, *shape, 2), draw(2, *shape, len(shape), scale=2.0, seed=1)
    moved = SpatialTransformer(interp_method=interp_method, fill_value=fill_value)([vol, trf])
    nearest = interp_method == "nearest"
    expected = [transform_loop(v, t, fill_value=fill_value, nearest=nearest) for v, t in zip(vol, trf, strict=True)]
    np.testing.assert_allclose(to_numpy(moved), expected, atol=1e-5)


def test_spatial_transformer_in_xy_order_and_with_one_transform_for_all():
    vol, trf = draw(3, 4, 5, 6, 1), draw(3, 4, 5, 6, 3, scale=2.0, seed=1)
    moved = SpatialTransformer(indexing="xy", single_transform=True)([vol, trf])
    np.testing.assert_allclose(to_numpy(moved), [transform_loop(v, swap(trf[0])) for v in vol], atol=1e-5)


@pytest.mark.parametrize("shift_center", [True, False])
@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6)], ids=len)
def test_spatial_transformer_takes_matrices_about_the_middle_or_the_corner(shape, shift_center):
    vol = draw(2, *shape, 1)
    trf = (np.eye(len(shape), len(shape) + 1) + draw(2, len(shape), len(shape) + 1, scale=0.2)).astype("float32")
    moved = SpatialTransformer(shift_center=shift_center)([vol, trf])
    expected = [transform_loop(v, affine_loop(m, shape, shift_center)) for v, m in zip(vol, trf, strict=True)]
    np.testing.assert_allclose(to_numpy(moved), expected, atol=1e-5)


def test_matrices_in_xy_order_have_columns_first():
    vol, matrix = draw(1, 6, 7, 1), np.array([[[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]], "float32")
    moved = to_numpy(SpatialTransformer(indexing="xy")([vol, matrix]))
    np.testing.assert_allclose(moved[0, :, :-2], vol[0, :, 2:], atol=1e-6)


@pytest.mark.parametrize("indexing", ["ij", "xy"])
def test_vec_int_is_the_published_scaling_and_squaring(indexing):
    velocity = draw(1, 5, 6, 2, scale=1.5)
    expected = (velocity[0] if indexing == "ij" else swap(velocity[0])).astype("float64") / 2**4
    for _ in range(4):
        expected = expected + transform_loop(expected, expected)
    displacement = VecInt(indexing=indexing, method="ss", int_steps=4)(velocity)
    np.testing.assert_allclose(to_numpy(displacement)[0], expected, atol=1e-5)


@pytest.mark.parametrize("zoom_factor", [2, 0.5, 1.3])
def test_rescale_transform_is_the_published_resize_times_the_factor(zoom_factor):
    trf = draw(1, 5, 6, 2)
    rescaled = to_numpy(RescaleTransform(zoom_factor)([trf]))[0]
    lines = [np.linspace(0, n - 1, int(n * zoom_factor)) for n in (5, 6)]
    expected = np.zeros((*map(len, lines), 2))
    for i, j in np.ndindex(*expected.shape[:2]):
        expected[i, j] = zoom_factor * interpolate(trf[0], np.array([lines[0][i], lines[1][j]]))
    assert rescaled.shape == RescaleTransform(zoom_factor).compute_output_shape(trf.shape)[1:]
    np.testing.assert_allclose(rescaled, expected, atol=1e-5)


def test_rescale_transform_scales_only_the_offset_of_a_matrix():
    trf = draw(2, 3, 4)
    expected = trf * [1, 1, 1, 0.5]
    np.testing.assert_allclose(to_numpy(RescaleTransform(0.5)(trf)), expected, atol=1e-6)


def make_layers():
    image, field = draw(1, 5, 6, 2), draw(1, 5, 6, 2, seed=1)
    return [
        (SpatialTransformer("nearest", "xy", False, 1.0, False), [image, field]),
        (VecInt("xy", "ss", 2), field),
        (RescaleTransform(0.5, "nearest"), field),
    ]


@pytest.mark.parametrize(("layer", "inputs"), make_layers(), ids=lambda x: getattr(x, "name", ""))
def test_voxelmorph_layers_come_back_from_their_configuration_and_take_unknown_sizes(layer, inputs):
    expected = to_numpy(layer(inputs))
    assert layer.weights == []
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert loaded.get_config() == layer.get_config()
    symbols = keras.tree.map_structure(lambda x: keras.Input((None, None, x.shape[-1])), inputs)
    model = keras.Model(symbols, loaded(symbols))
    np.testing.assert_allclose(model.predict_on_batch(inputs), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (SpatialTransformer(), [draw(1, 5, 6, 1), draw(1, 5, 6, 3)]),
        (SpatialTransformer(), [draw(1, 5, 6, 1), draw(1, 3, 3)]),
        (VecInt(), draw(1, 5, 6, 3)),
        (RescaleTransform(2), draw(1, 5, 6, 3)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(layer, inputs):
    with pytest.raises(ShapeError, match="Received: "):
        layer(inputs)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SpatialTransformer, {"interp_method": "cubic"}),
        (SpatialTransformer, {"indexing": "yx"}),
        (VecInt, {"method": "ode"}),
        (RescaleTransform, {"zoom_factor": 0}),
    ],
)
def test_options_that_cannot_be_are_refused(kind, options):
    with pytest.raises(OptionError, match="Received: "):
        kind(**options)
