"""Dice, surface distances and landmark errors against counting, brute force and SimpleITK, on anisotropic grids."""

import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk
from scipy.spatial.distance import cdist

from keramorph.errors import ArrayTypeError, OptionError, ShapeError
from keramorph.metrics import dice, hausdorff95, landmark_error, mean_surface_distance
from keramorph.space import Grid

SPACING = (3.0, 1.5, 0.7)


def draw_label_map(shape, seed, count=3):
    """Smooth blobs of labels 0 to count."""
    rng = np.random.default_rng(seed)
    noise = np.stack([scipy.ndimage.gaussian_filter(rng.normal(size=shape), 2) for _ in range(count + 1)])
    return noise.argmax(0)


def find_surface(mask):
    """Indices of voxels with a face neighbour outside the mask, by a look at each neighbour of each voxel."""
    padded = np.pad(mask, 1)
    steps = [side * np.eye(mask.ndim, dtype=int)[axis] for axis in range(mask.ndim) for side in (-1, 1)]
    inside = np.argwhere(mask)
    return np.array([i for i in inside if not all(padded[tuple(i + 1 + step)] for step in steps)])


def measure_directed(fixed, moved, label, matrix):
    """Distances in millimetres from each fixed surface voxel to the moved surface, and back, by the table of all."""
    first, second = (find_surface(labels == label) @ matrix.T for labels in (fixed, moved))
    table = cdist(first, second)
    return table.min(1), table.min(0)


def test_dice_counts_voxels():
    fixed, moved = draw_label_map((9, 10, 11), 0), draw_label_map((9, 10, 11), 1)
    scores = dice(fixed, moved)
    assert list(scores) == [1, 2, 3]
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(sitk.GetImageFromArray(fixed.astype("uint8")), sitk.GetImageFromArray(moved.astype("uint8")))
    for label, score in scores.items():
        np.testing.assert_allclose(score, overlap.GetDiceCoefficient(label), rtol=1e-12)
    assert dice(fixed, fixed) == {1: 1.0, 2: 1.0, 3: 1.0}


def test_dice_of_chosen_labels_keeps_their_order_and_marks_the_absent():
    fixed, moved = np.array([[1, 1, 0]]), np.array([[0, 1, 5]])
    scores = dice(fixed, moved, labels=[9, 0, 5])
    assert list(scores) == [9, 0, 5]
    assert np.isnan(scores[9])
    assert (scores[0], scores[5]) == (0.0, 0.0)
    assert dice(fixed > 0, moved > 0) == {1: 0.5}
    assert dice(np.zeros(3, int), np.zeros(3, int)) == {}
    assert dice(np.array([255, 0], "uint8"), np.array([255, 255], "uint8")) == {255: 2 / 3}


def each_metric():
    return pytest.mark.parametrize(
        ("metric", "reduce"),
        [
            (hausdorff95, lambda forth, back: max(np.percentile(forth, 95), np.percentile(back, 95))),
            (mean_surface_distance, lambda forth, back: (forth.sum() + back.sum()) / (len(forth) + len(back))),
        ],
        ids=["hausdorff95", "mean"],
    )


@each_metric()
@pytest.mark.parametrize("shape", [(9, 12, 14), (17, 20)])
def test_surface_distances_are_those_of_brute_force_in_millimetres(metric, reduce, shape):
    fixed, moved = draw_label_map(shape, 0), draw_label_map(shape, 1)
    spacing = SPACING[: len(shape)]
    scores = metric(fixed, moved, spacing=spacing)
    assert list(scores) == [1, 2, 3]
    for label, score in scores.items():
        expected = reduce(*measure_directed(fixed, moved, label, np.diag(spacing)))
        np.testing.assert_allclose(score, expected, rtol=1e-12)
        np.testing.assert_allclose(metric(moved, fixed, spacing=spacing)[label], score, rtol=1e-12)


