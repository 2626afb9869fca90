"""What cannot be used: exit code 2, one sentence that says what to do, and nothing left behind."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from keramorph.cli.result_files import choose_suffix, make_plain
from keramorph.space import Grid, Image


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with one good picture and everything that is wrong with files."""
    folder = tmp_path_factory.mktemp("files")
    rows, columns = np.mgrid[:24, :24].astype("float32")
    disc = 200 * np.exp(-((rows - 12) ** 2 / 40 + (columns - 11) ** 2 / 20))
    for name, array in {
        "good.nii.gz": disc,
        "good.png": disc.astype("uint8"),
        "nan.nii.gz": np.full((24, 24), np.nan, "float32"),
        "constant.png": np.full((24, 24), 7, "uint8"),
        "volume.nii.gz": np.stack([disc] * 8),
    }.items():
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / name))
    volume = sitk.ReadImage(str(folder / "volume.nii.gz"))
    sitk.WriteImage(sitk.JoinSeries([volume] * 3), str(folder / "series.nii.gz"))
    content = gzip.decompress((folder / "good.nii.gz").read_bytes())
    (folder / "truncated.nii").write_bytes(content[: len(content) // 2])
    (folder / "truncated.nii.gz").write_bytes((folder / "good.nii.gz").read_bytes()[:-200])
    (folder / "truncated.png").write_bytes((folder / "good.png").read_bytes()[:100])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    (folder / "folder").mkdir()
    return folder


def check_refused(code, out, err, *, says):
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert "Received: " in err
    assert says in err


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.png", "no such file"),
        ("truncated.nii", "truncated"),
        ("truncated.nii.gz", "truncated"),
        ("truncated.png", "damaged"),
        ("empty.png", "empty"),
        ("text.png", "not an image"),
        ("folder", "DICOM"),
        ("nan.nii.gz", "NaN"),
        ("constant.png", "contrast"),
        ("volume.nii.gz", "same number of axes"),
        ("series.nii.gz", "2-D or 3-D"),
    ],
)
def test_unusable_images_are_refused(shell, files, tmp_path, name, says, swapped):
    pair = [files / "good.nii.gz", files / name]
    before = sorted(path.name for path in files.iterdir())
    code, out, err = shell("register", *(pair[::-1] if swapped else pair), "-o", tmp_path / "deep" / "out", "--quiet")
    check_refused(code, out, err, says=says)
    assert not list(tmp_path.iterdir())
    assert sorted(path.name for path in files.iterdir()) == before


@pytest.fixture
def unused(monkeypatch):
    """Makes every registration fail the test: it must not even begin."""
    monkeypatch.setattr("keramorph.registration.register", lambda *_, **__: pytest.fail("work was begun"))


@pytest.mark.usefixtures("unused")
class TestOutput:
    def test_existing_output_is_kept(self, shell, files, tmp_path):
        (tmp_path / "moved.png").write_text("old")
        code, out, err = shell("register", files / "good.png", files / "good.png", "-o", tmp_path)
        check_refused(code, out, err, says="--overwrite")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]

    @pytest.mark.parametrize("words", [[], ["--overwrite"]])
    def test_a_file_is_no_output_folder(self, shell, files, tmp_path, words):
        (tmp_path / "out").write_text("old")
        code, out, err = shell("register", files / "good.png", files / "good.png", "-o", tmp_path / "out", *words)
        check_refused(code, out, err, says=str(tmp_path / "out"))
        assert (tmp_path / "out").read_text() == "old"

    def test_a_place_that_cannot_be_written_is_refused(self, shell, files, tmp_path):
        # Root may write anywhere but under a file.
        (tmp_path / "file").write_text("old")
        code, out, err = shell("register", files / "good.png", files / "good.png", "-o", tmp_path / "file" / "out")
        check_refused(code, out, err, says="can be written")
        assert (tmp_path / "file").read_text() == "old"

    def test_an_input_is_never_replaced(self, shell, files, tmp_path):
        (tmp_path / "moved.png").write_bytes((files / "good.png").read_bytes())
        code, out, err = shell("register", files / "good.png", tmp_path / "moved.png", "-o", tmp_path, "--overwrite")
        check_refused(code, out, err, says="replace an input")
        assert (tmp_path / "moved.png").read_bytes() == (files / "good.png").read_bytes()

    @pytest.mark.parametrize("words", [["--threads", "0"], ["--seed", "-1"], ["--seed", "x"], ["--unknown"]])
    def test_impossible_options_are_refused(self, shell, files, tmp_path, words):
        code, out, err = shell("register", files / "good.png", files / "good.png", "-o", tmp_path / "out", *words)
        assert (code, out) == (2, "")
        assert words[0] in err
        assert not list(tmp_path.iterdir())


