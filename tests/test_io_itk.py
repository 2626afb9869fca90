"""ITK's transform files: SimpleITK moves points and resamples through them exactly as we do."""

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from keramorph.errors import FileError, InputError, OptionError
from keramorph.io import itk, to_simpleitk
from keramorph.space import Grid, Image
from keramorph.transforms import (
    AffineTransform,
    CompositeTransform,
    DisplacementTransform,
    Transform,
    read_transform,
    write_transform,
)
from oblique import make_grid, voxels


def make_affine(ndim: int, seed: int = 0) -> AffineTransform:
    random = np.random.default_rng(seed)
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] += random.uniform(-0.15, 0.15, (ndim, ndim))
    matrix[:ndim, ndim] = random.uniform(-4, 4, ndim)
    return AffineTransform(matrix)


def make_field(ndim: int, seed: int = 0, fastest: str = "last", dtype="float64") -> DisplacementTransform:
    grid = make_grid(ndim, seed=seed, fastest=fastest)
    values = np.random.default_rng(seed).uniform(-1, 1, (*grid.shape, ndim))
    return DisplacementTransform(values.astype(dtype), grid)


def points_in(grid: Grid, count: int = 50, margin: float = 0.45) -> np.ndarray:
    """Random points on a grid, and up to nearly half a voxel around it, where ITK does not yet take zero."""
    random = np.random.default_rng(1)
    return grid.to_physical(random.uniform(-margin, np.array(grid.shape) - 1 + margin, (count, grid.ndim)))


def simpleitk_points(path, points: np.ndarray) -> np.ndarray:
    transform = sitk.ReadTransform(str(path))
    return np.array([transform.TransformPoint(p.tolist()) for p in points])


