"""Axes laid along those of space: against nibabel's order, and by where each voxel ends up."""

import nibabel
import numpy as np
import pytest

from keramorph.solver.orientation import Orientation
from keramorph.solver.pyramid import Layer
from oblique import make_grid, make_permuted
from phantom import grid_points

GRIDS = [make_grid(ndim, seed=seed) for ndim in (2, 3) for seed in range(6)]
GRIDS += [make_permuted(3, order, signs) for order in ((2, 0, 1), (0, 2, 1)) for signs in ((1, -1, 1), (-1, 1, -1))]


def reveal(points):
    """Two values that tell where a point lies."""
    return np.stack([points @ np.arange(1.0, points.shape[-1] + 1), points[..., 0]], axis=-1)[None].astype("float32")


@pytest.mark.parametrize("grid", GRIDS)
def test_values_stay_where_they_are(make_array, grid):
    values = reveal(grid_points(grid))
    layer = Orientation.of(grid).straighten(Layer(make_array(values), make_array(values[..., :1]), grid))
    expected = reveal(grid_points(layer.grid))
    np.testing.assert_allclose(np.asarray(layer.values), expected, atol=1e-3)
    np.testing.assert_allclose(np.asarray(layer.mask), expected[..., :1], atol=1e-3)


@pytest.mark.parametrize("grid", GRIDS)
def test_axes_run_as_nibabel_would_lay_them(grid):
    # nibabel asks for x first, the other way round.
    axes = nibabel.orientations.io_orientation(np.pad(grid.matrix, (0, 1)) + np.diag([0] * grid.ndim + [1]))[
        : grid.ndim
    ]
    found = Orientation.of(grid)
    order = np.argsort(axes[:, 0])[::-1]
    assert found.order == tuple(order)
    assert found.flipped == tuple(axes[order, 1] < 0)
    straight = found.straighten_grid(grid)
    assert Orientation.of(straight) == Orientation(tuple(range(grid.ndim)), (False,) * grid.ndim)


@pytest.mark.parametrize("grid", GRIDS)
def test_fields_point_where_they_did_and_come_back(make_array, grid):
    orientation = Orientation.of(grid)
    points = grid_points(grid)
    vectors = np.sin(points / 7)  # millimetres
    field = np.einsum("ij,...j->...i", np.linalg.inv(grid.matrix), vectors)[None].astype("float32")
    straight = orientation.straighten_field(make_array(field))
    straight_grid = orientation.straighten_grid(grid)
    found = np.einsum("ij,...j->...i", straight_grid.matrix, np.asarray(straight)[0])
    np.testing.assert_allclose(found, np.sin(grid_points(straight_grid) / 7), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(orientation.restore_field(straight)), field)
