"""The report: the right voxels, the right way up, in the right aspect, and nothing that a person could not read."""

import doctest
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from keramorph.io import to_simpleitk
from keramorph.report import describe_outcome, describe_scores, draw_report, figure, planes, scores, write_report
from keramorph.report.planes import MOST_PIXELS, cut_planes, match_axes
from keramorph.report.views import find_range, look, scale
from keramorph.space import Grid, Image
from keramorph.transforms import AffineTransform

ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def turn(degrees):
    """Rotation about a skew axis, by less than what would change the nearest axes."""
    angle = np.deg2rad(degrees)
    axis = np.array([1.0, 2.0, -1.5]) / np.linalg.norm([1.0, 2.0, -1.5])
    cross = np.cross(np.eye(3), axis)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def make_grid(order, signs, *, degrees=0.0, spacing=(0.8, 1.1, 2.5), shape=(9, 12, 7)):
    """Grid about (1, -2, 3) whose array axis a runs along physical axis order[a], up or down it, turned a little."""
    affine = np.eye(4)
    affine[:3, :3] = turn(degrees) @ (np.eye(3)[:, list(order)] * (np.asarray(signs) * spacing))
    affine[:3, 3] = np.array([1.0, -2.0, 3.0]) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid(shape, affine)


def make_result(fixed, moving, matrix):
    transform = AffineTransform(matrix)
    return SimpleNamespace(
        fixed=fixed,
        moving=moving,
        moved=transform.resample(moving, fixed.grid),
        transform=transform,
        outcome=SimpleNamespace(status="done", reason="", trusted=True),
        metrics={"loss_start": 0.9, "loss_affine": 0.5, "folds_percent": 0.0},
    )


def make_picture_result(channels=1, dtype="uint8"):
    generator = np.random.default_rng(0)
    fixed = Image(generator.integers(0, 255, (20, 30, channels)).astype(dtype), Grid.from_spacing((20, 30), (2.0, 1.0)))
    moving = Image(generator.integers(0, 255, (25, 24, channels)).astype(dtype), Grid.from_spacing((25, 24), 1.5))
    return make_result(fixed, moving, [[1.0, 0.1, 2.0], [-0.1, 0.9, -1.0], [0, 0, 1]])


def make_volume_result():
    generator = np.random.default_rng(1)
    fixed = Image(generator.random((9, 12, 7, 1), dtype="float32"), make_grid((2, 0, 1), (1, -1, 1)))
    moving = Image(generator.random((9, 12, 7, 1), dtype="float32"), make_grid((0, 1, 2), (1, 1, -1), degrees=12))
    return make_result(fixed, moving, np.eye(4) + np.diag([0.05, 0, 0], 1))


@pytest.mark.parametrize("degrees", [0, 14])
@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_planes_are_radiological_whatever_the_order_of_the_axes(order, signs, degrees):
    grid = make_grid(order, signs, degrees=degrees)
    directions = {"axial": ((1, 1), (0, 1)), "coronal": ((2, -1), (0, 1)), "sagittal": ((2, -1), (1, 1))}
    for plane in cut_planes(grid):
        points = grid.to_physical(plane.index)
        for axis, (physical, sign) in enumerate(directions[plane.name]):
            step = np.diff(points, axis=axis)[..., physical] * sign
            assert step.min() > 0
        through = ({0, 1, 2} - set(plane.axes)).pop()
        assert np.unique(plane.index[..., match_axes(grid)[0][through]]).size == 1


def test_planes_pass_through_the_middle_and_hold_every_voxel_of_it():
    grid = make_grid((2, 1, 0), (1, 1, 1))
    axial, coronal, sagittal = cut_planes(grid)
    assert axial.index.shape == (12, 7, 3)
    assert coronal.index.shape == (9, 7, 3)
    assert sagittal.index.shape == (9, 12, 3)
    assert set(axial.index[..., 0].ravel()) == {4}
    assert set(coronal.index[..., 1].ravel()) == {6}
    assert set(sagittal.index[..., 2].ravel()) == {3}


def test_planes_keep_the_physical_aspect():
    axial, coronal, sagittal = cut_planes(make_grid((2, 1, 0), (1, 1, 1), spacing=(5.0, 1.0, 0.5)))
    assert (axial.height, axial.width) == pytest.approx((12 * 1.0, 7 * 0.5))
    assert (coronal.height, coronal.width) == pytest.approx((9 * 5.0, 7 * 0.5))
    assert (sagittal.height, sagittal.width) == pytest.approx((9 * 5.0, 12 * 1.0))


