"""Keras metrics against the NumPy functions; in fit, saved and loaded; and that the functions do without Keras."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from keramorph.errors import ShapeError
from keramorph.metrics import Dice, DicePerLabel, FoldingShare, dice, folding_share

METRICS = [Dice(), DicePerLabel(4), FoldingShare()]


def draw_labels(seed, shape=(3, 6, 7)):
    """Each sample has another share of each label, and the first none of label 3."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, 3 + (i > 0), size=shape[1:]) for i in range(shape[0])])


def one_hot(labels, count=4):
    return np.eye(count, dtype="float32")[labels]


def to_numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def expect_each(fixed, moved):
    """Dice by sample and label, nan where neither map has it."""
    return np.array([list(dice(f, m, labels=range(4)).values()) for f, m in zip(fixed, moved, strict=True)])


def test_dice_is_the_mean_over_labels_then_samples():
    fixed, moved = draw_labels(0), draw_labels(1)
    expected = np.nanmean(expect_each(fixed, moved), axis=1)
    metric = Dice()
    metric.update_state(one_hot(fixed[:2]), one_hot(moved[:2]))
    metric.update_state(one_hot(fixed[2:]), one_hot(moved[2:]))
    np.testing.assert_allclose(to_numpy(metric.result()), expected.mean(), rtol=1e-6)
    metric.reset_state()
    metric.update_state(one_hot(fixed), one_hot(moved), sample_weight=[1.0, 0.0, 3.0])
    np.testing.assert_allclose(to_numpy(metric.result()), np.average(expected, weights=[1, 0, 3]), rtol=1e-6)


def test_dice_per_label_is_the_mean_over_the_samples_that_have_it():
    fixed, moved = draw_labels(0), draw_labels(1)
    metric = DicePerLabel(5)
    metric.update_state(one_hot(fixed[:2], 5), one_hot(moved[:2], 5))
    metric.update_state(one_hot(fixed[2:], 5), one_hot(moved[2:], 5))
    expected = np.append(np.nanmean(expect_each(fixed, moved), axis=0), np.nan)
    np.testing.assert_allclose(to_numpy(metric.result()), expected, rtol=1e-6)


def test_the_most_probable_label_counts_and_an_unlisted_background_may_win():
    fixed = one_hot(np.array([[0, 0, 1, 1, 1]]), 2)
    moved = np.array([[[0.6, 0.4], [0.4, 0.6], [0.1, 0.9], [0.2, 0.3], [0.0, 0.0]]], "float32")
    expected = [2 / 3, 2 / 5]  # the last two voxels are background: 0.5 and 1 are left over
    np.testing.assert_allclose(to_numpy(DicePerLabel(2)(fixed, moved)), expected, rtol=1e-6)
    np.testing.assert_allclose(to_numpy(DicePerLabel(2)(fixed, keras.ops.cast(moved, "float16"))), expected, rtol=1e-3)


def test_a_sample_without_labels_does_not_count():
    fixed, moved = one_hot(draw_labels(0)), one_hot(draw_labels(1))
    fixed[1], moved[1] = 0, 0
    expected = to_numpy(Dice()(fixed[[0, 2]], moved[[0, 2]]))
    np.testing.assert_allclose(to_numpy(Dice()(fixed, moved)), expected, rtol=1e-6)


def test_unequal_numbers_of_labels_are_named():
    with pytest.raises(ShapeError, match=r"Received: y_true\.shape"):
        Dice()(np.zeros((1, 5, 3), "float32"), np.zeros((1, 5, 4), "float32"))
    with pytest.raises(ShapeError, match="Build it with num_labels=4"):
        DicePerLabel(3)(np.zeros((1, 5, 4), "float32"), np.zeros((1, 5, 4), "float32"))


def test_folding_share_is_that_of_the_function():
    field = np.random.default_rng(0).normal(size=(4, 6, 7, 2)).astype("float32")
    field[1] *= 0.1
    metric = FoldingShare()
    for part in (field[:3], field[3:]):
        metric.update_state(np.zeros((len(part), 1)), part)
    expected = folding_share(field)
    assert expected[1] == 0 < expected[0]
    np.testing.assert_allclose(to_numpy(metric.result()), expected.mean(), rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metric_survives_serialisation(metric):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(copy) is type(metric)
    assert copy.get_config() == metric.get_config()
    assert keras.saving.get_registered_name(type(metric)) == f"keramorph>{type(metric).__name__}"


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_metrics_follow_a_fit(dtype):
    image = keras.Input((None, None, 1))
    labels = keras.layers.Conv2D(4, 3, padding="same", activation="softmax", dtype=dtype, name="labels")(image)
    field = keras.layers.Conv2D(2, 3, padding="same", dtype=dtype, name="field")(image)
    model = keras.Model(image, [labels, field])
    model.compile("adam", loss="mse", metrics=[[Dice(), DicePerLabel(4)], [FoldingShare()]])
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 6, 7, 1)).astype("float32")
    targets = [one_hot(draw_labels(0)), np.zeros((3, 6, 7, 2), "float32")]
    history = model.fit(images, targets, batch_size=2, verbose=0).history
    assert 0 <= history["labels_dice"][0] <= 1
    assert np.shape(history["labels_dice_per_label"][0]) == (4,)
    assert 0 <= history["field_folding_share"][0] <= 1


def test_the_functions_import_no_framework():
    code = (
        "import sys\n"
        "from keramorph.metrics import dice, folding_share, hausdorff95, landmark_error, log_jacobian_sd\n"
        "import numpy as np\n"
        "folding_share(np.zeros((1, 3, 3, 2)))\n"
        "loaded = {'keras', 'torch', 'jax', 'tensorflow'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "import keramorph.metrics\n"
        "assert 'Dice' in dir(keramorph.metrics)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
