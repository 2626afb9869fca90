"""The commands from the shell's side: what they write, print and exit with."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from keramorph import registration
from keramorph.cli import app, command, main
from keramorph.cli.config_file import format_config
from keramorph.cli.register import Algorithm, Channels, Metric, Preset, Transform
from keramorph.errors import OptionError
from keramorph.io import from_simpleitk
from keramorph.report import scores
from keramorph.solver import Config, Outcome, Progress, config

HEAVY = ("numpy", "scipy", "matplotlib", "SimpleITK", "keras", "tensorflow", "torch", "jax")


def see(points):
    """Intensities 0 to 250 of one anatomy at physical points `(..., ndim)`: a textured blob about the origin."""
    texture = sum(np.sin(points[..., axis] / (2.0 + axis)) for axis in range(points.shape[-1]))
    return np.rint(160 * np.exp(-(points**2).sum(axis=-1) / 36) * (1.2 + 0.15 * texture)).astype(np.uint8)


def write(path, size, *, shift=0.0, spacing=None, direction=None):
    """Write an image about the origin that sees the anatomy where bent and shifted points read it."""
    ndim = len(size)
    image = sitk.Image(size, sitk.sitkUInt8)
    image.SetSpacing(spacing or [1.0] * ndim)
    image.SetDirection(direction or np.eye(ndim).ravel().tolist())
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size])
    image.SetOrigin([-value for value in middle])
    grid = from_simpleitk(image).grid
    points = grid.to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))
    seen = sitk.GetImageFromArray(see(points + shift * (1 + 0.3 * np.sin(points[..., ::-1] / 6))))
    seen.CopyInformation(image)
    sitk.WriteImage(seen, str(path))
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return write(folder / "fixed.png", [36, 40]), write(folder / "moving.jpg", [40, 38], shift=1.5)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    turned = (0, -1, 0, 1, 0, 0, 0, 0, 1)
    return (
        write(folder / "fixed.nii.gz", [20, 18, 12], spacing=(1.5, 1.8, 2.5)),
        write(folder / "moving.mha", [18, 20, 12], shift=1.5, spacing=(1.6, 1.5, 2.5), direction=turned),
    )


@pytest.fixture(scope="module", params=["pictures", "volumes"])
def done(request, tmp_path_factory):
    """A registration from the shell, once per kind of image: inputs and output folder."""
    fixed, moving = request.getfixturevalue(request.param)
    output = tmp_path_factory.mktemp("done") / "out"
    with pytest.raises(SystemExit) as end:
        app(["register", str(fixed), str(moving), "-o", str(output), "--quiet", "--seed", "3", "--threads", "1"])
    assert not end.value.code
    return fixed, moving, output


@pytest.fixture(scope="module")
def known(pictures):
    """Result of the pictures' registration."""
    return registration.register(*pictures)


@pytest.fixture
def at_once(known, monkeypatch):
    """Lets the command have its result at once, where the test is not about finding it."""
    monkeypatch.setattr(registration, "register", lambda *_, **__: known)


def moved_path(output):
    (path,) = output.glob("moved.*")
    return path


