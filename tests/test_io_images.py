"""Images in and out: every format and orientation keeps every voxel's value, type and place."""

import itertools
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from keramorph.io import from_simpleitk, read_image, to_simpleitk, write_image
from keramorph.space import Grid, Image
from oblique import SHAPES, make_grid, make_permuted, voxels

PHYSICAL = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
DTYPES = ("uint8", "int16", "uint16", "int32", "int64", "float32", "float64")


def random_values(shape, dtype="int16", seed=0):
    return (np.random.default_rng(seed).integers(0, 120, shape)).astype(dtype)


def at_points(image: Image, points: np.ndarray) -> np.ndarray:
    """Value of the voxel that lies at each physical point; fails where none does."""
    index = image.grid.to_index(points)
    np.testing.assert_allclose(index, np.rint(index), rtol=0, atol=1e-3)
    return image.array[tuple(np.rint(index).astype(int).T)]


def simpleitk_at(image: sitk.Image, points: np.ndarray) -> np.ndarray:
    return np.array([image[image.TransformPhysicalPointToIndex(p.tolist())] for p in points])


@pytest.mark.parametrize("suffix", PHYSICAL)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_voxel_is_where_simpleitk_finds_it_in_the_file(tmp_path, suffix, ndim, channels):
    grid = make_grid(ndim, seed=ndim + channels)
    image = Image(random_values((*grid.shape, channels)), grid)
    path = tmp_path / f"image{suffix}"
    write_image(image, path)
    points = grid.to_physical(voxels(grid.shape))
    expected = image.array.reshape(-1, channels)
    stored = simpleitk_at(sitk.ReadImage(str(path)), points)
    np.testing.assert_array_equal(stored.reshape(-1, channels), expected)
    again = read_image(path)
    assert again.array.dtype == np.int16
    np.testing.assert_array_equal(at_points(again, points), expected)
    assert again.grid.shape == grid.shape, "the array order of SimpleITK is kept"
    np.testing.assert_allclose(again.grid.affine, grid.affine, rtol=0, atol=2e-5)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_permuted_and_flipped_axes_survive_a_file(tmp_path, order, signs):
    grid = make_permuted(3, order, signs)
    image = Image(random_values((*grid.shape, 1), "float32"), grid)
    write_image(image, tmp_path / "image.nii")
    again = read_image(tmp_path / "image.nii")
    np.testing.assert_array_equal(again.array, image.array)
    np.testing.assert_allclose(again.grid.affine, grid.affine, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_nibabel_order_is_written_as_nibabel_would_have_it(tmp_path, ndim):
    grid = make_grid(ndim, seed=7, fastest="first")
    image = Image(random_values((*grid.shape, 1)), grid)
    write_image(image, tmp_path / "image.nii.gz")
    stored = nibabel.load(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(np.asarray(stored.dataobj), image.array[..., 0])
    points = grid.to_physical(voxels(grid.shape))
    np.testing.assert_array_equal(at_points(read_image(tmp_path / "image.nii.gz"), points), image.array.reshape(-1, 1))


@pytest.mark.parametrize("seed", range(4))
def test_nibabel_and_simpleitk_agree_on_every_point_of_a_file(tmp_path, seed):
    affine = np.eye(4)
    affine[:3] = make_grid(3, seed=seed).affine[:3]
    nibabel.save(nibabel.Nifti1Image(random_values((5, 6, 7), seed=seed), affine), tmp_path / "image.nii")
    ours = read_image(nibabel.load(tmp_path / "image.nii"))
    assert ours.array.shape == (5, 6, 7, 1)
    points = ours.grid.to_physical(voxels((5, 6, 7)))
    np.testing.assert_array_equal(at_points(read_image(tmp_path / "image.nii"), points), ours.array.reshape(-1, 1))


@pytest.mark.parametrize(
    "shape", [(5, 6), (5, 6, 1), (5, 6, 7, 1), (5, 6, 7, 1, 1)], ids=["2-D", "one slice", "4-D", "5-D"]
)
def test_size_one_axes_of_nibabel_images_read_like_their_files(tmp_path, shape):
    image = nibabel.Nifti1Image(random_values(shape), np.diag([2.0, 3.0, 4.0, 1.0]))
    nibabel.save(image, tmp_path / "image.nii")
    ours, file = read_image(image), read_image(tmp_path / "image.nii")
    assert ours.array.shape[:-1] == file.array.shape[-2::-1]
    points = ours.grid.to_physical(voxels(ours.grid.shape))
    np.testing.assert_array_equal(at_points(file, points), ours.array.reshape(-1, 1))


@pytest.mark.parametrize("unit", ["micron", "meter"])
def test_nibabel_units_become_millimetres_as_in_simpleitk(tmp_path, unit):
    affine = np.array([[2.0, 0, 0, 9], [0, 3, 0, 8], [0, 0, 4, 7], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(random_values((5, 6, 7)), affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "image.nii")
    file = read_image(tmp_path / "image.nii").grid
    np.testing.assert_allclose(read_image(image).grid.to_physical([1, 2, 3]), file.to_physical([3, 2, 1]), rtol=1e-5)


def test_nibabel_image_without_orientation_lies_where_simpleitk_puts_it(tmp_path):
    image = nibabel.Nifti1Image(random_values((5, 6, 7)), None)
    image.header.set_zooms((2, 3, 4))
    nibabel.save(image, tmp_path / "image.nii")
    file = read_image(tmp_path / "image.nii").grid
    loaded = read_image(nibabel.load(tmp_path / "image.nii")).grid
    np.testing.assert_allclose(loaded.to_physical([1, 2, 3]), file.to_physical([3, 2, 1]), rtol=1e-6)


def test_nibabel_colours_become_channels():
    colours = np.zeros((5, 6, 7), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["G"] = 9
    image = read_image(nibabel.Nifti1Image(colours, np.eye(4)))
    assert image.array.shape == (5, 6, 7, 3)
    assert image.array[0, 0, 0].tolist() == [0, 9, 0]


def test_scaled_nifti_values_are_the_scaled_ones(tmp_path):
    image = nibabel.Nifti1Image(np.arange(210, dtype="int16").reshape(5, 6, 7), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "image.nii")
    expected = nibabel.load(tmp_path / "image.nii").get_fdata()[1, 2, 3]
    assert read_image(tmp_path / "image.nii").array[3, 2, 1, 0] == pytest.approx(expected)
    assert read_image(nibabel.load(tmp_path / "image.nii")).array[1, 2, 3, 0] == pytest.approx(expected)


@pytest.mark.parametrize("fastest", ["last", "first"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_simpleitk_images_and_ours_hold_the_same_voxels(ndim, fastest):
    grid = make_grid(ndim, seed=11, fastest=fastest)
    image = Image(random_values((*grid.shape, 2), "float64"), grid)
    content = to_simpleitk(image)
    points = grid.to_physical(voxels(grid.shape))
    np.testing.assert_array_equal(simpleitk_at(content, points), image.array.reshape(-1, 2))
    np.testing.assert_array_equal(at_points(from_simpleitk(content), points), image.array.reshape(-1, 2))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".tif"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_data_types_come_back(tmp_path, suffix, dtype):
    image = Image(random_values((5, 6, 7, 1), dtype), Grid.from_spacing((5, 6, 7)))
    write_image(image, tmp_path / f"image{suffix}")
    again = read_image(tmp_path / f"image{suffix}").array
    narrow = {"int64": "int32", "float64": "float32"}
    assert again.dtype == (narrow.get(dtype, dtype) if suffix == ".tif" else dtype)
    np.testing.assert_array_equal(again, image.array)


@pytest.mark.parametrize(("dtype", "stored"), [("bool", "uint8"), ("float16", "float32"), (">i2", "int16")])
def test_data_types_that_itk_lacks_are_written_in_the_next_one(tmp_path, dtype, stored):
    image = Image((np.arange(30).reshape(5, 6, 1) % 2).astype(dtype), Grid.from_spacing((5, 6)))
    write_image(image, tmp_path / "image.nrrd")
    again = read_image(tmp_path / "image.nrrd").array
    assert again.dtype == stored
    np.testing.assert_array_equal(again, image.array)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
def test_colour_pictures_keep_their_three_channels(tmp_path, suffix):
    image = Image(random_values((60, 70, 3), "uint8"), Grid.from_spacing((60, 70)))
    write_image(image, tmp_path / f"picture{suffix}")
    again = read_image(tmp_path / f"picture{suffix}")
    np.testing.assert_array_equal(again.array, image.array)
    np.testing.assert_array_equal(read_image(sitk.ReadImage(str(tmp_path / f"picture{suffix}"))).array, image.array)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_keeps_size_and_nearly_the_values(tmp_path, suffix):
    smooth = np.add.outer(np.arange(60), np.arange(70))[..., None].astype("uint8")
    write_image(Image(smooth, Grid.from_spacing((60, 70))), tmp_path / f"picture{suffix}")
    again = read_image(tmp_path / f"picture{suffix}")
    assert np.abs(again.array.astype(int) - smooth).max() <= 4


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_transparency_is_dropped(tmp_path, suffix):
    values = random_values((20, 30, 4), "uint8")
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), str(tmp_path / f"picture{suffix}"))
    np.testing.assert_array_equal(read_image(tmp_path / f"picture{suffix}").array, values[..., :3])


def test_pages_of_a_tiff_file_become_a_volume(tmp_path):
    values = random_values((4, 20, 30, 3), "uint8")
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), str(tmp_path / "pages.tif"))
    np.testing.assert_array_equal(read_image(tmp_path / "pages.tif").array, values)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0.4, 0.6, 254.7], "float32", [0, 1, 255]),
        ([-0.4, 100, 255.4], "float32", [0, 100, 255]),
        ([-51.0, 0, 204], "float32", [0, 51, 255]),
        ([0.0, 102, 510], "float64", [0, 51, 255]),
        ([np.nan, 7, np.inf], "float32", [0, 7, 7]),
        ([np.nan, -100, 100], "float32", [0, 0, 255]),
        ([0, 1, 2], "int64", [0, 1, 2]),
        ([False, True, True], "bool", [0, 1, 1]),
        ([-500, -500, -500], "int16", [0, 0, 0]),
    ],
    ids=["rounded", "a little over", "negative", "over", "nan", "nan stretched", "labels", "mask", "constant"],
)
def test_pictures_get_values_by_the_stated_rule(tmp_path, values, dtype, expected):
    array = np.array(values, dtype=dtype).reshape(1, 3, 1)
    write_image(Image(array, Grid.from_spacing((1, 3))), tmp_path / "picture.png")
    again = read_image(tmp_path / "picture.png").array
    assert again.dtype == np.uint8
    assert again.ravel().tolist() == expected


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_png_keeps_sixteen_bits(tmp_path, dtype):
    array = np.array([[0, 1000, 65535]], dtype=dtype)[..., None]
    write_image(Image(array, Grid.from_spacing((1, 3))), tmp_path / "picture.png")
    assert read_image(tmp_path / "picture.png").array.ravel().tolist() == [0, 1000, 65535]


