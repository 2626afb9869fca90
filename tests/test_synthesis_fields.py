"""Random fields, affine maps and shapes: as strong as asked, smooth, without folds, of any size."""

import keras
import numpy as np
import pytest
from scipy import interpolate, ndimage

from keramorph import ops
from keramorph.errors import OptionError, ShapeError
from keramorph.synthesis import RandomAffine, RandomDeformation, RandomShapes, RandomVelocity
from keramorph.synthesis.axis_products import multiply_axis, weigh_enlargement, weigh_noise
from keramorph.synthesis.random_affine import divide_affine, move_by_affine

pytestmark = pytest.mark.usefixtures("compile_quickly")

SIZES = [(5, 6, 7), (20, 13)]


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def blank(count, sizes):
    return np.zeros((count, *sizes, 1), dtype="float32")


@pytest.mark.parametrize("sizes", SIZES)
def test_velocity_is_as_strong_as_asked_at_every_voxel(sizes):
    velocity = to_numpy(RandomVelocity(strength=(2.0, 2.0), scales=(3.0, 5.5), seed=1)(blank(4000, sizes)))
    assert velocity.shape == (4000, *sizes, len(sizes))
    assert velocity.dtype == "float32"
    np.testing.assert_allclose(velocity.std(axis=0), 2.0, rtol=0.07)
    np.testing.assert_allclose(velocity.mean(axis=0), 0.0, atol=0.16)


def test_strength_is_drawn_between_its_limits():
    """The root mean square over a large field is its own strength: uniform between 1 and 3."""
    velocity = to_numpy(RandomVelocity(strength=(1.0, 3.0), scales=(2.0,), seed=2)(blank(300, (40, 30))))
    strengths = np.sqrt((velocity**2).mean(axis=(1, 2, 3)))
    assert strengths.min() == pytest.approx(1.0, abs=0.15)
    assert strengths.max() == pytest.approx(3.0, abs=0.3)
    assert strengths.mean() == pytest.approx(2.0, abs=0.15)
    assert strengths.std() == pytest.approx(2 / np.sqrt(12), abs=0.08)


def test_noise_is_alike_within_its_scale_and_independent_beyond_four():
    field = to_numpy(RandomVelocity(strength=(1.0, 1.0), scales=(4.0,), seed=3)(blank(4000, (20, 3))))[..., 1, 0]
    correlation = np.corrcoef(field.T)
    assert correlation[2, 3] > 0.9
    assert 0.2 < correlation[4, 8] < 0.7
    assert abs(correlation[1, 18]) < 0.08


@pytest.mark.parametrize(("size", "points", "scale"), [(9, 9, 3.0), (20, 10, 4.5), (7, 7, 30.0)])
def test_noise_is_weighed_by_scipys_splines(size, points, scale):
    spline = interpolate.BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
    weights = weigh_noise(size, points, scale)
    places = ((np.arange(points) + 0.5) * size / points - 0.5) / scale + 1
    expected = np.nan_to_num(spline(places[:, None] - np.arange(weights.shape[1])))
    assert spline(0.0) == pytest.approx(2 / 3)
    np.testing.assert_allclose(weights, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(("size", "points"), [(9, 3), (7, 7), (20, 6), (5, 1)])
def test_enlargement_is_scipys(size, points):
    values = np.random.default_rng(0).standard_normal(points)
    places = (np.arange(size) + 0.5) * points / size - 0.5
    expected = ndimage.map_coordinates(values, [places], order=3, mode="nearest", prefilter=False)
    np.testing.assert_allclose(weigh_enlargement(size, points) @ values, expected, atol=1e-6)


@pytest.mark.parametrize(("axis", "trailing"), [(1, ()), (2, ()), (3, ()), (3, (1,)), (2, (3,)), (3, (3,))])
def test_products_along_an_axis_are_numpys(axis, trailing):
    generator = np.random.default_rng(0)
    array = generator.standard_normal((2, 4, 5, 6, *trailing)).astype("float32")
    matrices = generator.standard_normal((2, 3, array.shape[axis])).astype("float32")
    shared = np.moveaxis(np.tensordot(array, matrices[0], axes=(axis, 1)), -1, axis)
    np.testing.assert_allclose(to_numpy(multiply_axis(array, matrices[0], axis)), shared, atol=1e-5)
    own = np.moveaxis(np.stack([np.tensordot(array[i], matrices[i], axes=(axis - 1, 1)) for i in (0, 1)]), -1, axis)
    each = multiply_axis(array, keras.ops.convert_to_tensor(matrices), axis)
    np.testing.assert_allclose(to_numpy(each), own, atol=1e-5)


def test_deformation_does_not_fold_and_is_about_as_strong_as_asked():
    sizes = (17, 16, 19)
    displacement = RandomDeformation(strength=(2.0, 2.0), scales=(8.0, 16.0), seed=4)(blank(40, sizes))
    assert tuple(displacement.shape) == (40, *sizes, len(sizes))
    assert to_numpy(ops.jacobian_determinant(displacement)).min() > 0
    assert to_numpy(displacement).std() == pytest.approx(2.0, rel=0.15)


def test_constant_velocity_keeps_its_voxels_on_odd_sizes():
    """Nodes so far apart that a field is nearly constant: integrating it on the coarse grid must not change it."""
    layer, twin = (kind(strength=(3.0, 3.0), scales=(1e4,), seed=5) for kind in (RandomDeformation, RandomVelocity))
    np.testing.assert_allclose(to_numpy(layer(blank(4, (5, 6, 7)))), to_numpy(twin(blank(4, (5, 6, 7)))), atol=0.02)


def test_no_strength_leaves_everything_in_place():
    for layer in (RandomVelocity(strength=0.0), RandomDeformation(strength=0.0)):
        assert not to_numpy(layer(blank(2, (5, 6, 7)))).any()


@pytest.mark.parametrize("sizes", SIZES)
def test_affine_is_a_rotation_of_scaled_axes_within_its_limits(sizes):
    ndim = len(sizes)
    layer = RandomAffine(translation=4.0, rotation=0.3, scale=1.5, shear=0.0, seed=6)
    matrix = to_numpy(layer(blank(500, sizes)))
    assert matrix.shape == (500, ndim, ndim + 1)
    assert matrix.dtype == "float32"
    gram = np.einsum("bki,bkj->bij", matrix[..., :ndim], matrix[..., :ndim])
    scales = np.sqrt(np.einsum("bii->bi", gram))
    np.testing.assert_allclose(gram, np.einsum("bi,ij->bij", scales**2, np.eye(ndim)), atol=1e-5)
    assert 1 / 1.5 <= scales.min() < 0.7
    assert 1.45 < scales.max() <= 1.5 + 1e-5
    assert 3.9 < np.abs(matrix[..., ndim]).max() <= 4.0
    assert np.abs(matrix[..., ndim].mean()) < 0.3
    if ndim == 2:
        angles = np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])
        assert 0.29 < np.abs(angles).max() <= 0.3 + 1e-5
        assert np.abs(angles).mean() == pytest.approx(0.15, abs=0.02)