def test_every_file_is_written_and_nothing_else(done):
    fixed, _, output = done
    suffix = ".png" if fixed.suffix == ".png" else ".nii.gz"
    expected = {f"moved{suffix}", "transform.h5", "inverse.h5", "summary.json", "report.png"}
    assert {path.name for path in output.iterdir()} == expected
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_summary_tells_what_was_done(done):
    fixed, moving, output = done
    summary = json.loads((output / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["inputs"]["fixed"]["path"] == str(fixed)
    assert summary["inputs"]["moving"]["shape"] == list(sitk.GetArrayFromImage(sitk.ReadImage(str(moving))).shape)
    assert summary["outcome"] == {"status": "done", "reason": ""}
    assert summary["config"]["seed"] == 3
    assert summary["threads"] == 1
    assert summary["metrics"]["folds_percent"] == 0
    assert summary["seconds"]["register"] > 0
    assert summary["versions"]["SimpleITK"] == sitk.Version_VersionString().split("-")[0] or summary["versions"]
    assert sorted(summary["files"]) == sorted(path.name for path in output.iterdir())


def test_transform_read_by_simpleitk_gives_the_moved_image(done):
    fixed, moving, output = done
    fixed, moving = sitk.ReadImage(str(fixed)), sitk.ReadImage(str(moving))
    transform = sitk.ReadTransform(str(output / "transform.h5"))
    expected = sitk.GetArrayFromImage(sitk.Resample(sitk.Cast(moving, sitk.sitkFloat64), fixed, transform))
    moved = sitk.GetArrayFromImage(sitk.ReadImage(str(moved_path(output))))
    assert moved.dtype == np.uint8
    # Rounding alone takes half a grey level; the half-voxel rim belongs to the image or not by the last bit.
    assert (np.abs(moved - expected) > 0.5 + 1e-3).mean() < 0.002


def test_moved_image_lies_nearer_to_the_fixed_one(done):
    fixed, moving, output = done
    fixed = sitk.ReadImage(str(fixed))
    before = sitk.GetArrayFromImage(sitk.Resample(sitk.ReadImage(str(moving)), fixed)).astype(float)
    moved = sitk.GetArrayFromImage(sitk.ReadImage(str(moved_path(output)))).astype(float)
    target = sitk.GetArrayFromImage(fixed).astype(float)
    assert np.abs(moved - target).mean() < 0.35 * np.abs(before - target).mean()


def test_inverse_takes_points_back(done):
    _, moving, output = done
    moving = sitk.ReadImage(str(moving))
    forward, back = (sitk.ReadTransform(str(output / name)) for name in ("transform.h5", "inverse.h5"))
    middle = moving.TransformContinuousIndexToPhysicalPoint([0.5 * n for n in moving.GetSize()])
    assert forward.TransformPoint(back.TransformPoint(middle)) == pytest.approx(middle, abs=0.05)


def test_apply_gives_what_register_wrote(done, shell, tmp_path):
    fixed, moving, output = done
    path = tmp_path / moved_path(output).name
    code, out, err = shell("apply", output / "transform.h5", moving, "--reference", fixed, "-o", path)
    assert (code, err) == (0, "")
    assert str(path) in out
    again, moved = (sitk.GetArrayFromImage(sitk.ReadImage(str(name))) for name in (path, moved_path(output)))
    assert np.array_equal(again[moved > 0], moved[moved > 0])


@pytest.mark.parametrize("words", [["--labels"], ["--order", "0"]])
def test_apply_moves_labels_as_simpleitk_does(done, shell, tmp_path, words):
    fixed, moving, output = done
    labels = sitk.Cast(sitk.ReadImage(str(moving)), sitk.sitkInt16) * 7 - 300
    sitk.WriteImage(labels, str(tmp_path / "labels.nii.gz"))
    path = tmp_path / "made" / "moved.nii.gz"
    code, _, err = shell(
        "apply", output / "transform.h5", tmp_path / "labels.nii.gz", "--reference", fixed, "-o", path, *words
    )
    assert (code, err) == (0, "")
    transform = sitk.ReadTransform(str(output / "transform.h5"))
    reference = sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    expected = sitk.Resample(reference, sitk.ReadImage(str(fixed)), transform, sitk.sitkNearestNeighbor, 0)
    moved = sitk.ReadImage(str(path))
    assert moved.GetPixelID() == sitk.sitkInt16
    # Ties between two voxels go either way.
    assert (sitk.GetArrayFromImage(moved) != sitk.GetArrayFromImage(expected)).mean() < 0.002


def test_apply_moves_points_as_simpleitk_does(done, shell, tmp_path):
    fixed, _, output = done
    image = sitk.ReadImage(str(fixed))
    transform = sitk.ReadTransform(str(output / "transform.h5"))
    generator = np.random.default_rng(0)
    points = [
        image.TransformContinuousIndexToPhysicalPoint((generator.uniform(0.2, 0.8, len(size)) * size).tolist())
        for size in [np.array(image.GetSize())] * 4
    ]
    names = ("x_mm", "y_mm", "z_mm")[: image.GetDimension()]
    rows = [",".join(["name", *names]), *(",".join(["tip", *map(repr, point)]) for point in points)]
    (tmp_path / "points.csv").write_text("\n".join(rows))
    code, _, err = shell("apply", output / "transform.h5", tmp_path / "points.csv", "-o", tmp_path / "moved.csv")
    assert (code, err) == (0, "")
    lines = (tmp_path / "moved.csv").read_text().splitlines()
    assert lines[0] == rows[0]
    for line, point in zip(lines[1:], points, strict=True):
        name, *moved = line.split(",")
        assert name == "tip"
        assert [float(value) for value in moved] == pytest.approx(transform.TransformPoint(point), abs=1e-4)


def test_register_prints_progress_on_stderr_and_a_summary_on_stdout(pictures, shell, tmp_path):
    code, out, err = shell("register", *pictures, "-o", tmp_path / "out")
    assert code == 0
    assert "loss" in err
    assert "deformable 1/" in err
    assert "Aligned." in out
    assert "transform.h5" in out


@pytest.mark.usefixtures("at_once")
def test_quiet_is_silent(pictures, shell, tmp_path):
    assert shell("register", *pictures, "-o", tmp_path / "out", "--quiet") == (0, "", "")


@pytest.mark.usefixtures("at_once")
def test_an_existing_folder_is_overwritten_file_by_file(pictures, shell, tmp_path):
    (tmp_path / "moved.png").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    assert shell("register", *pictures, "-o", tmp_path, "--overwrite", "--quiet")[0] == 0
    assert sitk.ReadImage(str(tmp_path / "moved.png")).GetSize() == (36, 40)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("at_once")
def test_the_new_folder_is_as_open_as_the_umask_allows(pictures, shell, tmp_path):
    (tmp_path / "made").mkdir()
    shell("register", *pictures, "-o", tmp_path / "deep" / "out", "--quiet")
    assert (tmp_path / "deep" / "out").stat().st_mode == (tmp_path / "made").stat().st_mode


@pytest.mark.usefixtures("at_once")
def test_untrusted_alignment_is_written_and_said(pictures, shell, tmp_path, monkeypatch):
    outcome = Outcome("untrusted", "The images hardly overlap.")
    result = dataclasses.replace(registration.register(), outcome=outcome)
    monkeypatch.setattr(registration, "register", lambda *_, **__: result)
    code, out, err = shell("register", *pictures, "-o", tmp_path / "out", "--quiet")
    assert (code, out) == (1, "")
    assert "The images hardly overlap." in err
    assert len(list((tmp_path / "out").iterdir())) == 5
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["outcome"]["reason"] == outcome.reason


@pytest.mark.parametrize(("problem", "code"), [(KeyboardInterrupt(), 130), (RuntimeError("a bug\nindeed"), 3)])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.usefixtures("at_once")
def test_what_breaks_off_leaves_nothing_behind(pictures, shell, tmp_path, monkeypatch, problem, code, exists):
    def break_off(*_, **__):
        raise problem

    output = tmp_path / "out"
    if exists:
        output.mkdir()
        (output / "moved.png").write_text("old")
    monkeypatch.setattr("keramorph.report.figure.draw_report", break_off)
    done, out, err = shell("register", *pictures, "-o", output, "--quiet", "--overwrite")
    assert (done, out) == (code, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if exists else [])
    assert not exists or [path.read_text() for path in output.iterdir()] == ["old"]


def test_a_terminated_process_leaves_nothing_behind(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(registration, "register", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(sys, "argv", ["keramorph", "register", *map(str, pictures), "-o", str(tmp_path / "out")])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert end.value.code == 143
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(shell, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        app(["register", "missing.png", "missing.png", "-o", str(tmp_path / "out"), "--debug"])


def test_full_disks_and_small_memories_are_told_in_one_line():
    assert command.explain(OSError(28, "No space left on device", "/out/moved.png"))[0] == 2
    assert "No space left" in command.explain(OSError(28, "No space left on device"))[1]
    assert command.explain(MemoryError())[0] == 2


def test_info_names_versions_and_engines(shell):
    code, out, err = shell("info")
    assert (code, err) == (0, "")
    for word in ("python", "keramorph", "SimpleITK", "numpy", "jax", "torch", "tensorflow", "threads"):
        assert word in out


def test_progress_bar_tells_stage_level_and_loss(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    from keramorph.cli.progress import show_registration

    with show_registration() as show:
        show(Progress("affine", 1, 3, 19, 40, 0.5432, 0.1, "about 7.5 GB"))
        show(Progress("affine", 1, 3, 20, 40, 0.5432, 0.1, "about 7.5 GB"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("GB") == 1
    assert "affine 1/3" in err
    assert "0.5432" in err


def run_python(code, *words):
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.split()[-1], done.stderr


REPORT_MODULES = f"""
import atexit, sys
from keramorph.cli import main
names = {(*HEAVY, "matplotlib.pyplot")!r}
atexit.register(lambda: print("loaded:" + ",".join(name for name in names if name in sys.modules)))
sys.argv[0] = "keramorph"
main()
"""


def test_help_loads_nothing_heavy():
    assert run_python(REPORT_MODULES, "--help") == (0, "loaded:", "")
    assert run_python(REPORT_MODULES, "register", "--help") == (0, "loaded:", "")


def test_register_loads_no_framework_and_no_pyplot(pictures, tmp_path):
    code, loaded, err = run_python(REPORT_MODULES, "register", *pictures, "-o", tmp_path / "out", "--quiet")
    assert (code, err) == (0, "")
    assert not {"keras", "tensorflow", "torch", "jax", "matplotlib.pyplot"} & set(
        loaded.removeprefix("loaded:").split(",")
    )


def test_a_rigid_transform_is_asked_for_and_told(pictures, shell, tmp_path):
    code, shown, _ = shell("register", *pictures, "-o", tmp_path / "out", "--transform", "rigid")
    assert code in (0, 1)
    assert " rigid " in shown
    assert "deformable" not in shown
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["config"]["transform"] == "rigid"
    assert summary["metrics"]["loss_rigid"] <= summary["metrics"]["loss_start"]


@pytest.mark.parametrize("preset", Preset)
def test_presets_reach_the_solver(preset, pictures, shell, tmp_path):
    code, _, _ = shell("register", *pictures, "-o", tmp_path / "out", "--quiet", "--preset", preset.value)
    assert code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["config"] == dataclasses.asdict(Config.preset(preset.value))


def test_the_command_line_offers_what_there_is():
    assert [preset.value for preset in Preset] == list(get_args(config.Preset))
    assert [channels.value for channels in Channels] == list(get_args(config.Channels))
    assert [transform.value for transform in Transform] == list(get_args(config.Transform))
    assert [algorithm.value for algorithm in Algorithm] == list(get_args(config.Algorithm))
    with pytest.raises(OptionError, match=r"fast, default, accurate\. Received: preset='quick'"):
        Config.preset("quick")


@pytest.mark.parametrize("words", [("--metric", "ncc"), ("--config", "metric.yaml")], ids=["option", "file"])
def test_a_named_metric_reaches_the_solver_and_the_summary(words, pictures, shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metric.yaml").write_text("metric: ncc\n")
    code, told, _ = shell("register", *pictures, "-o", tmp_path / "out", *words)
    assert code == 0
    assert "Metric: correlation (as asked for)." in told
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metric"] == {"name": "ncc", "reason": "as asked for"}
    assert summary["config"]["metric"] == "ncc"


def test_the_command_line_offers_the_metrics_that_there_are_and_has_words_for_each():
    names = [metric.value for metric in Metric]
    assert names == list(get_args(config.Metric))
    assert names[1:] == list(scores.METRICS)
    assert yaml.safe_load(format_config(Config(metric="ngf")))["metric"] == "ngf"


def test_parameters_are_shown_and_read_back(shell, tmp_path):
    code, shown, _ = shell("register", "--print-config", "--preset", "fast", "--seed", "7", "--algorithm", "bspline")
    assert code == 0
    file = tmp_path / "config.yaml"
    file.write_text(shown.replace("window: 7.0", "window: 9"))
    code, again, _ = shell("register", "--print-config", "--config", file)
    assert code == 0
    expected = dataclasses.replace(Config.preset("fast"), seed=7, algorithm="bspline", window=9)
    assert yaml.safe_load(again) == dataclasses.asdict(expected)
    for name in dataclasses.asdict(expected):
        assert f"\n{name}: " in f"\n{again}"
    assert "\n# Longest update in one iteration" in again


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("windw: 9\niterations: 1.5\n", ["windw", "did you mean window?", "iterations", "1.5"]),
        ("step: 0.9\n", ["step", "between 0.01 and 0.5", "0.9"]),
        ("search: 1\n", ["search", "1"]),
        ("metric: ssd\n", ["metric", "lncc", "ssd"]),
        ("- a\n", ["names and values", "list"]),
        ("a: [\n", ["YAML", "config.yaml"]),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_key_by_key(shell, pictures, tmp_path, text, words):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    code, _, told = shell("register", *pictures, "-o", tmp_path / "out", "--config", file)
    assert code == 2
    assert not (tmp_path / "out").exists()
    assert all(word in told for word in words)


def test_a_run_is_repeated_from_its_summary(shell, pictures, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    file = tmp_path / "config.yaml"
    file.write_text("iterations: 7\n")
    assert shell("register", *pictures, "-o", first, "--config", file, "--quiet")[0] == 0
    assert shell("register", *pictures, "-o", second, "--config", first / "summary.json", "--quiet")[0] == 0
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (first, second)]
    assert summaries[0]["config"]["iterations"] == 7
    assert summaries[0]["config"] == summaries[1]["config"]
    assert summaries[0]["metrics"]["loss_deformable"] == summaries[1]["metrics"]["loss_deformable"]


def test_landmarks_and_labels_are_taken(shell, pictures, tmp_path):
    points = np.array([[-6.0, -5.0], [7.0, 2.0], [-3.0, 8.0]])
    shown = []
    for name, path, shift in zip(("fixed", "moving"), pictures, (0.0, 1.5), strict=True):
        rows = ["name,x,y", *(f"p{k},{x},{y}" for k, (x, y) in enumerate(points + shift))]
        (tmp_path / f"{name}.csv").write_text("\n".join(rows))
        image = sitk.ReadImage(str(path))
        labels = sitk.Cast(image > 100, sitk.sitkUInt8)
        sitk.WriteImage(labels, str(tmp_path / f"{name}.nii.gz"))
        shown += [f"--{name}-landmarks", tmp_path / f"{name}.csv", f"--{name}-labels", tmp_path / f"{name}.nii.gz"]
    code, _, told = shell("register", *pictures, "-o", tmp_path / "out", "--quiet", *shown)
    assert (code, told) == (0, "")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metrics"]["landmarks_start_mm"] == pytest.approx(1.5 * 2**0.5)
    assert summary["metrics"]["landmarks_mean_mm"] < 0.5
    assert summary["landmarks"] == [str(tmp_path / f"{name}.csv") for name in ("fixed", "moving")]
    assert summary["labels"] == [str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving")]
    code, _, told = shell("register", *pictures, "-o", tmp_path / "other", *shown[:2])
    assert code == 2
    assert "landmarks of the fixed image alone" in told


def test_a_start_and_masks_are_taken(shell, pictures, done, tmp_path):
    fixed, moving, output = done
    mask = tmp_path / "mask.nii.gz"
    image = sitk.ReadImage(str(fixed))
    drawn = sitk.GetImageFromArray(np.ones(image.GetSize()[::-1], "uint8"))
    drawn.CopyInformation(image)
    sitk.WriteImage(drawn, str(mask))
    words = ["--initial", output / "transform.h5", "--fixed-mask", mask, "--time-budget", "60", "--quiet"]
    code, _, told = shell("register", fixed, moving, "-o", tmp_path / "out", *words)
    assert (code, told) == (0, "")
    before, after = (
        json.loads((folder / "summary.json").read_text())["metrics"]["loss_deformable"]
        for folder in (output, tmp_path / "out")
    )
    assert after <= before + 1e-6


def test_further_images_are_channels_with_masks_of_their_own(shell, volumes, tmp_path):
    fixed, moving = volumes
    also, masks = [tmp_path / "t2_fixed.nii.gz", tmp_path / "t2_moving.nii.gz"], []
    for path, further in zip(volumes, also, strict=True):
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(sitk.Sqrt(sitk.Cast(255 - image, sitk.sitkFloat32)), str(further))
        masks.append(tmp_path / f"mask_of_{further.name}")
        sitk.WriteImage(sitk.Cast(image >= 0, sitk.sitkUInt8), str(masks[-1]))
    words = ["--also-fixed", also[0], "--also-moving", also[1], "--fixed-mask", masks[0], "--fixed-mask", masks[0]]
    words += ["--moving-mask", masks[1], "--channels", "each", "--quiet", "--threads", "1"]
    code, _, told = shell("register", fixed, moving, "-o", tmp_path / "out", *words)
    assert (code, told) == (0, "")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["inputs"]["fixed"]["path"] == str(fixed)
    assert (summary["inputs"]["also_fixed"], summary["inputs"]["also_moving"]) == ([str(also[0])], [str(also[1])])
    assert summary["masks"] == [[str(masks[0])] * 2, str(masks[1])]
    assert summary["config"]["channels"] == "each"
    expected = registration.register(
        [fixed, also[0]], [moving, also[1]], masks=([masks[0], masks[0]], masks[1]), config=Config(channels="each")
    )
    assert summary["metrics"]["loss_deformable"] == pytest.approx(expected.metrics["loss_deformable"], abs=1e-6)
    code, _, told = shell("register", fixed, moving, "-o", tmp_path / "other", *words[:2])
    assert code == 2
    assert "2 fixed and 1 moving images" in told
    inside = tmp_path / "moved.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(also[0])), str(inside))
    code, _, told = shell("register", fixed, moving, "-o", tmp_path, "--overwrite", "--also-fixed", inside)
    assert code == 2
    assert "replace an input" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--already-aligned", "--initial", "x.h5"], "one start"),
        (["--device", "cuda"], "numpy:cuda"),
        (["--engine", "cupy"], "cupy"),
        (["--metric", "cc"], "cc"),
    ],
)
def test_options_that_contradict_each_other_are_refused(shell, pictures, tmp_path, words, told):
    code, _, said = shell("register", *pictures, "-o", tmp_path / "out", *words)
    assert code == 2
    assert told in said
    assert not (tmp_path / "out").exists()


def test_two_images_and_a_folder_are_asked_for(shell, pictures):
    for words in ([], pictures[:1], pictures):
        code, _, told = shell("register", *words)
        assert code == 2
        assert "nothing" in told
