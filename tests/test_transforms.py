"""Physical-space transforms: points, inverses, resampling, and fields in voxels and millimetres."""

import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keramorph.errors import InputError, OptionError, ShapeError
from keramorph.io import to_simpleitk
from keramorph.solver.unfold import unfold
from keramorph.space import Grid, Image
from keramorph.transforms import (
    AffineTransform,
    CompositeTransform,
    DisplacementTransform,
    from_voxel_displacement,
    to_voxel_displacement,
)
from keramorph.transforms.blocks import cut_grid
from oblique import make_grid, voxels

SHIFT = AffineTransform([[1, 0, 1.5], [0, 1, -2], [0, 0, 1]])


def smooth_field(grid: Grid, *, size: float, width: float = 3.0, seed: int = 0) -> np.ndarray:
    """Displacement in mm with a largest component of `size`."""
    random = np.random.default_rng(seed)
    parts = [scipy.ndimage.gaussian_filter(random.normal(size=grid.shape), width) for _ in range(grid.ndim)]
    field = np.stack(parts, axis=-1)
    return field * (size / np.abs(field).max())


def naive_linear(field: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Linear interpolation with the edge extended, corner by corner."""
    index = np.clip(index, 0, np.array(field.shape[:-1]) - 1)
    low = np.minimum(index.astype(int), np.maximum(np.array(field.shape[:-1]) - 2, 0))
    total = np.zeros(field.shape[-1])
    for corner in np.ndindex(*[2] * len(index)):
        weight = np.prod(np.where(corner, index - low, 1 - (index - low)))
        place = np.minimum(low + corner, np.array(field.shape[:-1]) - 1)
        total += weight * field[tuple(place)]
    return total


@given(st.integers(2, 3), st.data())
def test_affine_moves_points_by_its_matrix(ndim, data):
    entries = st.floats(-3, 3)
    matrix = np.eye(ndim + 1)
    matrix[:ndim] = data.draw(hnp.arrays(np.float64, (ndim, ndim + 1), elements=entries))
    points = data.draw(hnp.arrays(np.float64, (2, 3, ndim), elements=st.floats(-100, 100)))
    moved = AffineTransform(matrix).apply_points(points)
    for place in np.ndindex(2, 3):
        expected = (matrix @ np.append(points[place], 1.0))[:ndim]
        np.testing.assert_allclose(moved[place], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("ndim", [2, 3])
def test_affine_inverse_takes_points_back(ndim):
    matrix = np.eye(ndim + 1)
    matrix[:ndim] += np.random.default_rng(0).uniform(-0.3, 0.3, (ndim, ndim + 1))
    transform = AffineTransform(matrix)
    points = np.random.default_rng(1).uniform(-90, 90, (20, ndim))
    np.testing.assert_allclose(transform.inverse().apply_points(transform.apply_points(points)), points, atol=1e-10)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_field_moves_points_by_linear_interpolation_and_extends_its_edge(ndim):
    grid = make_grid(ndim, seed=3)
    field = np.random.default_rng(0).normal(size=(*grid.shape, ndim))
    index = np.random.default_rng(1).uniform(-4, 10, (60, ndim))
    points = grid.to_physical(index)
    expected = points + [naive_linear(field, i) for i in index]
    np.testing.assert_allclose(DisplacementTransform(field, grid).apply_points(points), expected, rtol=0, atol=1e-9)


def test_a_single_point_and_any_leading_axes_are_points():
    grid = make_grid(3, seed=1)
    transform = CompositeTransform([DisplacementTransform(np.ones((5, 6, 7, 3)), grid), AffineTransform(np.eye(4))])
    assert transform.apply_points([1.0, 2.0, 3.0]).tolist() == [2.0, 3.0, 4.0]
    assert transform.apply_points(np.zeros((2, 0, 3))).shape == (2, 0, 3)
    with pytest.raises(ShapeError, match="need 3 coordinates"):
        transform.apply_points([[1.0, 2.0]])


def test_a_composite_applies_its_first_step_first():
    double = AffineTransform(np.diag([2, 2, 1]))
    assert CompositeTransform([SHIFT, double]).apply_points([1, 1]).tolist() == [5.0, -2.0]
    assert CompositeTransform([double, SHIFT]).apply_points([1, 1]).tolist() == [3.5, 0.0]


@pytest.mark.parametrize("ndim", [2, 3])
def test_displacement_on_a_grid_is_where_its_voxels_go(ndim):
    grid = make_grid(ndim, seed=4)
    field = DisplacementTransform(np.random.default_rng(0).normal(size=(*grid.shape, ndim)), grid)
    affine = AffineTransform(np.eye(ndim + 1) * ([1.1] * ndim + [1.0]))
    other = make_grid(ndim, seed=5, shape=(4, 3, 8)[:ndim])
    for transform in (field, affine, CompositeTransform([field, affine]), CompositeTransform([affine, field])):
        for place in (grid, other):
            points = place.to_physical(voxels(place.shape))
            expected = transform.apply_points(points) - points
            ours = transform.displacement_on(place).reshape(-1, ndim)
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(field.displacement_on(grid), field.displacement, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_inverse_of_a_field_takes_points_back_within_its_residual(ndim, dtype):
    grid = make_grid(ndim, seed=6, shape=(22, 25, 20)[:ndim])
    transform = DisplacementTransform(smooth_field(grid, size=2.5).astype(dtype), grid)
    inverse, residual = transform.inverse_with_residual()
    assert inverse.displacement.dtype == dtype
    assert residual.shape == grid.shape
    assert residual.max() <= 1.01e-3 * grid.spacing.min()
    points = grid.to_physical(voxels(grid.shape))
    there_and_back = transform.apply_points(inverse.apply_points(points))
    error = np.linalg.norm(there_and_back - points, axis=-1)
    np.testing.assert_allclose(error, residual.ravel(), rtol=0, atol=2e-5)


def test_the_inverse_copes_with_stretches_that_a_plain_fixed_point_cannot():
    # u has slope +1.6 in places: v <- -u(y + v) alone runs away there, though x + u(x) is invertible.
    x = np.arange(60.0)
    field = np.zeros((60, 3, 2))
    field[..., 1] = 0.0
    field[..., 0] = 1.6 * 6 * np.tanh((x - 30) / 6)[:, None]
    grid = Grid((60, 3), np.eye(3))
    _, residual = DisplacementTransform(field, grid).inverse_with_residual()
    assert residual.max() <= 1.01e-3


def test_the_inverse_is_found_wherever_a_field_nearly_folds():
    # Sizes at which the smallest Jacobian determinant of each field is 0.12.
    for seed, size in ((0, 6.31), (1, 9.09), (2, 10.59)):
        grid = Grid((60, 64), np.eye(3))
        _, residual = DisplacementTransform(
            smooth_field(grid, size=size, width=6.0, seed=seed), grid
        ).inverse_with_residual()
        assert residual.max() <= 1.01e-3


def test_few_points_of_a_field_in_turmoil_are_left_without_an_inverse():
    # Linear between voxels, it folds here and there though no voxel's own determinant tells. Steps that never grow
    # shorter leave twenty times as many points behind.
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((1, 160, 160, 2)), (0, 5, 5, 0))
    grid = Grid((160, 160), np.eye(3))
    field = unfold((noise * (5 / noise.std())).astype(np.float32), grid, np.eye(3))[0]
    _, residual = DisplacementTransform(from_voxel_displacement(field, grid), grid).inverse_with_residual()
    assert (residual > 0.01).mean() < 2e-3


def test_the_inverse_of_a_field_that_leaves_the_grid_is_right():
    grid = make_grid(3, seed=7)
    shift = np.array([40.0, -30.0, 25.0])
    transform = DisplacementTransform(np.broadcast_to(shift, (5, 6, 7, 3)), grid)
    inverse, residual = transform.inverse_with_residual()
    np.testing.assert_allclose(inverse.displacement, np.broadcast_to(-shift, (5, 6, 7, 3)), rtol=0, atol=1e-4)
    assert residual.max() < 1e-4


def test_the_inverse_is_given_on_another_grid_if_asked():
    grid, other = make_grid(2, seed=8, shape=(30, 32)), make_grid(2, seed=9, shape=(9, 8))
    other = Grid(other.shape, other.affine + np.pad((grid.center - other.center)[:, None], ((0, 1), (2, 0))))
    transform = DisplacementTransform(smooth_field(grid, size=2.0), grid)
    inverse, residual = transform.inverse_with_residual(grid=other)
    assert inverse.grid is other
    points = other.to_physical(voxels(other.shape))
    moved = transform.apply_points(points + inverse.displacement.reshape(-1, 2))
    assert np.abs(moved - points).max() <= 1.01e-3 * grid.spacing.min()
    assert residual.shape == (9, 8)


def test_where_a_field_folds_the_residual_is_still_the_truth():
    random = np.random.default_rng(0)
    grid = Grid.from_spacing((20, 21))
    transform = DisplacementTransform(
        scipy.ndimage.gaussian_filter(random.normal(size=(20, 21, 2)), (1, 1, 0)) * 9, grid
    )
    inverse, residual = transform.inverse_with_residual(iterations=20)
    points = grid.to_physical(voxels(grid.shape))
    error = np.linalg.norm(transform.apply_points(inverse.apply_points(points)) - points, axis=-1)
    np.testing.assert_allclose(error, residual.ravel(), rtol=0, atol=1e-9)
    assert residual.max() > 0.1
    start = DisplacementTransform(-transform.displacement, grid).apply_points(points)
    error_at_start = np.linalg.norm(transform.apply_points(start) - points, axis=-1)
    assert (residual.ravel() <= error_at_start + 1e-9).all(), "a step led further away"


def test_the_inverse_of_a_composite_takes_points_back():
    grid = make_grid(3, seed=10, shape=(20, 21, 22))
    affine = np.eye(4)
    affine[:3] += np.random.default_rng(0).uniform(-0.2, 0.2, (3, 4))
    transform = CompositeTransform([DisplacementTransform(smooth_field(grid, size=2.0), grid), AffineTransform(affine)])
    inner = grid.to_physical(np.random.default_rng(1).uniform(5, 14, (50, 3)))
    back = transform.inverse().apply_points(transform.apply_points(inner))
    # The inverse field is linear between voxels, which the exact inverse is not.
    assert np.abs(back - inner).max() < 0.1 * grid.spacing.min()


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("order", [0, 1])
def test_resampling_is_what_simpleitk_does(ndim, dtype, order):
    moving_grid = make_grid(ndim, seed=20, shape=(9, 8, 7)[:ndim])
    fixed_grid = make_grid(ndim, seed=21)
    matrix = np.eye(ndim + 1)
    matrix[:ndim] += np.random.default_rng(2).uniform(-0.1, 0.1, (ndim, ndim + 1))
    matrix[:ndim, ndim] += moving_grid.center - matrix[:ndim, :ndim] @ fixed_grid.center
    moving = Image(np.random.default_rng(3).integers(0, 200, (*moving_grid.shape, 1)).astype(dtype), moving_grid)
    ours = AffineTransform(matrix).resample(moving, fixed_grid, order=order, fill_value=3)
    assert ours.array.dtype == dtype
    reference = sitk.AffineTransform(matrix[:ndim, :ndim].ravel().tolist(), matrix[:ndim, ndim].tolist())
    like = to_simpleitk(Image(np.zeros((*fixed_grid.shape, 1)), fixed_grid))
    method = [sitk.sitkNearestNeighbor, sitk.sitkLinear][order]
    # SimpleITK cuts what lies between two integers off, we round: so it works on floats here.
    content = sitk.Cast(to_simpleitk(moving), sitk.sitkFloat64)
    expected = sitk.GetArrayFromImage(sitk.Resample(content, like, reference, method, 3))
    if not dtype.startswith("f"):
        assert np.abs(expected % 1 - 0.5).min() > 1e-6
        expected = np.rint(expected)
    np.testing.assert_allclose(ours.array[..., 0], expected, rtol=0, atol=1e-4)
    assert 0.2 < np.mean(expected != 3) <= 1


def test_half_a_voxel_beyond_the_border_still_belongs_to_the_image():
    image = Image(np.arange(1.0, 5.0).reshape(1, 4, 1), Grid.from_spacing((1, 4)))
    grid = Grid((1, 6), [[0, 0.3, -0.6], [1, 0, 0.4], [0, 0, 1]])
    moved = AffineTransform(np.eye(3)).resample(image, grid, fill_value=-1)
    np.testing.assert_allclose(moved.array.ravel(), [-1, 1, 1, 1.3, 1.6, 1.9], rtol=0, atol=1e-12)
    shifted = AffineTransform([[1, 0, 0], [0, 1, 0.2], [0, 0, 1]]).resample(image, grid, fill_value=-1)
    assert (shifted.array == -1).all(), "0.6 of a voxel off along an axis of size 1"


@pytest.mark.parametrize("boundary", ["nearest", "reflect", "mirror", "wrap"])
@pytest.mark.parametrize("order", [1, 3])
def test_other_boundaries_are_those_of_scipy(boundary, order):
    image = Image(np.random.default_rng(0).normal(size=(8, 9, 2)), Grid.from_spacing((8, 9)))
    moved = SHIFT.resample(image, image.grid, order=order, boundary=boundary)
    index = np.indices((8, 9)) + np.array([-2.0, 1.5])[:, None, None]
    for channel in range(2):
        expected = scipy.ndimage.map_coordinates(image.array[..., channel], index, order=order, mode=boundary)
        np.testing.assert_allclose(moved.array[..., channel], expected, rtol=0, atol=1e-6)


def test_labels_and_masks_keep_their_values_and_their_type():
    labels = np.random.default_rng(0).choice([0, 7, 2**31 - 1], (6, 7, 8, 1)).astype("int64")
    grid = make_grid(3, seed=1, shape=(6, 7, 8))
    moved = AffineTransform(np.eye(4)).resample(Image(labels, grid), grid.resize((9, 9, 9)), order=0)
    assert moved.array.dtype == np.int64
    assert set(np.unique(moved.array)) == {0, 7, 2**31 - 1}
    mask = AffineTransform(np.eye(4)).resample(Image(labels > 0, grid), grid, order=0)
    assert mask.array.dtype == bool
    np.testing.assert_array_equal(mask.array, labels > 0)


@pytest.mark.parametrize("boundary", ["constant", "nearest", "mirror"])
def test_large_grids_are_resampled_block_by_block_like_small_ones(boundary, monkeypatch):
    from keramorph.transforms import transform as module

    grid = make_grid(3, seed=2, shape=(13, 6, 7))
    image = Image(np.random.default_rng(0).normal(size=(13, 6, 7, 1)), grid)
    field = DisplacementTransform(np.random.default_rng(1).normal(size=(13, 6, 7, 3)), grid)
    whole, displacement = field.resample(image, grid, boundary=boundary).array, field.displacement_on(grid)
    monkeypatch.setattr(module, "cut_grid", lambda shape: cut_grid(shape, 40))
    np.testing.assert_allclose(field.resample(image, grid, boundary=boundary).array, whole, rtol=0, atol=1e-12)
    np.testing.assert_allclose(field.displacement_on(grid), displacement, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1,), (70,), (5, 300), (300, 1, 7), (9, 40, 33)])
def test_blocks_are_compact_and_hold_each_voxel_once(shape):
    count, blocks = np.zeros(shape, int), list(cut_grid(shape, 64))
    for block in blocks:
        count[block] += 1
        assert count[block].size <= 96
    assert (count == 1).all()
    assert len(blocks) <= 3 * max(1, count.size / 64)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_field_between_matrices_on_any_grid_is_read_as_simpleitk_reads_it(ndim, turned):
    grid = make_grid(ndim, seed=4, shape=(9, 8, 7)[:ndim])
    field = smooth_field(grid, size=3.0)
    fine = grid.resize((18, 12, 20)[:ndim])
    if turned:
        fine = Grid(fine.shape[::-1], fine.affine[:, [*range(ndim - 1, -1, -1), ndim]])
    inner = tuple(slice(n // 4, -(n // 4)) for n in fine.shape)  # ITK's field ends with its grid, ours goes on
    first, last = (AffineTransform(np.eye(ndim + 1) + shift) for shift in _nudge(ndim))
    both = CompositeTransform([first, DisplacementTransform(field, grid), last])
    image = Image(np.random.default_rng(5).normal(size=(*fine.shape, 1)), fine)
    holder = to_simpleitk(Image(field.astype(np.float64), grid))
    steps = [
        sitk.AffineTransform(m[:ndim, :ndim].ravel().tolist(), m[:ndim, ndim].tolist())
        for m in (first.matrix, last.matrix)
    ]
    reference = sitk.CompositeTransform([steps[1], sitk.DisplacementFieldTransform(holder), steps[0]])
    expected = [reference.TransformPoint(point.tolist()) for point in fine.to_physical(voxels(fine.shape))]
    found = both.displacement_on(fine) + fine.to_physical(np.moveaxis(np.indices(fine.shape), 0, -1))
    np.testing.assert_allclose(found[inner], np.reshape(expected, found.shape)[inner], rtol=0, atol=1e-9)
    moved = both.resample(image, fine, boundary="nearest").array[..., 0]
    index = np.moveaxis(fine.to_index(np.reshape(expected, found.shape)), -1, 0)
    read = scipy.ndimage.map_coordinates(image.array[..., 0], index, order=1, mode="nearest")
    np.testing.assert_allclose(moved[inner], read[inner], rtol=0, atol=1e-9)


def _nudge(ndim: int) -> list[np.ndarray]:
    """Small changes of an affine map, one that keeps the axes of a grid and one that does not."""
    shift, skew = np.zeros((2, ndim + 1, ndim + 1))
    shift[:ndim, ndim], skew[:ndim] = 0.3, np.random.default_rng(6).uniform(-0.1, 0.1, (ndim, ndim + 1))
    return [shift, skew]


def test_points_that_are_nowhere_are_outside():
    grid = Grid.from_spacing((6, 7))
    field = np.zeros((6, 7, 2))
    field[2, 3] = 1e300
    far = CompositeTransform([DisplacementTransform(field, grid), AffineTransform(np.diag([1e10, -1e10, 1]))])
    image = Image(np.ones((6, 7, 1)), grid)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = far.resample(image, grid, fill_value=-5)
    assert moved.array[2, 3, 0] == -5
    assert moved.array[0, 0, 0] == 1


@given(st.integers(2, 3), st.integers(0, 10**6))
def test_voxel_and_millimetre_displacements_point_at_the_same_places(ndim, seed):
    grid = make_grid(ndim, seed=seed)
    voxel = np.random.default_rng(seed).normal(size=(*grid.shape, ndim))
    field = from_voxel_displacement(voxel, grid)
    index = voxels(grid.shape)
    expected = grid.to_physical(index + voxel.reshape(-1, ndim)) - grid.to_physical(index)
    np.testing.assert_allclose(field.reshape(-1, ndim), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(to_voxel_displacement(field, grid), voxel, rtol=0, atol=1e-9)


def test_displacements_keep_single_precision_and_never_go_below():
    grid = make_grid(2, seed=0)
    for given_type, wanted in (("float16", "float32"), ("float32", "float32"), ("float64", "float64")):
        field = np.ones((5, 6, 2), given_type)
        assert to_voxel_displacement(field, grid).dtype == wanted
        assert from_voxel_displacement(field, grid).dtype == wanted
        assert DisplacementTransform(field, grid).displacement.dtype == wanted


def test_transforms_that_cannot_be_are_refused():
    grid = make_grid(2)
    with pytest.raises(ShapeError, match="homogeneous matrix"):
        AffineTransform(np.eye(3)[:2])
    with pytest.raises(InputError, match="last row"):
        AffineTransform([[1, 0, 0], [0, 1, 0], [5, 0, 1]])
    with pytest.raises(InputError, match="finite entries"):
        AffineTransform(np.full((3, 3), np.nan))
    with pytest.raises(InputError, match="singular"):
        AffineTransform(np.diag([1.0, 0.0, 1.0])).inverse()
    with pytest.raises(ShapeError, match=r"Received: displacement\.shape=\(1, 5, 6, 2\)"):
        DisplacementTransform(np.zeros((1, 5, 6, 2)), grid)
    with pytest.raises(InputError, match="must be finite"):
        DisplacementTransform(np.full((5, 6, 2), np.nan), grid)
    with pytest.raises(InputError, match="at least one"):
        CompositeTransform([])
    with pytest.raises(ShapeError, match=r"ndim=\[2, 3\]"):
        CompositeTransform([AffineTransform(np.eye(3)), AffineTransform(np.eye(4))])


def test_resampling_refuses_what_does_not_fit():
    flat, volume = Grid.from_spacing((5, 6)), Grid.from_spacing((5, 6, 7))
    image = Image(np.zeros((5, 6, 1), "uint8"), flat)
    with pytest.raises(ShapeError, match="A 2-D transform"):
        SHIFT.resample(image, volume)
    with pytest.raises(ShapeError, match=r"image\.grid\.shape"):
        SHIFT.resample(Image(np.zeros((5, 6, 7, 1)), volume), flat)
    for fill_value in (-1, 256, 0.5, np.nan):
        with pytest.raises(OptionError, match="fill_value="):
            SHIFT.resample(image, flat, fill_value=fill_value)
    with pytest.raises(OptionError):
        SHIFT.resample(image, flat, order=2)
