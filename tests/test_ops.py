"""Operations against NumPy, SciPy and SimpleITK, and in the places where frameworks differ: jit, batches, sizes."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from differentiate import double_precision
from keramorph import backend, ops
from keramorph.errors import ArrayTypeError, OptionError, ShapeError


def random_pair(shape=(9, 10, 11), seed=0, channels=2):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(2, *shape, channels)).astype("float32")
    field = ndimage.gaussian_filter(rng.normal(size=(2, *shape, len(shape))), (0, *(1.5,) * len(shape), 0))
    return image, (8 * field).astype("float32")


IMAGE, FIELD = random_pair()
POINTS = np.random.default_rng(1).uniform(0, 9, size=(2, 12, 3)).astype("float32")
OPERATIONS = {
    "warp": (ops.warp, [IMAGE, FIELD], {}),
    "warp, cubic": (ops.warp, [IMAGE[:, :, :, 0], FIELD[:, :, :, 0, :2]], {"order": 3}),
    "sample": (ops.sample, [IMAGE, POINTS], {"boundary": "reflect"}),
    "splat": (ops.splat, [IMAGE, 3 * FIELD], {"shape": (5, 6, 7)}),
    "warp_points": (ops.warp_points, [POINTS, FIELD], {}),
    "compose": (ops.compose, [FIELD, FIELD[:, ::-1]], {}),
    "exponentiate": (ops.exponentiate, [FIELD], {"steps": 4}),
    "invert": (lambda field: ops.invert(field, iterations=8)[0], [FIELD / 4], {}),
    "spatial_gradient": (ops.spatial_gradient, [IMAGE], {"spacing": (1.0, 2.0, 0.5)}),
    "jacobian": (ops.jacobian, [FIELD], {}),
    "jacobian_determinant": (ops.jacobian_determinant, [FIELD], {}),
    "gaussian": (ops.gaussian, [FIELD], {"sigma": (0.0, 1.0, 2.0)}),
    "resize_image": (ops.resize_image, [IMAGE], {"shape": (6, 15, 11)}),
    "resize_displacement": (ops.resize_displacement, [FIELD], {"shape": (6, 15, 11)}),
    "affine_to_displacement": (ops.affine_to_displacement, [POINTS[:, :2]], {"shape": (4, 5)}),
    "affine_from_parameters": (ops.affine_from_parameters, [POINTS[:, :, 0] / 9], {}),
    "affine_to_parameters": (ops.affine_to_parameters, [np.eye(3, 4, dtype="float32") + POINTS[:, :3, :1] / 30], {}),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_engines_agree(make_array, name):
    operation, arrays, options = OPERATIONS[name]
    arrays = [np.ascontiguousarray(array) for array in arrays]
    expected = operation(*arrays, **options)
    found = np.asarray(operation(*map(make_array, arrays), **options))
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.isfinite(expected).all()
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def test_spatial_gradient_is_numpys(engine_name, make_array):
    array = np.random.default_rng(2).normal(size=(2, 5, 6, 7, 3))
    with double_precision(engine_name):
        found = np.asarray(ops.spatial_gradient(make_array(array), spacing=(3.0, 2.0, 0.5)))
    for axis, step in enumerate((3.0, 2.0, 0.5)):
        assert np.abs(found[..., axis] - np.gradient(array, step, axis=axis + 1)).max() < 1e-12


def test_folds_are_those_that_simpleitk_counts(engine_name, make_array):
    field = random_pair(seed=3)[1].astype("float64") * 1.5
    with double_precision(engine_name):
        found = np.asarray(ops.jacobian_determinant(make_array(field)))[0]
    image = sitk.GetImageFromArray(field[0][..., ::-1].copy(), isVector=True)
    expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
    inner = (slice(1, -1),) * 3
    assert (expected[inner] <= 0).any()
    assert np.abs(found[inner] - expected[inner]).max() < 1e-9


@pytest.mark.parametrize("shape", [(4, 12, 7), (16, 3, 7), (8, 6, 1)], ids=str)
def test_resizing_keeps_the_field_of_view_as_simpleitk_does(engine_name, make_array, shape):
    old = (8, 6, 7)
    array = np.random.default_rng(4).normal(size=(1, *old, 1))
    image = sitk.GetImageFromArray(array[0, ..., 0])
    step = np.array(old) / np.array(shape)
    reference = sitk.Image([int(n) for n in shape[::-1]], sitk.sitkFloat64)
    reference.SetSpacing(step[::-1].tolist())
    reference.SetOrigin(((step[::-1] - 1) / 2).tolist())
    expected = sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform(), sitk.sitkLinear, -99.0))
    inside = expected != -99.0
    with double_precision(engine_name):
        found = np.asarray(ops.resize_image(make_array(array), shape=shape))[0, ..., 0]
    assert inside.mean() > 0.4
    assert np.abs(found - expected)[inside].max() < 1e-9


def test_a_resized_displacement_moves_the_same_physical_distance(make_array):
    # Trap 6: linspace(0, D - 1) and the nominal factor are wrong by 1-3 %.
    own = np.moveaxis(np.indices((10, 14)), 0, -1)[None].astype("float32")
    growing = 0.1 * (own + 0.5)  # ten per cent about the outer face of the first voxel
    found = np.asarray(ops.resize_displacement(make_array(growing), shape=(25, 7)))
    centres = np.stack(np.meshgrid(np.arange(25) + 0.5, np.arange(7) + 0.5, indexing="ij"), axis=-1)
    inner = (slice(2, -2), slice(1, -1))
    assert np.abs(found[0][inner] - 0.1 * centres[inner]).max() < 1e-5


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "bool"])
def test_labels_keep_their_values_and_their_type(make_array, dtype):
    # Trap 10: labels blended by linear interpolation, integer types lost.
    labels = (
        np.random.default_rng(5).choice([0, 1] if dtype == "bool" else [0, 7, 100], size=(1, 8, 9, 1)).astype(dtype)
    )
    displacement = random_pair((8, 9), seed=6)[1][:1]
    moved = np.asarray(ops.warp(make_array(labels), make_array(displacement), order=0))
    assert moved.dtype == labels.dtype
    own = np.moveaxis(np.indices((8, 9)), 0, -1) + displacement[0]
    nearest = np.clip(np.floor(own + 0.5).astype(int), 0, (7, 8))
    np.testing.assert_array_equal(moved[0, ..., 0], labels[0, nearest[..., 0], nearest[..., 1], 0])


def test_integer_images_are_rounded_and_kept_in_range(make_array):
    image = np.array([0, 255, 255, 0, 10], dtype="uint8")[None, :, None]
    moved = ops.warp(make_array(image), make_array(np.full((1, 5, 1), 0.25, dtype="float32")))
    assert np.asarray(moved).ravel().tolist() == [64, 255, 191, 2, 10]
    cubic = np.asarray(ops.warp(make_array(image), make_array(np.full((1, 5, 1), 0.5, dtype="float32")), order=3))
    assert cubic.dtype == np.uint8
    assert cubic.ravel()[1] == 255  # the spline overshoots; wrapping round would give a dark voxel


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_coordinates_are_never_below_single_precision(engine_name, make_array, dtype):
    # Trap 4: in float16 the step between 128 and 256 is 0.125 voxel, in bfloat16 one voxel.
    tensor = make_array(np.arange(256, dtype="float32")[None, :, None])
    xp = backend.of(tensor).xp
    if engine_name == "numpy" and dtype == "bfloat16":
        pytest.skip("NumPy has no bfloat16 of its own")
    image = xp.cast(tensor / 256, dtype)
    shift = make_array(np.full((1, 256, 1), 0.3, dtype="float32"))
    moved = ops.warp(image, shift)
    assert xp.dtype(moved) == dtype
    moved = np.asarray(xp.cast(moved, "float32"))[0, :-1, 0]
    # Half of the last bit of the image's own type near one, and nothing from the coordinates.
    bound = 2.0**-11 if dtype == "float16" else 2.0**-8
    assert np.abs(moved - (np.arange(255) + 0.3) / 256).max() <= bound


def test_empty_batches_and_single_voxels_pass_through(make_array):
    nothing = ops.warp(make_array(np.zeros((0, 4, 5, 1), "float32")), make_array(np.zeros((0, 4, 5, 2), "float32")))
    assert tuple(nothing.shape) == (0, 4, 5, 1)
    single = np.full((2, 1, 1, 1, 2), 3.5, dtype="float32")
    far = np.full((2, 1, 1, 1, 3), 9.0, dtype="float32")
    for order in (0, 1, 3):
        found = np.asarray(ops.warp(make_array(single), make_array(far), order=order))
        assert np.abs(found - 3.5).max() < 1e-6


def test_coordinates_that_are_no_numbers_or_far_away_do_no_harm(make_array):
    image = np.arange(1.0, 6.0, dtype="float32")[None, :, None]
    far = np.array([-np.inf, np.inf, -1e30, 1e30, np.nan], dtype="float32")[None, :, None]
    found = np.asarray(ops.sample(make_array(image), make_array(far))).ravel()
    assert found[:4].tolist() == [1.0, 5.0, 1.0, 5.0]
    assert np.isnan(found[4])
    found = ops.sample(make_array(image), make_array(far), boundary="constant", fill_value=9.0)
    assert np.asarray(found).ravel().tolist() == [9.0] * 5


def test_numpy_arrays_go_along_with_the_frameworks_own(engine_name, make_array):
    image, field = random_pair()
    mixed = ops.warp(make_array(image), field)
    assert backend.of(mixed).name == engine_name
    np.testing.assert_allclose(np.asarray(mixed), ops.warp(image, field), atol=1e-5)


def test_bad_arguments_say_what_was_expected(make_array):
    field = make_array(np.zeros((1, 4, 5, 2), dtype="float32"))
    with pytest.raises(OptionError, match="steps=-1"):
        ops.exponentiate(field, steps=-1)
    with pytest.raises(OptionError, match="iterations=0"):
        ops.invert(field, iterations=0)
    with pytest.raises(ShapeError, match=r"\(batch, count, ndim\)"):
        ops.warp_points(field, field)
    with pytest.raises(ShapeError, match="2 sizes"):
        ops.resize_image(field, shape=(3, 3, 3))
    with pytest.raises(ShapeError, match=r"\(batch, 3, 4\)"):
        ops.affine_to_displacement(make_array(np.zeros((1, 2, 3))), shape=(4, 4, 4))
    with pytest.raises(ShapeError, match="6"):
        ops.affine_from_parameters(make_array(np.zeros((1, 7))))
    with pytest.raises(ArrayTypeError, match="real numbers"):
        ops.warp(np.zeros((1, 3, 1), dtype=complex), np.zeros((1, 3, 1)))
    with pytest.raises(OptionError, match="engine='cupy'"):
        backend.use("cupy")
