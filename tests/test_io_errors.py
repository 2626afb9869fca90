"""Bad input and bad places: one sentence each, and no partial file."""

import gzip
import struct
import tempfile

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from keramorph.errors import ArrayTypeError, FileError, InputError, ShapeError
from keramorph.io import read_image, to_simpleitk, write_image
from keramorph.space import Grid, Image

RANDOM = np.random.default_rng(0)
VOLUME = RANDOM.normal(100, 30, (15, 16, 17)).astype("float32")
PICTURE = RANDOM.integers(0, 255, (60, 70, 3)).astype("uint8")
TRUNCATED = [
    ("volume.nii", False), ("volume.nii.gz", False), ("volume.mha", False), ("volume.mha", True),
    ("volume.nrrd", False), ("volume.nrrd", True), ("volume.tif", False), ("picture.tif", False),
    ("picture.png", False), ("picture.jpg", False), ("picture.bmp", False),
]  # fmt: skip


def make_file(folder, name, *, compressed=False):
    values = sitk.GetImageFromArray(PICTURE, isVector=True) if name.startswith("picture") else None
    path = folder / name
    sitk.WriteImage(values or sitk.GetImageFromArray(VOLUME), str(path), compressed)
    return path


@pytest.mark.parametrize(("name", "compressed"), TRUNCATED)
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused_quietly(tmp_path, capfd, name, compressed, kept):
    path = make_file(tmp_path, name, compressed=compressed)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(FileError, match=name) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "the sentence is all that anybody should see"


@pytest.mark.parametrize(("name", "compressed"), TRUNCATED)
def test_a_whole_file_with_bytes_behind_it_is_read(tmp_path, name, compressed):
    path = make_file(tmp_path, name, compressed=compressed)
    whole = read_image(path)
    if name.endswith(".gz"):
        return
    path.write_bytes(path.read_bytes() + b"\0" * 7)
    np.testing.assert_array_equal(read_image(path).array, whole.array)


@pytest.mark.parametrize("name", ["volume.nii.gz", "volume.mha", "volume.nrrd"])
def test_compressed_data_with_a_flipped_byte_are_refused(tmp_path, name):
    path = make_file(tmp_path, name, compressed=True)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(FileError, match="damaged"):
        read_image(path)


def test_a_whole_gzip_of_a_truncated_image_is_refused(tmp_path):
    content = make_file(tmp_path, "volume.nii").read_bytes()
    with gzip.open(tmp_path / "short.nii.gz", "wb") as stream:
        stream.write(content[: len(content) // 2])
    with pytest.raises(FileError, match="truncated"):
        read_image(tmp_path / "short.nii.gz")


def test_gzip_in_several_members_is_read(tmp_path):
    content = make_file(tmp_path, "volume.nii").read_bytes()
    path = tmp_path / "members.nii.gz"
    path.write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:]))
    np.testing.assert_array_equal(read_image(path).array[..., 0], VOLUME)


def test_big_endian_nifti_is_measured_rightly(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">f4")
    path = tmp_path / "big.nii"
    nibabel.Nifti1Image(VOLUME, np.eye(4), header).to_filename(path)
    np.testing.assert_array_equal(read_image(path).array[..., 0], VOLUME.T)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FileError, match="truncated"):
        read_image(path)


def test_a_header_that_makes_no_sense_is_damage(tmp_path):
    content = bytearray(make_file(tmp_path, "picture.tif").read_bytes())
    place = struct.unpack("<I", content[4:8])[0]
    content[place : place + 2] = b"\xff\xff"
    (tmp_path / "bad.tif").write_bytes(content)
    with pytest.raises(FileError):
        read_image(tmp_path / "bad.tif")


@pytest.mark.parametrize("name", ["text.nii", "text.png", "text.xyz", "text"])
def test_a_file_that_is_no_image_is_refused(tmp_path, name):
    (tmp_path / name).write_text("These are words, not voxels.")
    with pytest.raises(FileError, match="not an image of a known format"):
        read_image(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileError, match=r"no such file.*absent\.nii"):
        read_image(tmp_path / "absent.nii")


def test_several_volumes_in_a_file_are_refused(tmp_path):
    sitk.WriteImage(sitk.Image([7, 6, 5, 3], sitk.sitkFloat32), str(tmp_path / "series.nii"))
    with pytest.raises(FileError, match="Pick one volume"):
        read_image(tmp_path / "series.nii")
    with pytest.raises(InputError, match="Pick one volume"):
        read_image(sitk.Image([7, 6, 5, 3], sitk.sitkFloat32))
    with pytest.raises(InputError, match="Pick one volume"):
        read_image(nibabel.Nifti1Image(np.zeros((5, 6, 7, 3), "float32"), np.eye(4)))


