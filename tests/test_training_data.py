"""Pairs from files: on one grid as SimpleITK resamples them, scaled, augmented alike, the same on every run."""

import shutil

import keras
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from keramorph.errors import FileError, InputError, OptionError
from keramorph.preparation import reading
from keramorph.training import Pair, PairDataset, PairOptions, pair_bids, pair_folder, read_pairs
from keramorph.transforms import AffineTransform

LABELS = (3, 7)


def turn(degrees):
    """Direction of an image turned about two axes."""
    a, b = np.deg2rad(degrees), np.deg2rad(degrees / 2)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


def write(path, shape, spacing, *, degrees=0.0, origin=(5.0, -20.0, 90.0), seed=0):
    """Smooth noise between 100 and 1100 in a file, and label maps of its two highest parts in another."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.2)
    values = (100 + 1000 * (noise - noise.min()) / np.ptp(noise)).astype("float32")
    maps = np.select([values > np.quantile(values, 0.8), values > np.quantile(values, 0.5)], [7, 3], 0)
    for place, array in ((path, values), (path.with_name(f"labels_{path.name}"), maps.astype("int16"))):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(turn(degrees).ravel())
        sitk.WriteImage(image, str(place))
    return path


@pytest.fixture
def files(tmp_path):
    """Three images of other sizes, spacings, orientations and places, coarser than the grid."""
    return [
        write(tmp_path / "a.nii.gz", (10, 12, 9), (2.5, 2.1, 3.0), seed=1),
        write(tmp_path / "b.nii.gz", (9, 8, 11), (2.5, 2.5, 2.5), degrees=30, origin=(300.0, 0.0, -7.0), seed=2),
        write(tmp_path / "c.nrrd", (8, 9, 10), (3.0, 2.0, 2.0), degrees=-70, seed=3),
    ]


OPTIONS = PairOptions((14, 12, 13), spacing=(1.9, 1.3, 1.7), labels=LABELS)
"""Spacings for which no voxel lies half-way between two of the straight image: one label is nearer."""


def resample(path, options, interpolator=sitk.sitkLinear, change=lambda values: values):
    """SimpleITK's image on the grid whose middle is that of the file's own field of view."""
    image = sitk.ReadImage(str(path))
    changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    changed.CopyInformation(image)
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    spacing, size = options.spacing[::-1], options.shape[::-1]
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing(spacing)
    grid.SetOrigin([m - s * (n - 1) / 2 for m, s, n in zip(middle, spacing, size, strict=True)])
    return sitk.GetArrayFromImage(sitk.Resample(changed, grid, sitk.Transform(), interpolator, 0.0, sitk.sitkFloat32))


def scale(values):
    low, high = np.percentile(values, [0.5, 99.5])
    return np.clip((values - low) / (high - low), 0, 1).astype("float32")


def label(path):
    return path.with_name(f"labels_{path.name}")


def test_every_image_lies_on_the_grid_as_simpleitk_resamples_it(files):
    pairs = [(a, b, label(a), label(b)) for a, b in ((files[0], files[1]), (files[2], files[0]))]
    batch = PairDataset(pairs, OPTIONS, batch_size=2, seed=None)[0]
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        **dict.fromkeys(("fixed", "moving"), ((2, *OPTIONS.shape, 1), "float32")),
        **dict.fromkeys(("fixed_labels", "moving_labels"), ((2, *OPTIONS.shape, 2), "float32")),
    }
    for row, pair in enumerate(pairs):
        for name, path in zip(("fixed", "moving"), pair, strict=False):
            expected = resample(path, OPTIONS, change=scale)
            assert np.mean(expected > 0) > 0.2
            np.testing.assert_allclose(batch[name][row, ..., 0], expected, atol=2e-5)
            maps = resample(label(path), OPTIONS, sitk.sitkNearestNeighbor)
            for channel, value in enumerate(LABELS):
                np.testing.assert_array_equal(batch[f"{name}_labels"][row, ..., channel], maps == value)


def test_images_finer_than_the_grid_are_smoothed_to_its_resolution(tmp_path):
    path = write(tmp_path / "fine.nii.gz", (30, 24, 36), (1.0, 2.0, 1.5))
    options = PairOptions((8, 12, 12), spacing=(3.0, 4.0, 2.0))
    found = PairDataset([(path, path)], options, seed=None)[0]["fixed"][0, ..., 0]
    widths = np.array([3.0 / 1.5, 4.0 / 2.0, 2.0 / 1.0])  # of the grid's voxels, in voxels of the image
    sigma = np.sqrt(widths**2 - 1) / np.sqrt(8 * np.log(2))
    expected = resample(path, options, change=lambda values: ndimage.gaussian_filter(scale(values), sigma))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_order_and_augmentation_follow_from_seed_and_epoch_alone(files):
    pairs = [(a, b) for a in files for b in files if a != b]
    options = PairOptions((14, 12, 13), spacing=2.0, crop=(6, 7, 8), flip=(0, 2))
    first, second = (PairDataset(pairs, options, batch_size=4, seed=5) for _ in range(2))
    assert len(first) == 2
    assert [len(first[index]["fixed"]) for index in range(2)] == [4, 2]
    later = first[1]["moving"]
    first.on_epoch_end()
    assert not np.array_equal(first[1]["moving"], later)
    second.epoch = 1
    for index in (1, 0):
        for name, array in first[index].items():
            np.testing.assert_array_equal(array, second[index][name])
    assert not np.array_equal(PairDataset(pairs, options, batch_size=4, seed=6)[0]["fixed"], second[0]["fixed"])
    plain = PairDataset(pairs, OPTIONS, batch_size=6)
    orders = []
    for epoch in range(2):
        plain.epoch = epoch
        both = np.concatenate([plain[0]["fixed"], plain[0]["moving"]], axis=-1)
        orders.append([image.tobytes() for image in both])
    assert orders[0] != orders[1]
    assert set(orders[0]) == set(orders[1])
    with pytest.raises(IndexError, match="index=2"):
        first[2]


def test_all_images_of_a_pair_are_cut_and_mirrored_alike(files):
    """Of an image beside itself, with the label map that says where it is bright."""
    path, options = files[1], PairOptions((9, 8, 11), spacing=2.5, labels=LABELS)
    whole = PairDataset([(path, path, label(path), label(path))], options, seed=None)[0]
    cut = PairOptions((9, 8, 11), spacing=2.5, labels=LABELS, crop=(5, 6, 7), flip=(1, 2))
    dataset = PairDataset([(path, path, label(path), label(path))], cut)
    seen = set()
    for epoch in range(12):
        dataset.epoch = epoch
        batch = dataset[0]
        for name in ("fixed", "fixed_labels"):
            np.testing.assert_array_equal(batch[name], batch[name.replace("fixed", "moving")])
        places = [
            (*start, *flips)
            for start in np.ndindex(5, 3, 5)
            for flips in ((), (1,), (2,), (1, 2))
            if all(
                np.array_equal(
                    batch[name][0], np.flip(whole[name][0][tuple(map(slice, start, np.add(start, cut.crop)))], flips)
                )
                for name in ("fixed", "fixed_labels")
            )
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 6


class Same(keras.Model):
    def call(self, inputs):
        return {"moved": inputs["moving"]}


def test_workers_keep_the_order(files):
    pairs = [(a, b) for a in files for b in files if a != b]
    datasets = [PairDataset(pairs, OPTIONS, workers=n) for n in (1, 3)]
    model = Same()
    model(datasets[0][0])
    found = [model.predict(dataset, verbose=0)["moved"] for dataset in datasets]
    assert len(found[0]) == 6
    np.testing.assert_array_equal(*found)


def test_pairs_are_aligned_by_the_registration_of_a_name(tmp_path):
    rows, columns = np.mgrid[:64, :64] - 31.5
    paths = []
    for name, degrees, shift in (("still", 0.0, 0.0), ("moved", 12.0, 5.0)):
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        x, y = cos * (columns - shift) + sin * rows, cos * rows - sin * (columns - shift)
        body = np.exp(-((x / 18) ** 2) - (y / 10) ** 2) * (1.5 + np.sin(x / 3) * np.cos(y / 4))
        paths.append(tmp_path / f"{name}.nii.gz")
        sitk.WriteImage(sitk.GetImageFromArray(body.astype("float32")), str(paths[-1]))

    def measure(align):
        dataset = PairDataset([paths], PairOptions((64, 64)), seed=None, align=align, cache=tmp_path / "cache")
        return np.abs(dataset[0]["fixed"] - dataset[0]["moving"]).mean()

    # Of one cache, which tells them from each other.
    left, rigid, affine = (measure(align) for align in (None, "rigid", "affine"))
    assert rigid < 0.1 * left
    assert affine < 0.1 * left
    assert rigid != affine
    with pytest.raises(OptionError, match=r"rigid, similarity, affine.*Received: align='affin'"):
        measure("affin")


def test_moving_image_and_labels_are_aligned_by_a_function_of_the_pair(files, tmp_path):
    """By a shift of whole voxels, on the grid of the file itself."""
    path = write(tmp_path / "d.nii.gz", (9, 10, 11), (2.0, 2.0, 2.0), seed=4)
    options = PairOptions((9, 10, 11), spacing=2.0, labels=LABELS)
    pairs = [(path, path, label(path), label(path))]
    calls = []

    def shift(fixed, moving):
        calls.append((fixed.grid.shape, moving.grid.shape))
        matrix = np.eye(4)
        matrix[:3, 3] = (2.0, 0.0, -4.0)  # x, y, z
        return AffineTransform(matrix)

    for _ in range(2):
        batch = PairDataset(pairs, options, seed=None, align=shift, cache=tmp_path / "cache")[0]
    for name in ("", "_labels"):
        fixed, moving = batch[f"fixed{name}"][0], batch[f"moving{name}"][0]
        np.testing.assert_allclose(moving[2:, :, :-1], fixed[:-2, :, 1:], atol=1e-5)
        assert not moving[:2].any()
    assert len(calls) == 1  # for the image and its labels together, and not again in the second run

    def fail(fixed, moving):
        raise InputError("no overlap")

    with pytest.raises(InputError, match=r"d\.nii\.gz cannot be aligned with .*a\.nii\.gz: no overlap"):
        PairDataset([(files[0], path)], OPTIONS, align=fail)[0]


def test_what_was_made_of_files_is_kept_on_disk_until_they_change(files, tmp_path, monkeypatch):
    pairs, cache = [(files[0], files[1])], tmp_path / "cache"
    before = PairDataset(pairs, OPTIONS, seed=None, cache=cache)[0]
    kept = sorted(path.name for path in cache.iterdir())
    assert len(kept) == 2
    with monkeypatch.context() as changed:
        changed.setattr(reading, "read_image", lambda path: pytest.fail(f"{path} was read again"))
        again = PairDataset(pairs, OPTIONS, seed=None, cache=cache)[0]
    for name, array in before.items():
        np.testing.assert_array_equal(array, again[name])
    write(files[0], (10, 12, 9), (2.5, 2.1, 3.0), seed=9)
    assert not np.array_equal(PairDataset(pairs, OPTIONS, seed=None, cache=cache)[0]["fixed"], before["fixed"])


def test_pairs_of_a_folder_a_table_and_a_tree(files, tmp_path):
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    (tmp_path / "maps").mkdir()
    for path in files:
        shutil.copy(path, images / path.name)
        shutil.copy(label(path), tmp_path / "maps" / path.name)
    (images / "notes.txt").touch()
    (images / ".hidden.nii").touch()
    found = pair_folder(images, labels=tmp_path / "maps")
    names = [path.name for path in files]
    assert [(p.fixed.name, p.moving.name) for p in found] == [(a, b) for a in names for b in names if a != b]
    assert all(p.fixed_labels == tmp_path / "maps" / p.fixed.name for p in found)
    assert PairDataset(found, OPTIONS)[0]["fixed_labels"].shape[-1] == 2

    table = tmp_path / "pairs.csv"
    table.write_text("\ufeffmoving,age,fixed,fixed_labels,moving_labels\nb.nii.gz,3,a.nii.gz,,\n", encoding="utf-8")
    assert read_pairs(table) == [Pair(files[0], files[1])]

    root = tmp_path / "bids"
    for place in (
        "sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz",
        "sub-2/anat/sub-2_T1w.nii.gz",
        "sub-2/anat/sub-2_T2w.nii.gz",
    ):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[0], root / place)
    assert [p.fixed.name for p in pair_bids(root)] == ["sub-1_ses-2_T1w.nii.gz", "sub-2_T1w.nii.gz"]
    with pytest.raises(FileError, match="suffix='T2w' with 1"):
        pair_bids(root, suffix="T2w")


def test_bad_files_are_all_named_before_training_starts(files, tmp_path):
    (tmp_path / "short.nii.gz").write_bytes(files[0].read_bytes()[:300])
    flat, slices = sitk.Image((8, 8, 8), sitk.sitkUInt8), sitk.GetImageFromArray(np.eye(8, dtype="uint8"))
    sitk.WriteImage(flat, str(tmp_path / "flat.nii.gz"))
    sitk.WriteImage(slices, str(tmp_path / "slice.png"))
    bad = [tmp_path / name for name in ("short.nii.gz", "flat.nii.gz", "slice.png", "gone.nii.gz")]
    with pytest.raises(FileError) as raised:
        PairDataset([(files[0], path) for path in bad], OPTIONS)
    said = str(raised.value)
    for path, what in zip(bad, ("truncated", "contrast", "axes of the common grid, 3", "no such file"), strict=True):
        (line,) = [line for line in said.splitlines() if str(path) in line]
        assert what in line
    with pytest.raises(FileError, match="one channel of whole numbers"):
        PairDataset([(files[0], files[1], label(files[0]), files[1])], OPTIONS)
    with pytest.raises(FileError, match="at least one of the labels"):
        PairDataset([(files[0], files[1], label(files[0]), label(files[1]))], PairOptions((9, 9, 9), labels=(1,)))
    colours = sitk.GetImageFromArray(np.random.default_rng(0).random((9, 9, 9, 3)), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / "colours.nrrd"))
    with pytest.raises(FileError, match=r"as many channels.*1 in .*3 in"):
        PairDataset([(files[0], tmp_path / "colours.nrrd")], OPTIONS)


def test_pairs_and_options_that_cannot_be_are_refused(files, tmp_path):
    maps = label(files[0])
    for pairs in (
        [],
        [(files[0],)],
        ["ab"],
        [(files[0], files[1], maps)],
        [(files[0], files[1]), (files[0], files[1], maps, maps)],
    ):
        with pytest.raises(InputError, match="Received: "):
            PairDataset(pairs, OPTIONS)
    with pytest.raises(OptionError, match=r"options\.labels="):
        PairDataset([(files[0], files[1], maps, maps)], PairOptions((8, 8, 8)))
    with pytest.raises(OptionError, match="batch_size=0"):
        PairDataset([(files[0], files[1])], OPTIONS, batch_size=0)
    for bad in (
        {"shape": (4,)},
        {"spacing": 0.0},
        {"spacing": (1.0, 2.0)},
        {"crop": (9, 4, 4)},
        {"flip": (3,)},
        {"labels": (0, 1)},
    ):
        with pytest.raises(OptionError, match="Received: "):
            PairOptions(**{"shape": (8, 8, 8)} | bad)
    for make in (lambda: pair_folder(tmp_path / "gone"), lambda: pair_folder(tmp_path, labels=tmp_path / "gone")):
        with pytest.raises(FileError, match="no such folder"):
            make()
    (tmp_path / "maps").mkdir()
    with pytest.raises(FileError, match=r"without a\.nii\.gz, b\.nii\.gz, c\.nrrd"):
        pair_folder(tmp_path, labels=tmp_path / "maps")
    table = tmp_path / "pairs.csv"
    with pytest.raises(FileError, match="no such table"):
        read_pairs(table)
    for text, what in (("fixed\na\n", "columns fixed and moving"), ("fixed,moving\na.nii,\n", "line 2")):
        table.write_text(text)
        with pytest.raises(FileError, match=what):
            read_pairs(table)