@each_metric()
def test_surface_distances_are_those_of_simpleitks_distance_maps(metric, reduce):
    """Contours by LabelContour, whose border counts as outside once the image is padded; distances by Maurer."""
    fixed, moved = draw_label_map((9, 12, 14), 3), draw_label_map((9, 12, 14), 4)
    contours, maps = [], []
    for labels in (fixed, moved):
        image = sitk.GetImageFromArray(np.pad(labels == 1, 1).astype("uint8"))
        image.SetSpacing(SPACING[::-1])
        contour = sitk.LabelContour(image, fullyConnected=False)
        contours.append(sitk.GetArrayFromImage(contour) > 0)
        distance = sitk.SignedMaurerDistanceMap(contour, squaredDistance=False, useImageSpacing=True)
        maps.append(np.maximum(sitk.GetArrayFromImage(distance), 0))  # inside the one-voxel contour it is negative
    expected = reduce(maps[1][contours[0]], maps[0][contours[1]])
    assert expected > 0.5
    np.testing.assert_allclose(metric(fixed, moved, spacing=SPACING, labels=[1])[1], expected, rtol=1e-5)


@each_metric()
def test_an_oblique_and_sheared_grid_is_measured_by_its_whole_matrix(metric, reduce):
    fixed, moved = draw_label_map((12, 13), 0), draw_label_map((12, 13), 1)
    affine = np.array([[2.0, 0.9, 5.0], [-0.3, 1.1, -7.0], [0, 0, 1]])
    scores = metric(fixed, moved, grid=Grid((12, 13), affine))
    for label, score in scores.items():
        np.testing.assert_allclose(score, reduce(*measure_directed(fixed, moved, label, affine[:2, :2])), rtol=1e-12)
    upright = Grid.from_spacing((12, 13), SPACING[:2], origin=(100, -50))
    assert metric(fixed, moved, grid=upright) == pytest.approx(metric(fixed, moved, spacing=SPACING[:2]), rel=1e-12)


@each_metric()
def test_equal_labels_are_0_apart_and_missing_ones_nan(metric, reduce):
    fixed = draw_label_map((9, 12, 14), 0)
    assert metric(fixed, fixed, spacing=2.0) == {1: 0.0, 2: 0.0, 3: 0.0}
    scores = metric(fixed, np.where(fixed == 2, 0, fixed), labels=[1, 2, 9])
    assert scores[1] == 0
    assert np.isnan([scores[2], scores[9]]).all()


@each_metric()
def test_a_shift_is_its_length_in_millimetres_and_one_millimetre_is_the_default(metric, reduce):
    fixed, moved = np.zeros((2, 20, 30), int)
    fixed[4:5, 3:27], moved[10:11, 3:27] = 7, 7
    np.testing.assert_allclose(metric(fixed, moved, spacing=(2.5, 1.0))[7], 15.0)
    np.testing.assert_allclose(metric(fixed, moved)[7], 6.0)


@each_metric()
def test_bad_label_maps_and_places_are_named(metric, reduce):
    labels = np.ones((4, 5), int)
    with pytest.raises(ArrayTypeError, match=r"Received: moved_labels\.dtype=float64"):
        metric(labels, labels * 1.0)
    with pytest.raises(ShapeError, match=r"Received: fixed_labels\.shape=\(4, 5\), moved_labels\.shape=\(4, 4\)"):
        metric(labels, labels[:, 1:])
    with pytest.raises(ShapeError, match=r"Received: spacing=\(1\.0, 1\.0, 1\.0\)"):
        metric(labels, labels, spacing=(1.0, 1.0, 1.0))
    with pytest.raises(OptionError, match=r"Received: spacing=-1\.0"):
        metric(labels, labels, spacing=-1.0)
    with pytest.raises(OptionError, match="Leave one out"):
        metric(labels, labels, spacing=1.0, grid=Grid.from_spacing((4, 5)))
    with pytest.raises(ShapeError, match=r"Received: grid\.shape=\(5, 4\)"):
        metric(labels, labels, grid=Grid.from_spacing((5, 4)))


def test_landmark_error_is_the_distance_of_each_point():
    rng = np.random.default_rng(0)
    fixed, moved = rng.normal(size=(2, 7, 3))
    error = landmark_error(fixed, moved)
    np.testing.assert_allclose(error, np.diag(cdist(fixed, moved)), rtol=1e-12)
    np.testing.assert_allclose(landmark_error([[0, 0]], [[3, 4]]), [5.0])
    with pytest.raises(ShapeError, match=r"Received: fixed_points\.shape=\(7, 3\), moved_points\.shape=\(6, 3\)"):
        landmark_error(fixed, moved[:6])
