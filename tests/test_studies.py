"""The study on real pairs: scores as plain loops and other people's code give them; a bad program costs one row."""

import json
import sys
from argparse import Namespace

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("benchmarks.studies", reason="The source distribution comes without the benchmarks.")

from benchmarks.studies import page, pairs, running, scoring
from benchmarks.studies.__main__ import plan, read_arguments
from benchmarks.studies.drawing import draw
from benchmarks.studies.methods import METHODS
from benchmarks.studies.tables import make_tables

DEMONS = "SimpleITK diffeomorphic demons"


def make_blobs(shape, shift=0.0):
    """A smooth body without symmetry, at a place along the last axis."""
    places = np.indices(shape, dtype=float)
    places[-1] -= shift
    centre = [(size - 1) / 2 for size in shape]
    scaled = [(place - middle) / size for place, middle, size in zip(places, centre, shape, strict=True)]
    body = np.exp(-14 * sum(part**2 for part in scaled))
    return 200 * body * (1 + 0.5 * np.sin(9 * scaled[0]) * np.cos(11 * scaled[-1]))


def write_image(values, path, spacing=None, origin=None, *, colours=False):
    image = sitk.GetImageFromArray(values, isVector=colours)
    if spacing is not None:
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


def write_table(path, head, rows):
    path.write_text("\n".join([",".join(head), *(",".join(map(str, row)) for row in rows)]) + "\n")


@pytest.fixture
def data(tmp_path):
    """Colour pictures with labels and a dense displacement; slices with landmarks; images alone."""
    folder = tmp_path / "data"
    pictures, slices, bare = (folder / name for name in ("pictures", "slices", "bare"))
    for case in (pictures, slices, bare):
        case.mkdir(parents=True)
    tint = np.array([1.0, 0.7, 0.4])
    for side, shift in (("fixed", 0.0), ("moving", 3.0)):
        values = make_blobs((48, 60), shift)
        write_image((values[..., None] * tint).astype(np.uint8), pictures / f"{side}.png", colours=True)
        write_image((values > 60).astype(np.uint8) + (values > 120), pictures / f"{side}_labels.png")
        thin = make_blobs((6, 40, 44), shift)
        write_image(thin.astype(np.float32), slices / f"{side}.mha", (1.5, 1.5, 8.0), (10.0, -20.0, 5.0))
        write_image(values.astype(np.float32), bare / f"{side}.nii.gz", (1.0, 1.0), (0.0, 0.0))
    grid = np.ones((48, 60))
    visible = np.indices(grid.shape)[1] < 50
    dx = np.where(visible, 3.0, np.nan)
    np.savez(pictures / "flow.npz", dx=dx, dy=0 * grid, valid=grid > 0, visible=visible)
    write_table(slices / "fixed.csv", ("x_mm", "y_mm", "z_mm"), [(30, 5, 20), (40, 0, 30)])
    write_table(slices / "moving.csv", ("x_mm", "y_mm", "z_mm"), [(34.5, 5, 20), (44.5, 0, 34)])
    entry = {"id": "one", "fixed": "fixed.png", "moving": "moving.png", "flow": "flow.npz"}
    entry |= {"fixed_labels": "fixed_labels.png", "moving_labels": "moving_labels.png", "score_labels": [1, 2, 9]}
    write_case(pictures, entry, {**entry, "id": "two"})
    entry = {"id": "one", "fixed": "fixed.mha", "moving": "moving.mha"}
    entry |= {f"{side}_landmarks": f"{side}.csv" for side in ("fixed", "moving")}
    write_case(slices, entry)
    write_case(bare, {"id": "one", "fixed": "fixed.nii.gz", "moving": "moving.nii.gz"})
    return folder


def write_case(folder, *entries):
    (folder / "case.json").write_text(json.dumps({"case": folder.name, "pairs": entries}))


def find_pair(data, case):
    (pair,) = pairs.read_pairs(data, [case], 1)
    return pair