def test_affine_after_a_displacement_is_a_naive_sum():
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((2, 3, 4)).astype("float32")
    displacement = generator.standard_normal((2, 5, 6, 7, 3)).astype("float32")
    voxels = np.stack(np.meshgrid(*map(np.arange, (5, 6, 7)), indexing="ij"), axis=-1)
    centre = (np.array([5, 6, 7]) - 1) / 2
    expected = [
        np.einsum("ij,xyzj->xyzi", m[:, :3], voxels + u - centre) + m[:, 3] + centre - voxels
        for m, u in zip(matrix, displacement, strict=True)
    ]
    moved = move_by_affine(*map(keras.ops.convert_to_tensor, (matrix, displacement)))
    np.testing.assert_allclose(to_numpy(moved), expected, atol=1e-4)


def test_dividing_affine_maps_is_numpys_inverse():
    layer = RandomAffine(seed=7, rotation=1.0)
    first, second = layer(blank(3, (5, 6, 7))), layer(blank(3, (5, 6, 7)))
    square = [np.concatenate([to_numpy(m), np.tile([[[0, 0, 0, 1.0]]], (3, 1, 1))], axis=1) for m in (first, second)]
    expected = np.linalg.inv(square[1]) @ square[0]
    np.testing.assert_allclose(to_numpy(divide_affine(first, second)), expected[:, :3], atol=1e-5)


def test_shapes_are_label_maps_that_differ():
    sizes = (5, 6, 7)
    labels = to_numpy(RandomShapes(num_labels=3, scales=(4.0,), seed=8)(blank(3, sizes)))
    assert labels.shape == (3, *sizes, 1)
    assert labels.dtype == "int32"
    assert labels.min() >= 0
    assert labels.max() <= 2
    assert not np.array_equal(labels[0], labels[1])


def test_shapes_are_blobs_of_all_labels_alike():
    labels = to_numpy(RandomShapes(num_labels=4, scales=(8.0, 12.0), strength=3.0, seed=9)(blank(200, (24, 20))))
    frequency = np.bincount(labels.ravel(), minlength=4) / labels.size
    np.testing.assert_allclose(frequency, 0.25, atol=0.04)
    borders = (np.diff(labels, axis=1) != 0).mean()
    assert 0.02 < borders < 0.15
    assert [len(np.unique(one)) for one in labels].count(1) < 10


@pytest.mark.parametrize("sizes", [(40, 48), (16, 20, 18)])
def test_shapes_on_a_ground_are_the_same_ones_where_they_are_left(sizes):
    free, laid = (
        to_numpy(RandomShapes(num_labels=5, scales=(6.0,), ground=ground, seed=3)(blank(40, sizes)))[..., 0]
        for ground in (0.0, 0.5)
    )
    grounded = [n for n in range(40) if not np.array_equal(free[n], laid[n])]
    assert 10 < len(grounded) < 30
    corners = [laid[n][np.ix_(*[(0, -1)] * len(sizes))] for n in grounded]
    assert np.mean(np.equal(corners, 0)) > 0.95
    for n in grounded:
        assert set(np.unique(laid[n][free[n] != laid[n]])) == {0}
        assert 0.05 < (laid[n] > 0).mean() < 0.9


def test_what_cannot_be_drawn_is_refused():
    for make in (RandomVelocity, RandomDeformation, RandomShapes):
        with pytest.raises(OptionError, match=r"scales.*Received: "):
            make(scales=(0.5,))
        with pytest.raises(OptionError, match=r"strength.*Received: "):
            make(strength=(3.0, 2.0))
        with pytest.raises(ShapeError, match=r"Received: "):
            make()(np.zeros((5, 6), "float32"))
        with pytest.raises(ShapeError, match=r"Received: "):
            make()(keras.Input((None, 6, 1)))
    with pytest.raises(OptionError, match=r"num_labels.*Received: "):
        RandomShapes(num_labels=0)
    with pytest.raises(OptionError, match=r"ground.*Received: "):
        RandomShapes(ground=1.5)
    with pytest.raises(OptionError, match=r"scale.*Received: "):
        RandomAffine(scale=0.9)
    with pytest.raises(ShapeError, match=r"Received: "):
        RandomAffine()(blank(1, (5,)))
    with pytest.raises(OptionError, match=r"seed.*Received: "):
        RandomVelocity(seed=-1)
