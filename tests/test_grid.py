"""Grids: where voxels lie, by SimpleITK's word, and what resizing keeps."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keramorph.errors import ShapeError
from keramorph.space import Grid, Image
from oblique import make_grid, make_permuted, voxels


def to_reference(grid: Grid) -> sitk.Image:
    """SimpleITK image whose index axes are the grid's array axes, the last one first."""
    image = sitk.Image([int(n) for n in grid.shape[::-1]], sitk.sitkUInt8)
    image.SetSpacing(grid.spacing[::-1].tolist())
    image.SetDirection((grid.matrix / grid.spacing)[:, ::-1].ravel().tolist())
    image.SetOrigin(grid.affine[: grid.ndim, grid.ndim].tolist())
    return image


@st.composite
def grids(draw):
    ndim = draw(st.integers(2, 3))
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=ndim, max_size=ndim)))
    return make_grid(ndim, seed=draw(st.integers(0, 10**6)), shape=shape)


@given(grids(), st.data())
def test_index_to_millimetres_agrees_with_simpleitk(grid, data):
    index = data.draw(hnp.arrays(np.float64, (4, grid.ndim), elements=st.floats(-20, 20)))
    reference = to_reference(grid)
    expected = [reference.TransformContinuousIndexToPhysicalPoint(i[::-1].tolist()) for i in index]
    np.testing.assert_allclose(grid.to_physical(index), expected, rtol=0, atol=1e-9)


@given(grids(), st.data())
def test_index_survives_the_round_trip_through_millimetres(grid, data):
    index = data.draw(hnp.arrays(np.float64, (3, 2, grid.ndim), elements=st.floats(-50, 50)))
    np.testing.assert_allclose(grid.to_index(grid.to_physical(index)), index, rtol=0, atol=1e-9)


@given(grids(), st.data())
def test_resize_keeps_the_field_of_view(grid, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 12), min_size=grid.ndim, max_size=grid.ndim)))
    resized = grid.resize(shape)
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=grid.ndim)))
    before = grid.to_physical(corners * grid.shape - 0.5)
    after = resized.to_physical(corners * shape - 0.5)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-9)
    np.testing.assert_allclose(resized.spacing * shape, grid.spacing * grid.shape, rtol=1e-12)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_permuted_axes_give_each_voxel_its_own_place(order):
    grid = make_permuted(3, order, (1, -1, 1))
    index = voxels(grid.shape)
    expected = np.tile([10.0, 20.0, 30.0], (len(index), 1))
    for axis, physical in enumerate(order):
        expected[:, physical] += index[:, axis] * (axis + 1) * (1, -1, 1)[axis]
    np.testing.assert_allclose(grid.to_physical(index), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(grid.spacing, [1, 2, 3], rtol=1e-12)


def test_from_spacing_is_what_simpleitk_makes_of_a_plain_array():
    reference = sitk.GetImageFromArray(np.zeros((5, 6, 7)))
    reference.SetSpacing((0.5, 2.0, 3.0))
    grid = Grid.from_spacing((5, 6, 7), (3.0, 2.0, 0.5))
    for index in ((4, 5, 6), (1, 0, 2)):
        expected = reference.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(grid.to_physical(index), expected, rtol=0, atol=1e-12)


def test_center_is_the_mean_of_all_voxels():
    grid = make_grid(3, seed=4)
    np.testing.assert_allclose(grid.center, grid.to_physical(voxels(grid.shape)).mean(axis=0), rtol=0, atol=1e-10)


def test_matches_sees_a_shift_of_a_hundredth_of_a_voxel_at_the_far_corner():
    grid = make_grid(3, seed=5)
    affine = grid.affine.copy()
    affine[:3, 2] *= 1 + 0.01 / 7
    assert grid.matches(Grid(grid.shape, grid.affine + 1e-7))
    assert not grid.matches(Grid(grid.shape, affine))
    assert not grid.matches(make_grid(3, seed=5, shape=(5, 6, 8)))


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((5, 6), np.eye(4)),
        ((5, 0, 7), np.eye(4)),
        ((5, 6, 7), np.diag([1.0, 0.0, 1.0, 1.0])),
        ((5, 6, 7), np.diag([1.0, np.nan, 1.0, 1.0])),
    ],
    ids=["axes", "no voxels", "no spacing", "nan"],
)
def test_a_grid_that_cannot_be_is_refused(shape, affine):
    with pytest.raises(ShapeError, match="Received: "):
        Grid(shape, affine)


def test_an_image_needs_the_shape_of_its_grid_and_a_channel_axis():
    with pytest.raises(ShapeError, match=r"Received: array\.shape=\(5, 6\)"):
        Image(np.zeros((5, 6)), Grid.from_spacing((5, 6)))


def test_a_tiny_spacing_is_a_spacing():
    # Micrometres in 3-D, in millimetres: the determinant is 1e-18, the grid is sound.
    grid = Grid.from_spacing((5, 6, 7), 1e-6)
    np.testing.assert_allclose(grid.to_index(grid.to_physical([1, 2, 3])), [1, 2, 3], rtol=1e-9)