def test_pairs_are_those_of_the_named_cases_and_so_many_of_each(data):
    found = [(pair.case, pair.entry["id"]) for pair in pairs.read_pairs(data, None, None)]
    assert found == [("bare", "one"), ("pictures", "one"), ("pictures", "two"), ("slices", "one")]
    assert [pair.case for pair in pairs.read_pairs(data, ["slices", "pictures"], 1)] == ["pictures", "slices"]


def test_the_true_shift_of_a_picture_has_no_error_and_the_identity_has_all_of_it(data):
    pair = find_pair(data, "pictures")
    true = scoring.score(pair.folder, pair.entry, sitk.TranslationTransform(2, (3.0, 0.0)))
    none = scoring.score(pair.folder, pair.entry, sitk.Transform(2, sitk.sitkIdentity))
    assert true["tre_pixels"] == pytest.approx(0, abs=1e-9)
    assert none["tre_pixels"] == pytest.approx(3)
    assert true["folds_percent"] == none["folds_percent"] == 0
    labels = [sitk.GetArrayFromImage(sitk.ReadImage(str(pair.folder / f"{side}_labels.png"))) for side in pairs.SIDES]
    expected = []
    for label in (1, 2):  # 9 is nowhere
        both = sum(a == b == label for a, b in zip(*(values.ravel() for values in labels), strict=True))
        expected.append(2 * both / sum(int((values == label).sum()) for values in labels))
    assert none["dice"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert true["dice"] > 0.99 > none["dice"]


def test_landmarks_in_millimetres_are_moved_by_the_transform(data):
    pair = find_pair(data, "slices")
    found = scoring.score(pair.folder, pair.entry, sitk.TranslationTransform(3, (4.5, 0.0, 0.0)))
    assert found["tre_mm"] == pytest.approx(2.0)  # 0 and 4
    assert found["tre_p90_mm"] == pytest.approx(3.6)


def test_landmarks_in_pixels_heed_the_spacing_of_both_pictures(tmp_path):
    write_image(np.zeros((9, 9), np.float32), tmp_path / "fixed.mha", (0.5, 0.5), (0.0, 0.0))
    write_image(np.zeros((9, 9), np.float32), tmp_path / "moving.mha", (2.0, 1.0), (-2.0, 0.0))
    write_table(tmp_path / "marks.csv", ("fixed_x", "fixed_y", "moving_x", "moving_y"), [(4, 2, 2, 4)])
    entry = {"fixed": "fixed.mha", "moving": "moving.mha", "landmarks": "marks.csv"}
    # (4, 2) is at (2, 1) mm, which is pixel (2, 1) of the other: 3 away.
    found = scoring.score(tmp_path, entry, sitk.Transform(2, sitk.sitkIdentity))
    assert found["tre_pixels"] == pytest.approx(3.0)


def test_of_a_stack_of_masks_the_first_counts_and_without_labels_all_that_is_above_zero(tmp_path):
    first, second = np.zeros((2, 5, 6, 7), np.uint8), np.zeros((2, 5, 6, 7), np.uint8)
    first[0, :2], second[0, :3] = 7, 5
    first[1], second[1] = 1, 0
    for name, stack in (("a", first), ("b", second)):
        image = sitk.JoinSeries([sitk.GetImageFromArray(volume) for volume in stack])
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    write_image(np.zeros((5, 6, 7), np.float32), tmp_path / "image.mha")
    entry = {"fixed": "image.mha", "moving": "image.mha", "fixed_labels": "a.nii.gz", "moving_labels": "b.nii.gz"}
    found = scoring.score(tmp_path, entry, sitk.Transform(3, sitk.sitkIdentity))
    assert found["dice"] == pytest.approx(2 * 2 / (2 + 3))


def test_folds_are_the_share_of_inner_voxels_that_are_turned_inside_out():
    grid = sitk.Image([11, 9], sitk.sitkFloat32)
    grid.SetSpacing((0.5, 2.0))
    field = np.zeros((9, 11, 2))
    field[:, 5, 0] = 3.0  # what lies to the right of it folds: the central difference there is -3 per millimetre
    image = sitk.GetImageFromArray(field, isVector=True)
    image.CopyInformation(grid)
    share = scoring.measure_folds(sitk.DisplacementFieldTransform(image), grid)
    gradient = np.gradient(field[..., 0], 0.5, axis=1)[1:-1, 1:-1]
    assert share == np.mean(1 + gradient <= 0) > 0


def test_a_process_tells_its_output_its_time_and_the_memory_it_held():
    code = "import time; held = bytearray(150_000_000); time.sleep(0.4); print('done')"
    finished = running.run([sys.executable, "-c", code], 1)
    assert (finished.code, finished.output.strip()) == (0, "done")
    assert 0.4 < finished.seconds < 20
    if sys.platform == "linux":
        assert 150 < finished.memory_mb < 400


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("open('/no/such/folder/knee.nii')", "FileNotFoundError: [Errno 2] No such file or directory: 'knee.nii'"),
        ("raise ValueError('1/2 of it, and a/b/c')", "ValueError: 1/2 of it, and a/b/c"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("import time; time.sleep(60)", "no result within 1 s"),
    ],
)
def test_a_process_without_a_result_says_why(code, said):
    assert running.run([sys.executable, "-c", code], 1, limit=1.0).explain() == said