@pytest.mark.parametrize("fastest", ["last", "first"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_simpleitk_moves_points_through_our_composite_as_we_do(tmp_path, ndim, fastest):
    field = make_field(ndim, seed=ndim, fastest=fastest)
    transform = CompositeTransform([field, make_affine(ndim, 1), make_affine(ndim, 2)])
    write_transform(transform, tmp_path / "transform.h5")
    points = points_in(field.grid)
    moved = transform.apply_points(points)
    np.testing.assert_allclose(simpleitk_points(tmp_path / "transform.h5", points), moved, rtol=0, atol=1e-6)
    np.testing.assert_allclose(read_transform(tmp_path / "transform.h5").apply_points(points), moved, rtol=0, atol=1e-9)
    assert np.abs(moved - points).max() > 1, "nothing moved, nothing was tested"


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_order_of_the_steps_is_that_of_simpleitk(tmp_path, ndim):
    first, second = make_affine(ndim, 3), make_affine(ndim, 4)
    write_transform(CompositeTransform([first, second]), tmp_path / "transform.h5")
    points = np.random.default_rng(0).uniform(-50, 50, (9, ndim))
    expected = second.apply_points(first.apply_points(points))
    assert np.abs(first.apply_points(second.apply_points(points)) - expected).max() > 0.1
    np.testing.assert_allclose(simpleitk_points(tmp_path / "transform.h5", points), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".mat"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_affine_files_hold_the_product_of_the_steps(tmp_path, suffix, ndim):
    transform = CompositeTransform([make_affine(ndim, 5), make_affine(ndim, 6)])
    path = tmp_path / f"transform{suffix}"
    write_transform(transform, path)
    points = np.random.default_rng(0).uniform(-50, 50, (9, ndim))
    moved = transform.apply_points(points)
    np.testing.assert_allclose(simpleitk_points(path, points), moved, rtol=0, atol=1e-9)
    again = read_transform(path)
    assert isinstance(again, AffineTransform)
    np.testing.assert_allclose(again.apply_points(points), moved, rtol=0, atol=1e-9)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("fastest", ["last", "first"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_field_images_hold_the_displacement_of_each_point(tmp_path, suffix, ndim, fastest):
    field = make_field(ndim, seed=8, fastest=fastest, dtype="float32")
    path = tmp_path / f"transform{suffix}"
    write_transform(field, path)
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    points = points_in(field.grid, margin=0.0)
    expected = np.array([transform.TransformPoint(p.tolist()) for p in points])
    np.testing.assert_allclose(field.apply_points(points), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(read_transform(path).apply_points(points), expected, rtol=0, atol=1e-6)


def test_nifti_fields_carry_the_header_that_itk_writes(tmp_path):
    field = make_field(3, seed=9, fastest="first", dtype="float32")
    write_transform(field, tmp_path / "field.nii")
    stored = nibabel.load(tmp_path / "field.nii")
    assert stored.shape == (5, 6, 7, 1, 3)
    assert int(stored.header["intent_code"]) == 1007
    np.testing.assert_array_equal(np.asarray(stored.dataobj)[:, :, :, 0], field.displacement)


def test_ras_vectors_are_turned_on_reading(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 6, 7, 1, 3)).astype("float32")
    for code in (1006, 1007):
        image = nibabel.Nifti1Image(values, np.diag([-2.0, -2, 2, 1]))
        image.header["intent_code"] = code
        nibabel.save(image, tmp_path / f"{code}.nii")
    lps, ras = (read_transform(tmp_path / f"{code}.nii") for code in (1007, 1006))
    np.testing.assert_allclose(ras.displacement, lps.displacement * [-1, -1, 1], rtol=1e-6)
    np.testing.assert_allclose(lps.displacement[3, 2, 1], values[1, 2, 3, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "ndim"),
    [
        (sitk.Euler2DTransform, 2), (sitk.Similarity2DTransform, 2), (sitk.Euler3DTransform, 3),
        (sitk.VersorRigid3DTransform, 3), (sitk.Similarity3DTransform, 3), (lambda: sitk.TranslationTransform(3), 3),
        (lambda: sitk.ScaleTransform(3), 3), (lambda: sitk.AffineTransform(2), 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".mat"])
def test_every_linear_transform_of_itk_is_read(tmp_path, make, ndim, suffix):
    transform = make()
    if hasattr(transform, "SetCenter"):
        transform.SetCenter(np.arange(5.0, 5 + ndim).tolist())
    start = np.array(transform.GetParameters())
    transform.SetParameters((start + np.linspace(0.02, 0.1, len(start))).tolist())
    sitk.WriteTransform(transform, str(tmp_path / f"transform{suffix}"))
    points = np.random.default_rng(0).uniform(-100, 100, (9, ndim))
    expected = [transform.TransformPoint(p.tolist()) for p in points]
    ours = read_transform(tmp_path / f"transform{suffix}")
    np.testing.assert_allclose(ours.apply_points(points), expected, rtol=0, atol=1e-9)


def test_nested_composites_of_simpleitk_are_read_in_order(tmp_path):
    first, second, third = (make_affine(3, seed).matrix for seed in (1, 2, 3))
    inner, outer = sitk.CompositeTransform(3), sitk.CompositeTransform(3)
    for composite, matrices in ((inner, (third, second)), (outer, (first,))):
        for matrix in matrices:
            affine = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
            composite.AddTransform(affine)
    whole = sitk.CompositeTransform([inner, outer])
    whole.FlattenTransform()
    sitk.WriteTransform(whole, str(tmp_path / "transform.h5"))
    points = np.random.default_rng(0).uniform(-50, 50, (9, 3))
    ours = read_transform(tmp_path / "transform.h5").apply_points(points)
    np.testing.assert_allclose(ours, simpleitk_points(tmp_path / "transform.h5", points), rtol=0, atol=1e-9)
    expected = third @ second @ first @ np.append(points, np.ones((9, 1)), axis=1).T
    np.testing.assert_allclose(ours, expected[:3].T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("fastest", ["last", "first"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_simpleitk_resamples_through_our_file_as_we_do(tmp_path, ndim, fastest, order):
    field = make_field(ndim, seed=12, fastest=fastest)
    transform = CompositeTransform([field, make_affine(ndim, 13)])
    write_transform(transform, tmp_path / "transform.h5")
    # A moving image on other axes, finer and larger, somewhere around where the fixed grid goes.
    affine = make_grid(ndim, seed=14).affine.copy()
    affine[:ndim, :ndim] *= 0.7
    shape = tuple(range(11, 11 + ndim))
    target = transform.apply_points(field.grid.center)
    affine[:ndim, ndim] += target - Grid(shape, affine).center
    grid = Grid(shape, affine, fastest)
    moving = Image(np.random.default_rng(2).uniform(-50, 50, (*shape, 1)), grid)
    ours = transform.resample(moving, field.grid, order=order, fill_value=-7.0)
    expected = sitk.Resample(
        to_simpleitk(moving),
        to_simpleitk(Image(np.zeros((*field.grid.shape, 1)), field.grid)),
        sitk.ReadTransform(str(tmp_path / "transform.h5")),
        [sitk.sitkNearestNeighbor, sitk.sitkLinear][order],
        -7.0,
    )
    points = field.grid.to_physical(voxels(field.grid.shape))
    expected = np.array([expected[expected.TransformPhysicalPointToIndex(p.tolist())] for p in points])
    np.testing.assert_allclose(ours.array.ravel(), expected, rtol=0, atol=1e-4)
    assert 0.2 < np.mean(expected != -7) <= 1


@pytest.mark.parametrize("fastest", ["last", "first"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_field_in_single_precision_takes_half_the_file_and_moves_points_alike(tmp_path, ndim, fastest):
    grid = make_grid(ndim, seed=3, shape=(40,) * ndim, fastest=fastest)
    field = np.random.default_rng(0).uniform(-2, 2, (*grid.shape, ndim))
    names = {}
    for dtype in (np.float64, np.float32):
        names[dtype] = tmp_path / f"{np.dtype(dtype).name}.h5"
        write_transform(
            CompositeTransform([DisplacementTransform(field.astype(dtype), grid), make_affine(ndim)]), names[dtype]
        )
    sizes = [names[dtype].stat().st_size for dtype in (np.float32, np.float64)]
    assert sizes[0] < 0.7 * sizes[1]
    points = grid.to_physical(np.random.default_rng(1).uniform(1, 38, (50, ndim)))
    single, double = (simpleitk_points(names[dtype], points) for dtype in (np.float32, np.float64))
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-5)


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "transform.h5"
    write_transform(make_affine(3), path)
    before = path.read_bytes()

    def fail(group, name, **_):
        raise OSError("disk full")

    monkeypatch.setattr(h5py.Group, "create_dataset", fail)
    with pytest.raises(FileError, match="cannot write"):
        write_transform(make_affine(3, 1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["transform.h5"]


@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".mat", ".nii.gz", ".mha"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_transform_files_are_refused_quietly(tmp_path, capfd, suffix, kept):
    path = tmp_path / f"transform{suffix}"
    write_transform(make_affine(3) if suffix in (".tfm", ".mat") else make_field(3), path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(FileError, match="Received: path=") as caught:
        read_transform(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_what_is_no_transform_is_refused(tmp_path):
    sitk.WriteImage(sitk.Image([5, 6, 7], sitk.sitkFloat32), str(tmp_path / "image.nii"))
    with pytest.raises(FileError, match="one component per axis"):
        read_transform(tmp_path / "image.nii")
    (tmp_path / "words.tfm").write_text("no transform")
    with pytest.raises(FileError, match="not an ITK transform"):
        read_transform(tmp_path / "words.tfm")
    with pytest.raises(FileError, match="no such file"):
        read_transform(tmp_path / "absent.h5")
    spline = sitk.BSplineTransformInitializer(sitk.Image([20, 20, 20], sitk.sitkUInt8), [4, 4, 4])
    sitk.WriteTransform(spline, str(tmp_path / "spline.h5"))
    with pytest.raises(FileError, match="BSplineTransform"):
        read_transform(tmp_path / "spline.h5")


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    field, affine = make_field(2), make_affine(2)
    for transform, name in (
        (field, "transform.tfm"),
        (affine, "transform.nii.gz"),
        (CompositeTransform([field, affine]), "transform.mha"),
        (affine, "transform.png"),
    ):
        with pytest.raises(OptionError, match="Received: path="):
            write_transform(transform, tmp_path / name)
    with pytest.raises(InputError, match="at least one step"):
        itk.write_steps([], tmp_path / "transform.h5")
    sheared = Grid((5, 6), [[1, 0.2, 0], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(InputError, match="sheared"):
        write_transform(DisplacementTransform(np.zeros((5, 6, 2)), sheared), tmp_path / "transform.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_transform_of_another_kind_is_refused(tmp_path):
    class Other(Transform):
        ndim = 2

        def inverse(self):
            return self

        def _apply(self, points):
            return points

    with pytest.raises(TypeError, match="Received: type=Other"):
        write_transform(Other(), tmp_path / "transform.h5")
