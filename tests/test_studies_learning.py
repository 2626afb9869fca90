"""The study of networks: each pair is left out of what is learned, and what is found lands at the right place."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("benchmarks.studies", reason="The source distribution comes without the benchmarks.")

from benchmarks.studies import learning, pairs
from benchmarks.studies.networks import Clock, draw_pairs
from benchmarks.studies.running import Finished
from benchmarks.studies.scoring import score
from benchmarks.studies.tables import make_tables

SHIFT = 3
"""Voxels along x by which each moving image is ahead of its fixed one."""


def write(path, values, origin):
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((2.0, 2.0))
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def folder(tmp_path):
    """A case of two pairs of bright boxes on an empty ground, each image at a place of its own."""
    case = tmp_path / "boxes"
    case.mkdir()
    entries = []
    for number, height in enumerate((20, 26)):
        entry = {"id": f"pair {number}", "score_labels": [1, 2]}
        for side, ahead, origin in (("fixed", 0, (5.0, -7.0)), ("moving", SHIFT, (100.0, 40.0 + number))):
            values = np.zeros((48, 60), np.float32)
            # The ends of the content stay, what is in it moves: the middles of both are laid on each other.
            values[10 : 10 + height, 6:50] = 1
            values[14 : 10 + height, 15 + ahead : 30 + ahead] = 3
            write(case / f"{side}{number}.nii.gz", values, origin)
            write(case / f"{side}{number}_labels.nii.gz", (values == 3).astype(np.uint8), origin)
            entry |= {side: f"{side}{number}.nii.gz", f"{side}_labels": f"{side}{number}_labels.nii.gz"}
        entries.append(entry)
    (case / "case.json").write_text(json.dumps({"case": "boxes", "pairs": entries}))
    return tmp_path


def answer(displacement, seen, *, code=0):
    """In place of a process that trains: notes the images that it is shown, and finds a displacement."""

    def run(command, threads, limit, *, framework):
        name, folder = command[3:5]
        with np.load(f"{folder}/images.npz") as file:
            seen.append((name, {key: file[key] for key in file.files}))
        found = np.broadcast_to(np.float32(displacement), (*seen[-1][1]["fixed"].shape, 2))
        np.save(f"{folder}/displacement.npy", found)
        return Finished(code, '{"seconds": 0.5, "steps": 7}\n', "it broke", 1.0, None)

    return run


def measure(folder, programs, most=None):
    chosen = pairs.read_pairs(folder, ["boxes"], most)
    return list(learning.measure("python", 1, chosen, programs, 10.0, lambda *_: None))


def test_a_pair_is_left_out_and_what_is_found_is_scored_where_the_images_lie(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(learning, "run", answer((0, SHIFT), seen))
    rows = measure(folder, ["voxelmorph"])
    assert [(row["pair"], row["steps"], row["seconds"]) for row in rows] == [("pair 0", 7, 0.5), ("pair 1", 7, 0.5)]
    # All voxels of the label are found again, at coordinates that are 95 mm and more apart.
    assert [row["dice"] for row in rows] == [1.0, 1.0]
    assert [row["folds_percent"] for row in rows] == [0.0, 0.0]
    images = [shown for _, shown in seen]
    for first, other in (images, images[::-1]):
        assert len(first["learning"]) == 2
        for side in ("fixed", "moving"):
            assert any(np.array_equal(other[side], image) for image in first["learning"])
            assert not any(np.array_equal(first[side], image) for image in first["learning"])
        assert all(size % 16 == 0 for size in first["fixed"].shape)


def test_the_displacement_is_from_fixed_to_moving_points(folder, monkeypatch):
    monkeypatch.setattr(learning, "run", answer((0, 0), []))
    (still,) = measure(folder, ["voxelmorph"], most=1)
    (pair,) = pairs.read_pairs(folder, ["boxes"], 1)
    # Content on content, nothing bent, is this shift of the whole.
    assert still["dice"] == score(pair.folder, pair.entry, sitk.TranslationTransform(2, (95.0, 47.0)))["dice"] < 0.9


def test_images_of_one_grid_stay_where_they_lie_on_it(folder, monkeypatch):
    """Their contents begin at other places: on their middles they would be moved."""
    for path in folder.glob("boxes/moving*.nii.gz"):
        image = sitk.ReadImage(str(path))
        image.SetOrigin((5.0, -7.0))
        sitk.WriteImage(sitk.CyclicShift(image, (7, 3)), str(path))
    monkeypatch.setattr(learning, "run", answer((0, 0), []))
    (still,) = measure(folder, ["voxelmorph"], most=1)
    (pair,) = pairs.read_pairs(folder, ["boxes"], 1)
    assert still["dice"] == score(pair.folder, pair.entry, sitk.TranslationTransform(2))["dice"] > 0.1


def test_a_training_that_fails_costs_its_rows_alone_and_the_table_has_a_column_for_each_pair(folder, monkeypatch):
    monkeypatch.setattr(learning, "run", answer((0, SHIFT), []))
    rows = measure(folder, ["keramorph"])
    monkeypatch.setattr(learning, "run", answer((0, 0), [], code=1))
    rows += measure(folder, ["voxelmorph"], most=1)
    assert rows[-1]["failed"] == "it broke"
    (table,) = make_tables("learning", rows)
    assert table.head[:4] == ("program", "pair 0", "pair 1", "mean")
    assert table.lines[0][:5] == ("keramorph", "1.000", "1.000", "1.000", "0.000")
    assert table.lines[1][:4] == ("voxelmorph", "", "", "")
    assert table.notes == ["voxelmorph, pair 0: it broke"]


def test_everybody_is_shown_the_same_pairs_of_unlike_images():
    images = np.arange(5.0)[:, None, None] * np.ones((5, 2, 3))
    drawn = [next(batches) for batches in [draw_pairs(images)] * 50]
    first, second = (np.concatenate([batch[side][:, 0, 0] for batch in drawn]) for side in (0, 1))
    assert (first != second).all()
    assert set(first) == set(second) == set(range(5))
    again = [next(batches) for batches in [draw_pairs(images)] * 50]
    np.testing.assert_array_equal(drawn, again)


def test_the_clock_counts_from_the_first_look_and_the_rate_falls_to_nothing(monkeypatch):
    now = iter([100.0, 100.0, 105.0, 110.0, 110.0])
    monkeypatch.setattr("benchmarks.studies.networks.time.process_time", lambda: next(now))
    clock = Clock(10.0)
    assert not clock.is_over()
    assert clock.choose_rate() == pytest.approx(1e-3)
    assert clock.choose_rate() == pytest.approx(5e-4)
    assert clock.choose_rate() == pytest.approx(0.0)
    assert clock.is_over()
