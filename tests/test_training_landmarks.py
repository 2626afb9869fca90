"""Landmarks in batches: in voxels as SimpleITK counts them; windows, mirrors and alignment move them with images."""

import keras  # noqa: F401  # a dataset is one of Keras
import numpy as np
import pytest
import SimpleITK as sitk

from keramorph.errors import FileError, InputError
from keramorph.training import Pair, PairDataset, PairOptions, read_pairs
from keramorph.transforms import AffineTransform

OPTIONS = PairOptions((9, 8, 10), spacing=(2.0, 1.5, 1.25))


def write_image(path, *, angle, origin, shape=(7, 6, 8), values=None):
    """An image of noise, turned about z, in a file, and itself."""
    values = np.random.default_rng(0).random(shape) if values is None else values
    image = sitk.GetImageFromArray(values.astype("float32"))
    image.SetSpacing((1.5, 2.0, 2.5)[: image.GetDimension()])
    image.SetOrigin(origin)
    if angle:
        a = np.deg2rad(angle)
        image.SetDirection((np.cos(a), -np.sin(a), 0, np.sin(a), np.cos(a), 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))
    return image


def write_points(path, points):
    rows = [",".join("" if np.isnan(value) else repr(float(value)) for value in point) for point in points]
    path.write_text("\n".join([",".join("xyz"[: len(points[0])]), *rows]) + "\n")
    return path


def to_voxels(points, image, options):
    """Continuous indices (z, y, x) in the straight grid on the middle of an image, by SimpleITK."""
    grid = sitk.Image(options.shape[::-1], sitk.sitkFloat32)
    grid.SetSpacing(options.spacing[::-1])
    middle = np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    grid.SetOrigin(
        (middle - [(n - 1) / 2 * h for n, h in zip(grid.GetSize(), grid.GetSpacing(), strict=True)]).tolist()
    )
    return np.array([grid.TransformPhysicalPointToContinuousIndex(point.tolist())[::-1] for point in points])


@pytest.fixture
def case(tmp_path):
    """Two images in different places, and points near the middle of each."""
    images = [
        write_image(tmp_path / "fixed.nii.gz", angle=20, origin=(5.0, -20.0, 90.0)),
        write_image(tmp_path / "moving.nii.gz", angle=-50, origin=(300.0, 10.0, -7.0)),
    ]
    generator = np.random.default_rng(1)
    middles = [
        image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]) for image in images
    ]
    points = [np.array(middle) + generator.uniform(-4, 4, size=(5, 3)) for middle in middles]
    return images, points, [tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz"]


def test_landmarks_are_in_voxels_of_the_common_grid_and_nan_where_missing(case, tmp_path):
    images, (fixed, moving), files = case
    gap = moving.copy()
    gap[2] = np.nan
    gap[4] += 500.0  # outside of all that the image shows
    all_five = Pair(*files, None, None, write_points(tmp_path / "f.csv", fixed), write_points(tmp_path / "m.csv", gap))
    two = Pair(
        *files, None, None, write_points(tmp_path / "f2.csv", fixed[:2]), write_points(tmp_path / "m2.csv", moving[:2])
    )
    batch = PairDataset([all_five, two, Pair(*files)], OPTIONS, batch_size=3, seed=None)[0]
    assert batch["fixed_landmarks"].shape == batch["moving_landmarks"].shape == (3, 5, 3)
    assert batch["fixed_landmarks"].dtype == np.float32
    expected = [to_voxels(points, image, OPTIONS) for points, image in zip((fixed, moving), images, strict=True)]
    expected[1][[2, 4]] = np.nan
    for name, wanted in zip(("fixed_landmarks", "moving_landmarks"), expected, strict=True):
        np.testing.assert_allclose(batch[name][0], wanted, atol=1e-4)
        np.testing.assert_allclose(batch[name][1, :2], wanted[:2], atol=1e-4)
        assert np.isnan(batch[name][1, 2:]).all()
        assert np.isnan(batch[name][2]).all()


def test_landmarks_are_cropped_and_mirrored_with_their_image(tmp_path):
    """Bright voxels with a landmark on each: wherever a window shows one, its landmark is on it."""
    places = np.array([(2, 3), (9, 1), (6, 8), (11, 10)])
    values = np.zeros((12, 11))
    values[tuple(places.T)] = 1.0
    write_image(tmp_path / "dots.mha", angle=0, origin=(0.0, 0.0), values=values)
    file, points = str(tmp_path / "dots.mha"), write_points(tmp_path / "dots.csv", places[:, ::-1] * (1.5, 2.0))
    pair = Pair(file, file, None, None, points, points)
    dataset = PairDataset([pair], PairOptions((12, 11), spacing=(2.0, 1.5), crop=(8, 6), flip=(0, 1)), seed=3)
    shown = 0
    for epoch in range(8):
        dataset.epoch = epoch
        batch = dataset[0]
        found = batch["moving_landmarks"][0]
        here = found[np.isfinite(found).all(axis=-1)]
        index = np.rint(here).astype(int)
        np.testing.assert_allclose(here, index, atol=1e-4)
        assert (batch["moving"][0][tuple(index.T)] > 0.9).all()
        assert np.count_nonzero(batch["moving"][0] > 0.9) == len(here)
        shown += len(here)
    assert 4 < shown < 32


@pytest.mark.parametrize("cached", [False, True])
def test_aligned_landmarks_follow_their_image(case, tmp_path, cached):
    _, (fixed, _), files = case
    matrix = np.eye(4)
    matrix[:3, :3] += np.random.default_rng(2).uniform(-0.1, 0.1, size=(3, 3))
    matrix[:3, 3] = (290.0, 20.0, -80.0)
    transform = AffineTransform(matrix)
    moving = fixed @ matrix[:3, :3].T + matrix[:3, 3]
    moving[1] = np.nan
    pair = Pair(*files, None, None, write_points(tmp_path / "f.csv", fixed), write_points(tmp_path / "m.csv", moving))
    for _ in range(2):
        options = {"align": lambda *_: transform, "cache": tmp_path / "cache" if cached else None}
        batch = PairDataset([pair], OPTIONS, seed=None, **options)[0]
        there = np.arange(5) != 1
        np.testing.assert_allclose(batch["moving_landmarks"][0, there], batch["fixed_landmarks"][0, there], atol=1e-3)
        assert np.isnan(batch["moving_landmarks"][0, 1]).all()


def test_a_table_of_pairs_names_landmarks(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("fixed,moving,fixed_landmarks,moving_landmarks\na.png,b.png,a.csv,b.csv\nb.png,a.png,,\n")
    here = [tmp_path / name for name in ("a.png", "b.png", "a.csv", "b.csv")]
    assert read_pairs(table) == [Pair(*here[:2], None, None, *here[2:]), Pair(here[1], here[0])]


def test_what_is_wrong_with_landmarks_is_said_at_the_start(case, tmp_path):
    _, (fixed, moving), files = case
    good = write_points(tmp_path / "good.csv", fixed)
    fewer = write_points(tmp_path / "fewer.csv", moving[:3])
    flat = write_points(tmp_path / "flat.csv", moving[:, :2])
    pairs = [Pair(*files, None, None, good, other) for other in (fewer, flat, tmp_path / "none.csv")]
    with pytest.raises(FileError) as caught:
        PairDataset(pairs, OPTIONS)
    for said in ("5 in", "3 in", "with 2. Add the column", "none.csv', which is not there"):
        assert said in str(caught.value)
    with pytest.raises(InputError, match="Both images of a pair have landmarks"):
        PairDataset([Pair(*files, None, None, good)], OPTIONS)