def test_a_volume_of_one_slice_keeps_its_axis(tmp_path):
    image = Image(random_values((1, 5, 6, 1)), make_grid(3, seed=3, shape=(1, 5, 6)))
    write_image(image, tmp_path / "slice.mha")
    assert read_image(tmp_path / "slice.mha").array.shape == (1, 5, 6, 1)


def test_a_fourth_axis_of_size_one_is_dropped(tmp_path):
    content = sitk.Image([7, 6, 5, 1], sitk.sitkFloat32)
    sitk.WriteImage(content, str(tmp_path / "image.mha"))
    assert read_image(tmp_path / "image.mha").array.shape == (5, 6, 7, 1)


def test_paths_arrays_and_images_are_all_sources(tmp_path):
    array = random_values((5, 6, 7))
    image = read_image(array)
    assert read_image(image) is image
    write_image(image, str(tmp_path / "image.mha"))
    assert read_image(str(tmp_path / "image.mha")).grid.matches(image.grid)
    assert image.grid.matches(Grid.from_spacing(SHAPES[3]))
    np.testing.assert_array_equal(read_image(sitk.GetImageFromArray(array)).array, image.array)


def test_an_array_of_three_axes_is_a_volume_even_if_the_last_has_three_entries():
    assert read_image(np.zeros((5, 6, 3))).array.shape == (5, 6, 3, 1)


def test_writing_replaces_a_file_and_leaves_nothing_beside_it(tmp_path):
    for value in (1, 2):
        image = Image(np.full((5, 6, 1), value, "uint8"), Grid.from_spacing((5, 6)))
        write_image(image, tmp_path / "image.mhd")
    assert read_image(tmp_path / "image.mhd").array.max() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.mhd", "image.raw"]


def test_the_warning_display_of_itk_is_left_as_it_was(tmp_path):
    write_image(read_image(random_values((5, 6))), tmp_path / "image.nii")
    for shown in (True, False):
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        read_image(tmp_path / "image.nii")
        assert sitk.ProcessObject.GetGlobalWarningDisplay() is shown
    sitk.ProcessObject.SetGlobalWarningDisplay(True)


def test_importing_io_and_transforms_loads_neither_simpleitk_nor_a_framework():
    code = "import sys, keramorph.io, keramorph.transforms as t; print([m for m in sys.modules if m in %r])"
    heavy = {"SimpleITK", "nibabel", "keras", "torch", "jax", "tensorflow", "matplotlib"}
    done = subprocess.run([sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