@pytest.mark.parametrize(
    "affine",
    [
        [[1, 0.3, 0, 5], [0, 1, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1]],
        [[1, 1, 0, 5], [0, 0, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1]],
    ],
    ids=["sheared", "flat"],
)
def test_an_orientation_that_itk_cannot_use_is_refused(tmp_path, affine):
    image = nibabel.Nifti1Image(VOLUME, np.eye(4))
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    for row, name in zip(affine, ("srow_x", "srow_y", "srow_z"), strict=False):
        image.header[name] = row
    content = image.header.binaryblock + b"\0" * 4 + VOLUME.tobytes()
    (tmp_path / "image.nii").write_bytes(content)
    with pytest.raises(FileError, match="orientation"):
        read_image(tmp_path / "image.nii")


@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_an_image_without_a_finite_value_is_refused(tmp_path, fill):
    values = np.full((5, 6, 7), fill, "float32")
    image = sitk.GetImageFromArray(values)
    files = [tmp_path / name for name in ("image.nii", "image.nii.gz", "image.mha", "image.nrrd")]
    for path in files:
        sitk.WriteImage(image, str(path))
    for source in (*files, values, image):
        with pytest.raises(InputError, match="at least one finite value"):
            read_image(source)
    values[0, 0, 0] = 1
    read_image(values)


def test_complex_values_are_refused(tmp_path):
    values = np.zeros((5, 6, 7), "complex64")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "image.nii")
    with pytest.raises(FileError, match="real numbers"):
        read_image(tmp_path / "image.nii")
    with pytest.raises(ArrayTypeError, match="real numbers"):
        read_image(values)
    with pytest.raises(ArrayTypeError, match="real numbers"):
        to_simpleitk(Image(values[..., None], Grid.from_spacing((5, 6, 7))))


@pytest.mark.parametrize("source", [None, 3, [[1, 2], [3, 4]], {"a": 1}, object()])
def test_an_object_of_another_kind_is_refused(source):
    with pytest.raises(InputError, match="Received: type="):
        read_image(source)


@pytest.mark.parametrize("shape", [(5,), (5, 6, 7, 2), (0, 6), (5, 0, 7)])
def test_arrays_need_two_or_three_axes_and_voxels(shape):
    with pytest.raises(ShapeError, match=r"Received: shape="):
        read_image(np.zeros(shape))


def test_a_sheared_grid_is_not_written(tmp_path):
    image = Image(np.zeros((5, 6, 1)), Grid((5, 6), [[1, 0.2, 0], [0, 1, 0], [0, 0, 1]]))
    with pytest.raises(InputError, match="sheared"):
        write_image(image, tmp_path / "image.nii")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["image", "image.gz", "image.xyz", "image.nii.bz2"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    with pytest.raises(FileError, match=r"must end in one of \.nii\.gz"):
        write_image(read_image(VOLUME), tmp_path / name)


def test_a_volume_is_no_picture(tmp_path):
    for shape in ((5, 6, 7, 1), (5, 6, 2)):
        with pytest.raises(FileError, match="2-D pictures of 1 or 3 channels"):
            write_image(Image(np.zeros(shape), Grid.from_spacing(shape[:-1])), tmp_path / "image.png")


def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    image = Image(np.full((5, 6, 1), 2**40), Grid.from_spacing((5, 6)))
    with pytest.raises(FileError, match="32 bits"):
        write_image(image, tmp_path / "image.tif")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_and_a_folder_in_the_way_are_refused(tmp_path):
    image = read_image(VOLUME)
    with pytest.raises(FileError, match="folder of an output file must exist"):
        write_image(image, tmp_path / "absent" / "image.nii")
    (tmp_path / "image.nii").mkdir()
    with pytest.raises(FileError, match="a folder"):
        write_image(image, tmp_path / "image.nii")


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(FileError, match=r"cannot be written: Permission denied\. Received: path="):
        write_image(read_image(VOLUME), tmp_path / "image.nii")


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "image.nii"
    write_image(read_image(VOLUME), path)
    before = path.read_bytes()

    def fail(image, name):
        with open(name, "wb") as stream:
            stream.write(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(FileError, match="cannot write"):
        write_image(read_image(VOLUME + 1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["image.nii"]
