"""DICOM folders: one series is one volume, anything else gets a sentence."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from keramorph.errors import FileError
from keramorph.io import read_image

SPACING = (1.5, 2.0)
AXIAL = np.eye(3)
OBLIQUE = Rotation.from_euler("xyz", [0.3, -0.2, 0.5]).as_matrix()
SAGITTAL = np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]).T @ np.diag([1, 1, 1.0])


def slice_values(number: int) -> np.ndarray:
    return np.arange(42, dtype="int16").reshape(6, 7) + 100 * number


def write_series(folder: Path, distances, *, axes=AXIAL, series="1.2.3.4", name="T1", reverse=False):
    """Slices at these distances along the third axis; the file names say nothing about their order."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, distance in enumerate(distances):
        image = sitk.GetImageFromArray(slice_values(number)[None])
        image.SetSpacing((*SPACING, 1.0))
        position = axes @ np.array([10.0, 20.0, distance])
        tags = {
            "0008|0018": f"{series}.{number + 1}", "0008|0060": "MR", "0008|103e": name, "0020|000d": "1.2.3",
            "0020|000e": series, "0020|0013": str(number),
            "0020|0032": "\\".join(f"{x:.8f}" for x in position),
            "0020|0037": "\\".join(f"{x:.8f}" for x in (*axes[:, 0], *axes[:, 1])),
        }  # fmt: skip
        for key, value in tags.items():
            image.SetMetaData(key, value)
        label = len(distances) - number if reverse else number
        writer.SetFileName(str(folder / f"{series}-{label:03d}.dcm"))
        writer.Execute(image)


@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE, SAGITTAL], ids=["axial", "oblique", "sagittal"])
def test_a_series_is_a_volume_with_each_slice_in_its_place(tmp_path, axes):
    if np.linalg.det(axes) < 0:
        axes = axes @ np.diag([1, 1, -1])
    write_series(tmp_path / "series", [0.0, 2.5, 5.0, 7.5], axes=axes, reverse=True)
    image = read_image(tmp_path / "series")
    assert image.array.shape == (4, 6, 7, 1)
    assert image.array.dtype == np.int16
    for number, row, column in ((0, 0, 0), (1, 2, 3), (3, 5, 6)):
        point = axes @ np.array([10 + 1.5 * column, 20 + 2.0 * row, 2.5 * number])
        index = image.grid.to_index(point)
        np.testing.assert_allclose(index, np.rint(index), rtol=0, atol=1e-4)
        assert image.array[tuple(np.rint(index).astype(int))][0] == slice_values(number)[row, column]


def test_one_file_of_a_series_is_a_volume_of_one_slice(tmp_path):
    write_series(tmp_path / "series", [0.0, 2.5])
    assert read_image(tmp_path / "series" / "1.2.3.4-000.dcm").array.shape == (1, 6, 7, 1)


def test_a_folder_of_one_slice_is_a_volume_of_one_slice(tmp_path):
    write_series(tmp_path / "series", [5.0])
    assert read_image(str(tmp_path / "series")).array.shape == (1, 6, 7, 1)


def test_two_series_in_a_folder_are_named(tmp_path):
    write_series(tmp_path / "both", [0.0, 2.5], name="T1")
    write_series(tmp_path / "both", [0.0, 2.5, 5.0], name="FLAIR", series="1.2.3.5")
    with pytest.raises(FileError, match=r"T1 \(1\.2\.3\.4, 2 files\); FLAIR \(1\.2\.3\.5, 3 files\)"):
        read_image(tmp_path / "both")


@pytest.mark.parametrize("distances", [[0.0, 2.5, 7.5, 10.0], [0.0, 0.0, 2.5]], ids=["missing", "twice"])
def test_missing_and_doubled_slices_are_refused(tmp_path, distances):
    write_series(tmp_path / "series", distances)
    with pytest.raises(FileError, match="evenly spaced"):
        read_image(tmp_path / "series")


def test_slices_a_hundredth_of_a_millimetre_off_are_read(tmp_path):
    write_series(tmp_path / "series", [0.0, 2.51, 5.0, 7.5])
    assert read_image(tmp_path / "series").grid.spacing[0] == pytest.approx(2.5, abs=0.01)


def test_a_folder_without_dicom_files_is_refused_quietly(tmp_path, capfd):
    (tmp_path / "note.txt").write_text("no image")
    with pytest.raises(FileError, match="which has none"):
        read_image(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_slice_is_refused(tmp_path):
    write_series(tmp_path / "series", [0.0, 2.5, 5.0])
    path = tmp_path / "series" / "1.2.3.4-001.dcm"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FileError):
        read_image(tmp_path / "series")
