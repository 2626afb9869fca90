"""The demo's network: what it is made of, that it learns, and what the demo shows of it."""

import numpy as np
import pytest

from keramorph._keras import keras
from keramorph.cli import app
from keramorph.cli.demonstration import network
from keramorph.cli.demonstration.picture import write_answer
from keramorph.cli.demonstration.scene import Answer, make_scene


@pytest.fixture(scope="module")
def anatomy():
    rows, columns = np.mgrid[:32, :40]
    disc = np.exp(-((rows - 16) ** 2 + (columns - 20) ** 2) / 120)
    return (disc * (0.7 + 0.3 * np.sin(rows / 2) * np.sin(columns / 3))).astype("float32")


def test_network_takes_two_pictures_and_gives_moved_and_displacement():
    model = network.build_network()
    pictures = np.random.default_rng(0).random((2, 1, 200, 200, 1), dtype="float32")
    moved, displacement = model([pictures[0], pictures[1]])
    assert tuple(moved.shape) == (1, 200, 200, 1)
    assert tuple(displacement.shape) == (1, 200, 200, 2)


def test_batches_are_pairs_of_different_copies(anatomy):
    copies = network.bend_copies(anatomy, np.random.default_rng(0), count=4)
    (fixed, moving), (target, _) = next(network.draw_batches(copies, np.random.default_rng(1)))
    assert fixed.shape == moving.shape == (1, 32, 40, 1)
    assert min(fixed.strides) >= 0
    assert target is fixed
    assert np.abs(fixed - moving).mean(axis=(1, 2, 3)).min() > 0.01


def test_network_learns(anatomy):
    model = network.build_network((32, 40))
    copies = network.bend_copies(anatomy, np.random.default_rng(0), count=2)
    pair = next(network.draw_batches(copies, np.random.default_rng(1)))
    losses = [float(model.train_on_batch(*pair)[0]) for _ in range(60)]
    assert losses[-1] < losses[0] - 0.05


def test_demo_trains_shows_and_writes(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "STEPS", 2)
    monkeypatch.setattr(network, "COPIES", 4)
    monkeypatch.setattr("keramorph.cli.demo._register", lambda folder: None)
    with pytest.raises(SystemExit) as end:
        app(["demo", "-o", str(tmp_path / "demo"), "--debug"])
    out, _ = capsys.readouterr()
    assert not end.value.code
    assert keras.backend.backend() in out
    assert "Warp()([moving, displacement])" in out
    assert '"""' not in out
    assert "endpoint error" in out
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["network.png"]


def test_picture_of_an_answer_is_written(anatomy, tmp_path):
    scene = make_scene(anatomy, np.random.default_rng(0), largest=3.0)
    write_answer(Answer(scene, 0.5 * scene.displacement, scene.moving, 1.0), tmp_path / "network.png")
    assert (tmp_path / "network.png").read_bytes()[:4] == b"\x89PNG"
