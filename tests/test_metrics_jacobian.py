"""Share of folds and SD of the log-Jacobian against SimpleITK and closed forms."""

import numpy as np
import pytest
import SimpleITK as sitk

from keramorph.errors import ShapeError
from keramorph.metrics import folding_share, log_jacobian_sd


def draw_field(shape, scale):
    """Two random fields that stand still at their edges, where ITK extends the field and ours is one-sided."""
    field = np.zeros((2, *shape, len(shape)))
    inner = (slice(None), *[slice(2, -2)] * len(shape))
    field[inner] = np.random.default_rng(0).normal(scale=scale, size=field[inner].shape)
    return field


def measure_determinants(field):
    images = [sitk.GetImageFromArray(np.ascontiguousarray(one[..., ::-1]), isVector=True) for one in field]
    return [sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image)) for image in images]


@pytest.mark.parametrize("shape", [(8, 9), (7, 8, 9)])
def test_folding_share_is_that_of_simpleitks_determinant(shape):
    field = draw_field(shape, scale=1.5)
    expected = [(determinant <= 0).mean() for determinant in measure_determinants(field)]
    assert min(expected) > 0.02
    np.testing.assert_allclose(folding_share(field), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(8, 9), (7, 8, 9)])
def test_log_jacobian_sd_is_that_of_simpleitks_determinant(shape):
    field = draw_field(shape, scale=0.15)
    determinants = measure_determinants(field)
    assert min(map(np.min, determinants)) > 0
    np.testing.assert_allclose(log_jacobian_sd(field), [np.log(d).std() for d in determinants], rtol=1e-9)
    folded = draw_field(shape, scale=1.5)
    expected = [np.log(np.maximum(d, 1e-9)).std() for d in measure_determinants(folded)]
    np.testing.assert_allclose(log_jacobian_sd(folded), expected, rtol=1e-9)


def test_an_affine_folds_everywhere_or_nowhere_and_has_one_volume():
    x = np.stack(np.meshgrid(*map(np.arange, (4, 5, 6)), indexing="ij"), axis=-1)
    for matrix, share in ((np.diag([2.0, 0.5, 1.5]), 0.0), (np.diag([2.0, -0.5, 1.5]), 1.0), (np.diag([1, 0, 1]), 1.0)):
        field = (x @ (matrix - np.eye(3)).T)[None]
        np.testing.assert_array_equal(folding_share(field), [share])
        np.testing.assert_allclose(log_jacobian_sd(field), [0.0], atol=1e-12)


def test_the_border_counts():
    """A fold between the last two voxels of an axis: one-sided differences see it."""
    field = np.zeros((1, 5, 6, 2))
    field[0, -1, :, 0] = -1.5
    np.testing.assert_allclose(folding_share(field), [1 / 5])


def test_single_precision_is_measured_in_double():
    field = draw_field((8, 9), scale=0.15).astype("float32")
    np.testing.assert_allclose(log_jacobian_sd(field), log_jacobian_sd(field.astype("float64")), rtol=1e-12)


@pytest.mark.parametrize("metric", [folding_share, log_jacobian_sd])
def test_bad_fields_are_named(metric):
    with pytest.raises(ShapeError, match=r"Received: displacement\.shape=\(5, 6, 2\)"):
        metric(np.zeros((5, 6, 2)))
