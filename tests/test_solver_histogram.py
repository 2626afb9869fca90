"""Histogram matching inside the solver: against a known curve, SimpleITK, and pairs that it must leave alone."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from keramorph import backend
from keramorph.solver.histogram import match_histograms
from keramorph.solver.pyramid import Layer, Level
from keramorph.space import Grid

SHAPE = (24, 26, 28)


def texture(seed):
    """A smooth pattern from 0 to 1."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2)
    return ((values - values.min()) / np.ptp(values)).astype("float32")


def level_of(fixed, moving, *, fixed_mask=None, engine="numpy"):
    xp = backend.use(engine).xp
    like = xp.zeros((1,), dtype="float32")
    grid = Grid.from_spacing(SHAPE, (1.0, 2.0, 1.5))

    def layer(values, mask=None):
        arrays = [
            None if a is None else xp.asarray(a[None, ..., None], dtype="float32", like=like) for a in (values, mask)
        ]
        return Layer(*arrays, grid)

    return Level(layer(fixed, fixed_mask), layer(moving), 1.0)


def match(level):
    return match_histograms(level, np.eye(4), level.still())


def ease(moving, matched):
    """What is left of a full match: six tenths of the way to it from the nearest line."""
    return 0.6 * matched + 0.4 * np.polyval(np.polyfit(moving.ravel(), matched.ravel(), 1), moving)


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_a_bent_contrast_is_straightened(engine):
    fixed = texture(0)
    matched = match(level_of(fixed, fixed**0.4, engine=engine)).moving.values
    np.testing.assert_allclose(np.asarray(matched)[0, ..., 0], ease(fixed**0.4, fixed), atol=0.01)


def test_the_result_is_that_of_simpleitk():
    fixed, moving = texture(0), texture(0) ** 0.4
    matched = match(level_of(fixed, moving)).moving.values[0, ..., 0]
    images = [sitk.GetImageFromArray(image) for image in (moving, fixed)]
    expected = sitk.GetArrayFromImage(sitk.HistogramMatching(*images, 1024, 1000, False))
    # The two end otherwise: SimpleITK draws a line through the last match point.
    inner = (fixed > np.percentile(fixed, 1)) & (fixed < np.percentile(fixed, 99))
    np.testing.assert_allclose(matched[inner], ease(moving, expected)[inner], atol=0.01)
    assert np.abs(matched - expected).max() > 0.03


def test_images_of_one_contrast_are_left_alone():
    fixed = texture(0)
    shifted = ndimage.shift(fixed, (1, -1, 0), order=1, mode="nearest")
    for moving in (shifted, 0.5 * fixed + 0.2, 1 - fixed, texture(1)):
        level = level_of(fixed, moving)
        assert match(level) is level


def test_what_is_masked_out_or_outside_has_no_say():
    fixed = texture(0)
    moving, mask = fixed**0.4, np.ones(SHAPE, "float32")
    spoilt = fixed.copy()
    spoilt[:, :, :9], mask[:, :, :9] = 0.9, 0
    expected = match(level_of(fixed, moving)).moving.values
    found = match(level_of(spoilt, moving, fixed_mask=mask)).moving.values
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert np.abs(match(level_of(spoilt, moving)).moving.values - expected).max() > 0.1


def test_the_images_are_compared_where_the_transform_lays_them():
    fixed = texture(0)
    fixed[:12] *= 0.2
    overlap = np.roll(fixed, 12, axis=0)[12:]
    moving = np.roll(fixed, 12, axis=0) ** 0.4
    level = level_of(fixed, moving)
    shift = np.eye(4)
    shift[2, 3] = 12
    matched = match_histograms(level, shift, level.still()).moving.values[0, ..., 0]
    np.testing.assert_allclose(matched[12:], ease(overlap**0.4, overlap), atol=0.01)