@pytest.fixture
def shift(tmp_path):
    path = tmp_path / "shift.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(2, (1.0, 2.0)), str(path))
    return path


@pytest.mark.parametrize(
    ("image", "words", "says"),
    [
        ("good.png", ["--reference", "missing.png"], "no such file"),
        ("missing.png", ["--reference", "good.png"], "no such file"),
        ("truncated.nii.gz", ["--reference", "good.png"], "truncated"),
        ("good.png", [], "--reference"),
        ("good.png", ["--reference", "good.png", "--order", "2"], "--order"),
        ("good.png", ["--reference", "good.png", "--labels", "--order", "1"], "--labels"),
        ("volume.nii.gz", ["--reference", "good.png"], "2-D"),
        ("good.png", ["--reference", "volume.nii.gz"], "2-D"),
        ("missing.csv", [], "not there"),
    ],
)
def test_apply_refuses_what_does_not_fit(shell, files, shift, tmp_path, image, words, says):
    words = [files / word if "." in word else word for word in words]
    code, out, err = shell("apply", shift, files / image, "-o", tmp_path / "out" / "moved.nii.gz", *words)
    check_refused(code, out, err, says=says)
    assert [path.name for path in tmp_path.iterdir()] == ["shift.tfm"]


@pytest.mark.parametrize(
    "content", ["", "a,b\n1,2\n", "x,y\n", "x,y\n1\n", "x,y\n1,nan\n", "x,y\n1,two\n", "x,y,z\n1,2,3"]
)
def test_apply_refuses_points_that_are_none(shell, shift, tmp_path, content):
    (tmp_path / "points.csv").write_text(content)
    code, out, err = shell("apply", shift, tmp_path / "points.csv", "-o", tmp_path / "moved.csv")
    check_refused(code, out, err, says="Received")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["points.csv", "shift.tfm"]


def test_apply_refuses_a_transform_that_is_none(shell, files, tmp_path):
    code, out, err = shell("apply", files / "good.png", files / "good.png", "-o", tmp_path / "moved.png",
                           "--reference", files / "good.png")  # fmt: skip
    check_refused(code, out, err, says="good.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["--overwrite"]])
def test_apply_never_replaces_what_it_reads(shell, files, shift, tmp_path, words):
    image = tmp_path / "image.png"
    image.write_bytes((files / "good.png").read_bytes())
    code, out, err = shell("apply", shift, image, "--reference", image, "-o", image, *words)
    check_refused(code, out, err, says="image.png")
    assert image.read_bytes() == (files / "good.png").read_bytes()


@pytest.mark.parametrize(
    ("fixed", "moving", "dtype", "ndim", "channels", "expected"),
    [
        ("a.png", "b.png", "uint8", 2, 1, ".png"),
        ("a.JPG", "b.jpeg", "uint8", 2, 3, ".png"),
        ("a.png", "b.tif", "uint16", 2, 1, ".png"),
        ("a.png", "b.tif", "float32", 2, 1, ".tif"),
        ("a.png", "b.png", "float64", 2, 1, ".nii.gz"),
        ("a.png", "b.png", "uint8", 2, 2, ".nii.gz"),
        ("a.nii.gz", "b.nrrd", "float32", 3, 1, ".nii.gz"),
        ("a.nrrd", "b.nii", "int16", 3, 1, ".nrrd"),
        ("series", "other", "int16", 3, 1, ".nii.gz"),
        ("series", "b.mha", "int16", 3, 1, ".mha"),
        ("a.tif", "b.tif", "uint8", 3, 1, ".nii.gz"),
        ("a.mhd", "b.mhd", "uint8", 3, 1, ".nii.gz"),
    ],
)
def test_moved_image_keeps_a_format_that_loses_nothing(tmp_path, fixed, moving, dtype, ndim, channels, expected):
    shape = (4, 5, 6)[:ndim]
    moved = Image(np.zeros((*shape, channels), dtype), Grid.from_spacing(shape))
    assert choose_suffix(tmp_path / fixed, tmp_path / moving, moved) == expected


def test_summary_knows_no_nan():
    values = {"a": np.float32(0.5), "b": np.nan, "c": (1, np.inf), "d": np.arange(2), "e": None, "f": True}
    assert make_plain(values) == {"a": 0.5, "b": None, "c": [1, None], "d": [0, 1], "e": None, "f": True}
