"""The layers against SciPy, published formulas and each other's data format, on the active Keras backend."""

import keras
import numpy as np
import pytest
from scipy import ndimage

from keramorph.errors import OptionError, ShapeError
from keramorph.layers import AffineWarp, Compose, Exponentiate, Resample, ResizeDisplacement, Warp

SHAPES = [(6, 7), (5, 6, 7)]
LAST = {"data_format": "channels_last"}


@pytest.fixture
def policy():
    """Function that sets the global data type policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def draw(*shape, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype("float32")


def make_indices(shape):
    """Index of each voxel, `(ndim, *shape)`."""
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype("float64")


def read(image, positions, **options):
    """SciPy's values of `(batch, *spatial, channels)` at positions `(batch, ndim, *field)`."""
    return np.stack(
        [
            np.stack(
                [
                    ndimage.map_coordinates(item[..., c].astype("float64"), where, **options)
                    for c in range(item.shape[-1])
                ],
                axis=-1,
            )
            for item, where in zip(image, positions, strict=True)
        ]
    )


def pull(image, displacement, **options):
    """SciPy's `image(x + u(x))`."""
    positions = make_indices(displacement.shape[1:-1])[None] + np.moveaxis(displacement.astype("float64"), -1, 1)
    return read(image, positions, **options)


# Warp