def test_pictures_keep_their_rows_and_columns():
    (plane,) = cut_planes(Grid.from_spacing((5, 6)))
    array = np.arange(30).reshape(5, 6, 1)
    assert np.array_equal(plane.pick(array), array)


def test_large_planes_are_thinned_out():
    (plane,) = cut_planes(Grid.from_spacing((3 * MOST_PIXELS, 50)))
    assert plane.index.shape == (MOST_PIXELS, 50, 2)
    assert plane.height == 3 * MOST_PIXELS


@pytest.mark.parametrize("make", [make_picture_result, make_volume_result])
def test_views_show_what_simpleitk_resamples(make):
    result = make()
    fixed, moving = to_simpleitk(result.fixed), to_simpleitk(result.moving)
    low, high = find_range(result.moving.array)
    moving = sitk.Cast(moving, sitk.sitkFloat64)
    before = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear, np.nan)
    expected = sitk.GetArrayFromImage(before)
    if result.fixed.grid.fastest == "first":
        expected = expected.T
    for view in look(result, cut_planes(result.fixed.grid)):
        wanted = scale(view.plane.pick(expected[..., None]), (low, high))
        inside = np.isfinite(view.plane.pick(expected[..., None]))
        # At the rim, within half a voxel, ITK repeats the edge and a report fades: only whole neighbourhoods count.
        points = result.moving.grid.to_index(result.fixed.grid.to_physical(view.plane.index))
        inside &= ((points >= 0) & (points <= np.array(result.moving.grid.shape) - 1)).all(axis=-1, keepdims=True)
        assert inside.sum() > 20
        assert np.abs(view.before - wanted)[inside].max() < 1e-5


def test_views_tell_where_the_transform_reads():
    result = make_volume_result()
    for view in look(result, cut_planes(result.fixed.grid)):
        read_at = result.transform.apply_points(result.fixed.grid.to_physical(view.plane.index))
        assert np.array_equal(view.down, read_at[..., view.plane.axes[0]])
        assert np.array_equal(view.across, read_at[..., view.plane.axes[1]])


def test_range_is_robust_to_nan_and_to_one_value():
    values = np.r_[np.linspace(0, 1, 1001), np.nan, np.inf]
    assert find_range(values) == pytest.approx((0.01, 0.99), abs=1e-9)
    assert find_range(np.full(5, 3)) == (3.0, 4.0)
    assert find_range(np.full(5, np.nan)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("result", "count"),
    [
        (make_picture_result(), 7),
        (make_picture_result(channels=3), 7),
        (make_picture_result(channels=2, dtype="float32"), 7),
        (make_volume_result(), 19),
    ],
    ids=["grey", "colour", "two channels", "volume"],
)
def test_report_names_every_picture(result, count):
    drawn = draw_report(result, names=("a.png", "b.png"))
    titles = [axes.get_title() for axes in drawn.axes[:-1]]
    assert len(drawn.axes) == count
    assert all(titles)
    assert "b.png" in drawn.texts[0].get_text()
    assert "0.900" in drawn.texts[2].get_text()
    assert "%" in drawn.axes[-1].get_xlabel()


def test_report_draws_pixels_in_their_aspect():
    drawn = draw_report(make_picture_result())
    assert drawn.axes[0].get_aspect() == pytest.approx(2.0)


def test_report_is_a_picture_without_pyplot(tmp_path):
    path = tmp_path / "report.png"
    write_report(make_volume_result(), path)
    width, height = sitk.ReadImage(str(path)).GetSize()
    assert 1000 < width < 2000
    assert 400 < height < 2000


def test_report_says_when_not_to_trust():
    result = make_picture_result()
    result.outcome = SimpleNamespace(status="untrusted", reason="The images hardly overlap.", trusted=False)
    line = draw_report(result).texts[1]
    assert line.get_text() == describe_outcome(result.outcome) == "Not to be trusted: The images hardly overlap."
    assert line.get_color() != draw_report(make_picture_result()).texts[1].get_color()


def test_scores_leave_out_what_is_not_there():
    assert describe_scores({"overlap": 0.97}) == "overlap 97%"
    assert describe_scores({}) == ""


def test_examples_run():
    for module in (figure, planes, scores):
        tried = doctest.testmod(module)
        assert tried.attempted
        assert not tried.failed