@pytest.mark.skipif(sys.platform == "win32", reason="There are no signals.")
def test_a_crash_is_told_by_its_signal():
    finished = running.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], 1)
    assert finished.explain() == "ended by SIGSEGV"


def test_programs_find_the_shift_of_colour_pictures_and_their_rows_say_so(data, monkeypatch, tmp_path):
    monkeypatch.setattr(pairs, "LIMIT", 120.0)
    told = []
    measured = pairs.measure(
        sys.executable, 1, [find_pair(data, "pictures")], ["keramorph", DEMONS], lambda *what: told.append(what)
    )
    rows = list(measured)
    assert told == [(0, 2, "pictures, one: keramorph"), (1, 2, f"pictures, one: {DEMONS}")]
    for row in rows:
        assert "failed" not in row
        assert row["dice"] > 0.9
        assert 0 < row["seconds_registering"] < row["seconds"]
        assert row["folds_percent"] == 0


def test_a_transform_that_is_none_costs_its_row_alone(data, monkeypatch):
    def run(command, threads, limit):
        pairs.Path(command[-1]).write_text("nothing of the kind")
        return running.Finished(0, 'much chatter\n{"seconds": 1.5}\n', "", 2.0, None)

    monkeypatch.setattr(pairs, "run", run)
    (row,) = pairs.measure(sys.executable, 1, [find_pair(data, "pictures")], [DEMONS], lambda *_: None)
    assert (row["seconds"], row["seconds_registering"]) == (2.0, 1.5)
    assert row["failed"]
    assert str(data) not in row["failed"]


@pytest.mark.parametrize(("code", "kept"), [(0, True), (1, True), (2, False), (None, False)])
def test_a_result_that_is_not_trusted_is_scored_and_flagged_and_a_failure_keeps_its_reason(
    data, monkeypatch, code, kept
):
    def run(command, threads, limit):
        folder = pairs.Path(command[command.index("-o") + 1])
        sitk.WriteTransform(sitk.TranslationTransform(2, (3.0, 0.0)), str(folder / "transform.h5"))
        (folder / "summary.json").write_text('{"metrics": {"seconds_total": 0.5}}')
        return running.Finished(code, "", "the reason", 2.0, None)

    monkeypatch.setattr(pairs, "run", run)
    (row,) = pairs.measure(sys.executable, 1, [find_pair(data, "pictures")], ["keramorph"], lambda *_: None)
    assert row["seconds"] == 2.0
    assert ("dice" in row, "failed" not in row) == (kept, kept)
    assert row.get("flagged", False) == (code == 1)
    if not kept:
        assert row["failed"] == ("the reason" if code else "no result within 2 s")