@pytest.mark.parametrize(
    ("shape", "order", "boundary"),
    [
        ((7,), 3, "mirror"),
        ((6, 7), 0, "wrap"),
        ((6, 7), 1, "constant"),
        ((6, 7), 1, "reflect"),
        ((5, 6, 7), 1, "nearest"),
    ],
)
def test_warp_is_scipys_map_coordinates_at_x_plus_u(shape, order, boundary):
    moving, displacement = draw(2, *shape, 3), draw(2, *shape, len(shape), scale=3.0, seed=1)
    layer = Warp(order=order, boundary=boundary, fill_value=-2.5, **LAST)
    expected = pull(moving, displacement, order=order, mode=boundary, cval=-2.5)
    np.testing.assert_allclose(to_numpy(layer([moving, displacement])), expected, atol=2e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_labels_come_back_in_their_own_type_and_unblended(dtype):
    labels = np.random.default_rng(0).choice([0, 7, 90], size=(2, 6, 7, 1)).astype(dtype)
    displacement = draw(2, 6, 7, 2, scale=2.0)
    moved = to_numpy(Warp(order=0, **LAST)([labels, displacement]))
    assert moved.dtype == dtype
    np.testing.assert_array_equal(moved, pull(labels, displacement, order=0, mode="nearest"))


@pytest.mark.parametrize("boundary", ["constant", "nearest", "reflect", "mirror", "wrap"])
def test_zero_displacement_leaves_every_voxel_first_and_last_included(boundary):
    moving = draw(1, 5, 6, 2)
    moved = Warp(boundary=boundary, fill_value=9.0, **LAST)([moving, np.zeros((1, 5, 6, 2), "float32")])
    np.testing.assert_array_equal(to_numpy(moved), moving)


def test_smooth_gradient_reaches_the_operation():
    """One voxel off a lone bright one, the interpolant falls at 1 on one side; the central difference says 1/2."""
    moving = np.zeros((1, 5, 1), "float32")
    moving[0, 2, 0] = 1.0
    slopes = {}
    for gradient in ("exact", "smooth"):
        field = keras.layers.Dense(1, kernel_initializer="zeros", bias_initializer="zeros")
        ones = keras.Input((5, 1))
        moved = Warp(gradient=gradient, **LAST)([moving_input := keras.Input((5, 1)), field(ones)])
        model = keras.Model([ones, moving_input], moved[:, 3:4])
        model.compile(keras.optimizers.SGD(1.0), loss=lambda true, pred: keras.ops.sum(pred))
        model.train_on_batch([np.ones((1, 5, 1), "float32"), moving], np.zeros((1, 1, 1), "float32"))
        slopes[gradient] = -float(to_numpy(field.bias)[0])
    assert slopes["smooth"] == pytest.approx(-0.5, abs=1e-6)
    assert slopes["exact"] in (pytest.approx(0.0, abs=1e-6), pytest.approx(-1.0, abs=1e-6))


# Trap 4: coordinates cast to the data type of the image


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_coordinates_are_never_rounded_to_half_floats(policy, name):
    """From 128 on float16 counts in eighths of a voxel and bfloat16 in whole ones: 200.3 would be 200.25 or 200."""
    policy(name)
    moving = np.linspace(0.0, 1.0, 300, dtype="float32").reshape(1, 300, 1)
    displacement = np.full((1, 300, 1), 0.3, "float32")
    positions = np.minimum(np.arange(300) + 0.3, 299.0).reshape(1, 300, 1)
    expected = positions / 299
    moved = Warp(**LAST)([moving, displacement])
    assert keras.backend.standardize_dtype(moved.dtype) == "float32"
    np.testing.assert_allclose(to_numpy(moved), expected, atol=1e-6)
    values = Resample(**LAST)([moving, positions.astype("float32")])
    np.testing.assert_allclose(to_numpy(values), expected, atol=1e-6)
    composed = Compose(**LAST)([displacement * 1.01, displacement])
    np.testing.assert_allclose(to_numpy(composed), np.full((1, 300, 1), 0.603), atol=1e-6)
    matrix = np.array([[[1.0, 0.3]]], "float32")
    np.testing.assert_allclose(to_numpy(AffineWarp(**LAST)([moving, matrix])), expected, atol=1e-6)


def test_half_images_are_read_at_full_positions():
    moving = (np.arange(300) % 2).astype("float16").reshape(1, 300, 1)
    displacement = np.full((1, 300, 1), 0.3, "float32")
    moved = Warp(**LAST)([moving, displacement])
    assert keras.backend.standardize_dtype(moved.dtype) == "float16"
    expected = pull(moving, displacement, order=1, mode="nearest")
    np.testing.assert_allclose(to_numpy(moved).astype("float32"), expected, atol=1e-3)


def test_half_displacements_are_composed_in_float32():
    """Integrated in float16, eight squarings of a field of 100 voxels would drift by its rounding."""
    velocity = np.linspace(90.0, 110.0, 40, dtype="float16").reshape(1, 40, 1)
    displacement = Exponentiate(steps=8, **LAST)(velocity)
    assert keras.backend.standardize_dtype(displacement.dtype) == "float32"
    expected = to_numpy(Exponentiate(steps=8, **LAST)(velocity.astype("float32")))
    np.testing.assert_array_equal(to_numpy(displacement), expected)


# Resample, AffineWarp


@pytest.mark.parametrize(("shape", "field"), [((7,), (3, 4)), ((6, 7), (11,)), ((5, 6, 7), (3, 2))])
def test_resample_reads_any_field_of_absolute_coordinates(shape, field):
    image = draw(2, *shape, 2)
    coordinates = np.random.default_rng(1).uniform(-2, 8, (2, *field, len(shape))).astype("float32")
    values = to_numpy(Resample(order=1, boundary="mirror", **LAST)([image, coordinates]))
    expected = read(image, np.moveaxis(coordinates, -1, 1), order=1, mode="mirror")
    np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_affine_warp_is_scipys_affine_transform_about_the_centre(shape):
    ndim = len(shape)
    moving = draw(2, *shape, 1)
    matrix = (np.eye(ndim, ndim + 1) + draw(2, ndim, ndim + 1, scale=0.2, seed=1)).astype("float32")
    moved = to_numpy(AffineWarp(boundary="nearest", **LAST)([moving, matrix]))
    center = (np.array(shape) - 1) / 2
    for item, map_, result in zip(moving, matrix.astype("float64"), moved, strict=True):
        linear, offset = map_[:, :-1], map_[:, -1]
        expected = ndimage.affine_transform(
            item[..., 0].astype("float64"), linear, offset + center - linear @ center, order=1, mode="nearest"
        )
        np.testing.assert_allclose(result[..., 0], expected, atol=1e-5)


# Compose, Exponentiate, ResizeDisplacement


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_compose_is_v_plus_u_at_x_plus_v(shape):
    outer, inner = draw(2, *shape, len(shape), scale=2.0), draw(2, *shape, len(shape), scale=2.0, seed=1)
    expected = inner + pull(outer, inner, order=1, mode="nearest")
    np.testing.assert_allclose(to_numpy(Compose(**LAST)([outer, inner])), expected, atol=1e-5)


def test_constant_velocity_is_integrated_exactly_up_to_the_border():
    velocity = np.full((1, 8, 9, 2), 3.0, "float32")
    np.testing.assert_allclose(to_numpy(Exponentiate(**LAST)(velocity)), velocity, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_contraction_is_integrated_to_its_closed_form(steps):
    """`v = a (x - c)` with a < 0 stays inside and linear, so that each squaring is exact: (1 + a / 2^n)^(2^n) - 1."""
    x = np.arange(9.0) - 4
    velocity = (-0.5 * x).astype("float32").reshape(1, 9, 1)
    expected = ((1 - 0.5 / 2**steps) ** (2**steps) - 1) * x
    np.testing.assert_allclose(to_numpy(Exponentiate(steps=steps, **LAST)(velocity))[0, :, 0], expected, atol=2e-6)


def test_resizing_keeps_the_field_of_view_and_scales_each_axis_by_its_own_factor():
    """Trap 6: a zoom by 10 % about the centre is the same map on any grid, in voxels of that grid."""
    old, new = (20, 30), (40, 36)
    zoom = [0.1 * (make_indices(n) - (np.array(n).reshape(2, 1, 1) - 1) / 2) for n in (old, new)]
    fields = [np.moveaxis(z, 0, -1)[None].astype("float32") for z in zoom]
    resized = to_numpy(ResizeDisplacement(shape=new, **LAST)(fields[0]))
    inside = (slice(None), slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(resized[inside], fields[1][inside], atol=1e-5)


@pytest.mark.parametrize(
    ("scale", "size"), [(0.5, (3, 3, 4)), (2, (10, 12, 14)), ((1, 0.5, 3.0), (5, 3, 21)), (0.01, (1, 1, 1))]
)
def test_scale_follows_the_input(scale, size):
    layer = ResizeDisplacement(scale=scale, **LAST)
    resized = layer(draw(1, 5, 6, 7, 3))
    assert tuple(resized.shape) == (1, *size, 3) == layer.compute_output_shape((1, 5, 6, 7, 3))


# Data formats, shapes, models


def make_calls():
    """Each layer with inputs that have channels last, and which of those have a channel axis."""
    image, field = draw(2, 5, 6, 3), draw(2, 5, 6, 2, scale=2.0, seed=1)
    matrix = (np.eye(2, 3) + draw(2, 2, 3, scale=0.1)).astype("float32")
    return [
        pytest.param(Warp, {}, [image, field], [True, True], id="Warp"),
        pytest.param(Resample, {}, [image, draw(2, 4, 2, scale=3.0)], [True, True], id="Resample"),
        pytest.param(Compose, {}, [field, field[:, ::-1].copy()], [True, True], id="Compose"),
        pytest.param(Exponentiate, {"steps": 3}, [field], [True], id="Exponentiate"),
        pytest.param(ResizeDisplacement, {"shape": (7, 4)}, [field], [True], id="ResizeDisplacement-shape"),
        pytest.param(ResizeDisplacement, {"scale": (2.0, 0.5)}, [field], [True], id="ResizeDisplacement-scale"),
        pytest.param(AffineWarp, {"boundary": "constant"}, [image, matrix], [True, False], id="AffineWarp"),
    ]


each_layer = pytest.mark.parametrize(("kind", "options", "inputs", "movable"), make_calls())


def first(array):
    return np.moveaxis(array, -1, 1).copy()


def alone(items):
    return items[0] if len(items) == 1 else items


@each_layer
def test_channels_first_is_channels_last_transposed(kind, options, inputs, movable):
    expected = first(to_numpy(kind(**options, **LAST)(alone(inputs))))
    turned = [first(x) if moves else x for x, moves in zip(inputs, movable, strict=True)]
    layer = kind(**options, data_format="channels_first")
    np.testing.assert_allclose(to_numpy(layer(alone(turned))), expected, atol=1e-6)
    assert layer.compute_output_shape(alone([x.shape for x in turned])) == expected.shape


def test_data_format_follows_keras_when_the_layer_is_made():
    before = keras.config.image_data_format()
    try:
        keras.config.set_image_data_format("channels_first")
        layer = Warp()
    finally:
        keras.config.set_image_data_format(before)
    assert layer.data_format == "channels_first"
    assert Warp.from_config(layer.get_config()).data_format == "channels_first"


@each_layer
def test_sizes_may_be_unknown_when_the_model_is_built(kind, options, inputs, movable):
    layer = kind(**options, **LAST)
    symbols = [
        keras.Input((*([None] * (x.ndim - 2)), x.shape[-1]) if moves else x.shape[1:], dtype="float32")
        for x, moves in zip(inputs, movable, strict=True)
    ]
    model = keras.Model(symbols, layer(alone(symbols)))
    if "shape" not in options:
        assert model.output_shape[1] is None
    expected = to_numpy(kind.from_config(layer.get_config())(alone(inputs)))
    np.testing.assert_allclose(model.predict(alone(inputs), verbose=0), expected, atol=1e-6)
    assert model.output.dtype == expected.dtype


@each_layer
def test_no_layer_holds_weights_and_configurations_come_back(kind, options, inputs, movable):
    layer = kind(**options, name="some", **LAST)
    layer(alone(inputs))
    assert layer.weights == []
    config = layer.get_config()
    again = kind.from_config(config)
    assert again.get_config() == config
    assert again.name == "some"
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    np.testing.assert_array_equal(to_numpy(loaded(alone(inputs))), to_numpy(layer(alone(inputs))))


def test_output_type_is_known_in_advance():
    labels, field = keras.Input((5, 6, 1), dtype="int16"), keras.Input((5, 6, 2), dtype="float16")
    assert Warp(order=0, **LAST)([labels, field]).dtype == "int16"
    assert Compose(**LAST)([field, field]).dtype == "float32"


# Bad input

IMAGE, FIELD = np.zeros((2, 5, 6, 1), "float32"), np.zeros((2, 5, 6, 2), "float32")


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (Warp(**LAST), [IMAGE, np.zeros((2, 5, 6, 3), "float32")]),
        (Warp(**LAST), [IMAGE, np.zeros((2, 5, 7, 2), "float32")]),
        (Warp(**LAST), [IMAGE, FIELD[:1]]),
        (Warp(**LAST), [IMAGE, FIELD[0]]),
        (Warp(**LAST), [IMAGE[0, 0], FIELD]),
        (Warp(**LAST), IMAGE),
        (Warp(**LAST), [IMAGE, FIELD, FIELD]),
        (Warp(data_format="channels_first"), [IMAGE, FIELD]),
        (Warp(data_format="channels_first"), [IMAGE[0, 0, 0], FIELD]),
        (Resample(**LAST), [IMAGE, np.zeros((2, 9, 3), "float32")]),
        (Resample(**LAST), [IMAGE, np.zeros((2, 2), "float32")]),
        (Compose(**LAST), [FIELD, np.zeros((2, 5, 5, 2), "float32")]),
        (Compose(**LAST), [IMAGE, FIELD]),
        (Exponentiate(**LAST), IMAGE),
        (ResizeDisplacement(shape=(5,), **LAST), FIELD),
        (ResizeDisplacement(scale=(1, 2, 3), **LAST), FIELD),
        (AffineWarp(**LAST), [IMAGE, np.zeros((2, 3, 3), "float32")]),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_what_was_received(layer, inputs):
    with pytest.raises(ShapeError, match="Received: "):
        layer(inputs)
    with pytest.raises(ShapeError, match="Received: "):
        layer(keras.tree.map_structure(lambda x: keras.Input(batch_shape=x.shape), inputs))


def test_the_message_names_shapes_as_the_user_passed_them():
    moving, displacement = np.zeros((1, 3, 8, 9), "float32"), np.zeros((1, 3, 8, 9), "float32")
    with pytest.raises(ShapeError, match=r"moving.shape=\(1, 3, 8, 9\), displacement.shape=\(1, 3, 8, 9\)"):
        Warp(data_format="channels_first")([moving, displacement])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Warp, {"order": 2}),
        (Warp, {"boundary": "zeros"}),
        (Warp, {"gradient": "sobel"}),
        (Resample, {"order": 5}),
        (AffineWarp, {"boundary": "border"}),
        (Exponentiate, {"steps": -1}),
        (Exponentiate, {"steps": 1.5}),
        (ResizeDisplacement, {}),
        (ResizeDisplacement, {"shape": (5, 5), "scale": 2.0}),
        (ResizeDisplacement, {"scale": 0}),
        (ResizeDisplacement, {"shape": (5, 0)}),
        (Compose, {"data_format": "NCHW"}),
    ],
)
def test_options_that_cannot_be_are_refused_when_the_layer_is_made(kind, options):
    with pytest.raises(OptionError, match="Received: "):
        kind(**options)
