"""The demo's slice, its deformations and the truth that the demo judges by; no framework is needed."""

import doctest

import numpy as np
import pytest
from scipy import ndimage

from keramorph.cli import app
from keramorph.cli.demonstration import scene as scenes


@pytest.fixture(scope="module")
def anatomy():
    return scenes.read_slice()


def test_slice_is_the_head_that_matplotlib_has(anatomy):
    assert anatomy.shape == (256, 256)
    assert (anatomy.min(), anatomy.max()) == (0, 1)
    # Read in the wrong byte order the values are the same but 256 times larger, and noise would not be smooth.
    assert np.abs(np.diff(anatomy, axis=1)).mean() < 0.03
    assert anatomy[100:150, 80:160].mean() > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_deformations_are_diffeomorphic_and_as_large_as_asked_for(seed):
    displacement = scenes.draw_displacement(np.random.default_rng(seed), (96, 80), largest=9.0)
    assert 4 < np.linalg.norm(displacement, axis=-1).max() < 11
    rows, columns = (np.gradient(displacement, axis=axis) for axis in (0, 1))
    determinant = (1 + rows[..., 0]) * (1 + columns[..., 1]) - rows[..., 1] * columns[..., 0]
    assert determinant.min() > 0


def test_true_displacement_turns_moving_into_fixed(anatomy, monkeypatch):
    monkeypatch.setattr(scenes, "change_contrast", lambda picture, _: picture)
    scene = scenes.make_scene(anatomy, np.random.default_rng(3))
    points = np.indices(anatomy.shape) + np.moveaxis(scene.displacement, -1, 0)
    moved = ndimage.map_coordinates(scene.moving, points, order=1, mode="nearest")
    assert np.abs(moved - scene.fixed).max() < 1e-4


def test_contrasts_differ_but_anatomy_does_not(anatomy):
    generator = np.random.default_rng(0)
    first, second = (scenes.change_contrast(anatomy, generator) for _ in range(2))
    head = scenes.find_head(anatomy)
    assert np.abs(first - second)[head].mean() > 0.02
    assert np.corrcoef(first[head], second[head])[0, 1] > 0.9
    assert first.dtype == np.float32


def test_head_is_one_piece_without_holes(anatomy):
    head = scenes.find_head(anatomy)
    assert 0.3 < head.mean() < 0.6
    assert ndimage.label(head)[1] == 1
    assert np.array_equal(ndimage.binary_fill_holes(head), head)
    assert head[128, 128]
    assert not head[5, 5]
    assert scenes.find_head(np.zeros((20, 20))).all()


def test_answers_are_judged_inside_the_head(anatomy):
    scene = scenes.make_scene(anatomy, np.random.default_rng(1))
    off = scene.displacement + np.where(scene.head[..., None], (0.3, 0.4), (50.0, 50.0))
    answer = scenes.Answer(scene, off, scene.fixed, seconds=1.0)
    before = np.sqrt((scene.displacement**2).sum(axis=-1))[scene.head].mean()
    assert answer.endpoint_errors == pytest.approx((before, 0.5), abs=1e-5)
    assert answer.image_errors[0] > 0.02
    assert answer.image_errors[1] == pytest.approx(0, abs=1e-6)


def test_demo_without_a_backend_registers_and_says_how_to_get_one(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("keramorph.cli.demo.BACKENDS", ("no_such_framework",))
    with pytest.raises(SystemExit) as end:
        app(["demo", "-o", str(tmp_path / "demo")])
    out, _ = capsys.readouterr()
    assert not end.value.code
    assert "pip install" in out
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["register.png"]
    before, after = (float(word) for word in out.split("endpoint error")[1].split()[:2])
    assert after < before / 4


def test_examples_run():
    tried = doctest.testmod(scenes)
    assert tried.attempted
    assert not tried.failed