def test_thin_slices_are_no_trouble_to_the_demons(data):
    folder = data / "slices"
    transform, _ = METHODS["pairs"][DEMONS](folder / "fixed.mha", folder / "moving.mha")
    assert transform.TransformPoint((42.0, 9.0, 25.0)) == pytest.approx((46.5, 9.0, 25.0), abs=1.0)


def make_row(method="keramorph", **figures):
    return {"case": "knees", "pair": "one", "method": method, "folds_percent": 0.0, "seconds": 2.0, **figures}


def test_a_table_has_means_over_what_did_not_fail_and_names_what_did():
    rows = [make_row(dice=0.5), make_row(dice=0.7, pair="two", flagged=True)]
    rows += [{"case": "knees", "pair": "two", "method": DEMONS, "failed": "it crashed", "seconds": 9.0}]
    (table,) = make_tables("pairs", rows)
    assert table.title == "knees, 2 pairs"
    ours, theirs = (dict(zip(table.head, line, strict=True)) for line in table.lines)
    assert (ours["Dice"], ours["seconds"], ours["flagged"], ours["failed"]) == ("0.600", "2.0", "1", "")
    assert (theirs["Dice"], theirs["seconds"], theirs["failed"]) == ("", "", "1")
    assert table.notes == [f"{DEMONS}, two: it crashed"]
    assert "| keramorph | 0.600 |" in table.write()


def test_a_panel_is_drawn_for_each_case_that_has_a_score():
    rows = [make_row(dice=0.5), make_row(DEMONS, tre_mm=2.0) | {"case": "hearts"}, make_row() | {"case": "bare"}]
    figure = draw("pairs", rows)
    assert [axis.get_title() for axis in figure.axes if axis.get_visible()] == ["knees", "hearts"]
    assert draw("pairs", [make_row()]) is None


def test_a_record_renews_its_own_part_of_the_page_alone(tmp_path):
    target = tmp_path / "page.md"
    target.write_text("before\n<!-- measured: begin -->\nstale\n<!-- measured: end -->\nafter\n")
    about = {"date": "today", "cpu": "some", "threads": 1, "python": "3", "versions": {}}
    page.record("pairs", {"machine": about, "rows": [make_row(dice=0.5)]}, tmp_path, target)
    start = {"degrees": 0, "exit": 0, "met": True, "seconds": 1.0, "error_mm": 0.1}
    page.record("robustness", {"machine": about, "rows": [start]}, tmp_path, target)
    text = target.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "stale" not in text
    assert text.index("## Measured: any way round") < text.index("## Measured: real pairs") < text.index("0.500")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pairs"], "--data"),
        (["learning"], "--data"),
        (["pares"], "no study is called 'pares'"),
        (
            ["pairs", "--data", "{data}", "--cases", "knees"],
            "no case is called 'knees'; there is bare, pictures",
        ),
        (["pairs", "--data", "{data}", "--methods", "magic"], "no method is called 'magic'"),
        (["pairs", "--data", "{data}/bare"], "case.json"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(data, capsys, words, said):
    with pytest.raises(SystemExit):
        read_arguments([word.format(data=data) for word in words])
    assert said in capsys.readouterr().err


def test_a_file_that_is_not_there_is_told_before_hours_of_measuring(data, capsys):
    (data / "slices" / "moving.csv").unlink()
    with pytest.raises(SystemExit):
        read_arguments(["pairs", "--data", str(data)])
    assert "moving.csv, which is not there" in capsys.readouterr().err


def test_with_data_all_three_studies_run_and_without_the_two_on_the_template(data):
    assert read_arguments([]).studies == ["recovery", "robustness"]
    arguments = read_arguments(["--data", str(data), "--methods", "keramorph"])
    assert isinstance(arguments, Namespace)
    assert list(plan(arguments, pairs.Path("python"))) == ["recovery", "robustness", "pairs"]
    arguments = read_arguments(["learning", "--data", str(data), "--methods", "voxelmorph"])
    assert list(plan(arguments, pairs.Path("python"))) == ["learning"]
