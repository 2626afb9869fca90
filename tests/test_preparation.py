"""Images as networks take them: grids that cover a field of view, intensities without their padding."""

import itertools

import numpy as np
import pytest

from keramorph.errors import InputError
from keramorph.preparation import PairOptions, cover, lay_in_middle, prepare_image
from keramorph.space import Grid, Image
from keramorph.transforms import AffineTransform
from oblique import make_grid


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_a_straight_grid_covers_every_corner_and_no_more(ndim, seed):
    grid = make_grid(ndim, seed=seed)
    spacing = (0.7, 1.1, 1.9)[:ndim]
    covering = cover(grid, spacing)
    np.testing.assert_allclose(covering.matrix, np.diag(spacing)[::-1])
    # The outer faces of the voxels lie half a voxel outside of their centres.
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape))))
    places = covering.to_index(grid.to_physical(corners))
    most = np.array(covering.shape) - 0.5
    low, high = places.min(axis=0) + 0.5, most - places.max(axis=0)
    assert min(low.min(), high.min()) > -2e-3
    assert max(low.max(), high.max()) < 0.5
    np.testing.assert_allclose(low, high, atol=1e-9)


def test_a_grid_that_is_straight_already_is_covered_by_itself():
    grid = Grid.from_spacing((5, 6, 7), (3.0, 2.0, 1.0), origin=(4.0, 5.0, 6.0))
    assert cover(grid, (3.0, 2.0, 1.0)).matches(grid)
    assert cover(grid, 2.0).shape == (8, 6, 4)
    np.testing.assert_allclose(lay_in_middle(grid, (2, 2, 2), 9.0).center, grid.center)


def test_padding_costs_an_image_no_contrast():
    """Most of a scan is the -2048 outside its circle: what lies inside takes the range from 0 to 1 all the same."""
    values = np.random.default_rng(1).uniform(-1000, 400, (40, 30, 1))
    padded = np.where(np.indices((40, 30))[1][..., None] < 18, -2048, values)
    grid = Grid.from_spacing((40, 30))
    still = AffineTransform(np.eye(3))
    whole, part = (prepare_image(Image(v, grid), grid, still, name="image")[:, 18:] for v in (values, padded))
    np.testing.assert_allclose(part, whole, atol=0.03)


@pytest.mark.parametrize(("value", "said"), [(3.0, "needs contrast.*the same value 3"), (np.nan, "one finite value")])
def test_an_image_of_one_value_or_of_none_is_refused(value, said):
    grid = Grid.from_spacing((4, 5))
    with pytest.raises(InputError, match=f"The image 'a.png' .*{said}"):
        prepare_image(Image(np.full((4, 5, 1), value), grid), grid, AffineTransform(np.eye(3)), name="image 'a.png'")


def test_options_come_back_from_what_a_file_keeps_of_them():
    options = PairOptions((8, 9), spacing=(1.5, 2.0), labels=(3, 7), crop=(4, 4), flip=(1,))
    listed = {name: list(value) for name, value in options.get_config().items()}
    assert PairOptions.from_config(listed) == options
