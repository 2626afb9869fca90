"""Augmentations and painted images: formulas, moments, SciPy's blur, and nothing done where nothing is asked."""

import keras
import numpy as np
import pytest
from scipy import ndimage

from keramorph.errors import OptionError, ShapeError
from keramorph.synthesis import (
    ImageFromLabels,
    RandomBias,
    RandomBlur,
    RandomFieldOfView,
    RandomGamma,
    RandomLesions,
    RandomNoise,
    RandomSlices,
)

pytestmark = pytest.mark.usefixtures("compile_quickly")

STRONG = {
    RandomBias: {"sd": (0.3, 0.5), "scale": 4.0},
    RandomBlur: {"sigma": (0.5, 1.5)},
    RandomFieldOfView: {"lost": (0.4, 0.6), "probability": 1.0},
    RandomGamma: {"sd": (0.5, 0.5)},
    RandomLesions: {"radius": 2.0, "probability": 1.0},
    RandomNoise: {"sd": (0.1, 0.2)},
    RandomSlices: {"thickness": (2.0, 3.0), "probability": 1.0},
}
IDLE = {
    RandomBias: {"sd": 0.0},
    RandomBlur: {"sigma": 0.0},
    RandomFieldOfView: {"lost": 0.0, "probability": 1.0},
    RandomGamma: {"sd": 0.0},
    RandomLesions: {"probability": 0.0},
    RandomNoise: {"sd": 0.0},
    RandomSlices: {"thickness": 1.0, "probability": 1.0},
}


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype="float32")


def each_effect():
    return pytest.mark.parametrize("effect", STRONG, ids=lambda effect: effect.__name__)


@each_effect()
def test_each_image_is_changed_in_its_own_way_and_only_in_training(effect):
    image = np.repeat(draw(1, 5, 6, 7, 1), 2, axis=0)
    layer = effect(**STRONG[effect], seed=1)
    changed = to_numpy(layer(image, training=True))
    assert changed.shape == image.shape
    assert changed.dtype == "float32"
    assert np.abs(changed - image).max(axis=(1, 2, 3, 4)).min() > 1e-3
    assert np.abs(changed[0] - changed[1]).max() > 1e-3
    assert np.abs(to_numpy(layer(image, training=True)) - changed).max() > 1e-3
    np.testing.assert_array_equal(to_numpy(layer(image, training=False)), image)


@each_effect()
def test_no_strength_leaves_an_image_as_it_is(effect):
    image = draw(2, 5, 6, 7, 1) * 3 - 1
    np.testing.assert_allclose(to_numpy(effect(**IDLE[effect])(image)), image, atol=2e-6)


@each_effect()
def test_constant_images_stay_finite(effect):
    image = np.full((2, 5, 6, 7, 1), 2, dtype="uint8")
    changed = to_numpy(effect(**STRONG[effect])(image))
    assert changed.dtype == "float32"
    assert np.isfinite(changed).all()


@pytest.mark.parametrize("sigma", [0.3, 0.7, 2.6])
def test_blur_is_scipys(sigma):
    """Up to a Gaussian that is longer than the image, which is then mirrored more than once."""
    image = draw(2, 5, 6, 7, 2)
    blurred = to_numpy(RandomBlur(sigma=(sigma, sigma))(image))
    expected = ndimage.gaussian_filter(image, (0, sigma, sigma, sigma, 0))
    np.testing.assert_allclose(blurred, expected, atol=2e-6)


def test_blur_has_another_width_in_each_image_and_along_each_axis():
    """The variance of a blurred point along an axis is the square of the width there."""
    image = np.zeros((60, 25, 25, 1), dtype="float32")
    image[:, 12, 12] = 1
    blurred = to_numpy(RandomBlur(sigma=(1.0, 2.0), seed=2)(image))[..., 0]
    distance = (np.arange(25.0) - 12) ** 2
    sigma = np.sqrt([blurred.sum(axis=2) @ distance, blurred.sum(axis=1) @ distance])
    assert sigma.min() == pytest.approx(1.0, abs=0.05)
    assert sigma.max() == pytest.approx(2.0, abs=0.05)
    assert sigma.std() == pytest.approx(1 / np.sqrt(12), abs=0.05)
    assert abs(np.corrcoef(sigma)[0, 1]) < 0.5


def slice_naively(line, thickness, start):
    """Means of slices whose middle lies in the line, joined linearly: by a sum over a thousandth of a voxel."""
    fine = np.repeat(line, 1000)
    middles, means = [], []
    for j in range(-2, len(line) + 2):
        left, right = start + j * thickness, start + (j + 1) * thickness
        if 0 <= (left + right) / 2 <= len(line):
            low, high = (int(np.clip(round(1000 * x), 0, len(fine))) for x in (left, right))
            middles.append((left + right) / 2)
            means.append(fine[low:high].mean())
    return np.interp(np.arange(len(line)) + 0.5, middles, means)


@pytest.mark.parametrize(("thickness", "start"), [(1.0, 0.0), (3.0, 0.0), (2.5, 1.0), (4.0, 2.75), (12.0, 5.0)])
def test_slices_are_means_joined_by_lines(thickness, start):
    from keramorph.synthesis.random_slices import _weigh

    line = draw(12)
    weights = to_numpy(_weigh(*(keras.ops.convert_to_tensor([x], dtype="float32") for x in (thickness, start)), 12))
    np.testing.assert_allclose(weights[0] @ line, slice_naively(line, thickness, start), atol=2e-3)


def test_slices_lie_along_one_axis_of_each_image_and_every_axis_has_its_turn():
    image = np.repeat(draw(1, 12, 12, 1), 60, axis=0)
    sliced = to_numpy(RandomSlices(thickness=(4.0, 4.0), probability=0.5, seed=3)(image))[..., 0]
    # Along the axis of the slices a line is made of few straight pieces: its second differences mostly vanish.
    bends = np.stack([np.abs(np.diff(sliced, 2, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)])
    same = np.abs(sliced - image[..., 0]).max(axis=(1, 2)) < 1e-5
    assert 0.3 < same.mean() < 0.7
    along = bends[0] < 0.5 * bends[1]
    across = bends[1] < 0.5 * bends[0]
    assert (along | across | same).all()
    assert along.sum() > 5
    assert across.sum() > 5


def test_gamma_is_a_power_between_the_limits_of_the_image():
    image = np.repeat(np.linspace(-1, 3, 30, dtype="float32").reshape(1, 5, 6, 1), 400, axis=0)
    bent = to_numpy(RandomGamma(sd=(0.4, 0.4), seed=4)(image)).reshape(400, 30)
    unit = (image.reshape(400, 30) + 1) / 4
    power = np.log((bent[:, 15] + 1) / 4) / np.log(unit[:, 15])
    np.testing.assert_allclose(bent, -1 + 4 * unit ** power[:, None], atol=1e-4)
    assert np.log(power).std() == pytest.approx(0.4, rel=0.12)
    assert np.log(power).mean() == pytest.approx(0.0, abs=0.08)


def test_bias_is_one_smooth_factor_for_all_channels():
    image = np.broadcast_to(np.array([1.0, 3.0], "float32"), (500, 12, 10, 2))
    lit = to_numpy(RandomBias(sd=(0.3, 0.3), scale=5.0, seed=5)(image))
    np.testing.assert_allclose(lit[..., 1], 3 * lit[..., 0], rtol=1e-5)
    logarithm = np.log(lit[..., 0])
    np.testing.assert_allclose(logarithm.std(axis=0), 0.3, rtol=0.15)
    assert np.abs(np.diff(logarithm, axis=1)).max() < 0.45


def test_noise_has_the_deviation_asked_for():
    noisy = to_numpy(RandomNoise(sd=(0.1, 0.3), seed=6)(np.full((200, 20, 20, 1), 5.0, "float32")))
    deviation = noisy.std(axis=(1, 2, 3))
    assert noisy.mean() == pytest.approx(5.0, abs=0.01)
    assert deviation.mean() == pytest.approx(0.2, abs=0.02)
    assert deviation.min() == pytest.approx(0.1, abs=0.02)
    assert deviation.max() == pytest.approx(0.3, abs=0.03)


def test_field_of_view_is_a_box_of_the_size_asked_for():
    image = 1 + draw(80, 20, 10, 2)
    image[:, 3, 3] = 0.5
    cut = to_numpy(RandomFieldOfView(lost=(0.2, 0.2), probability=0.5, seed=7)(image))
    assert set(np.unique(cut[cut != image])) == {0.5}
    kept = (cut > 0.5).all(axis=-1)
    whole = kept.sum(axis=(1, 2)) == 199
    assert 0.3 < whole.mean() < 0.7
    rows, columns = kept[~whole].any(axis=2).sum(axis=1), kept[~whole].any(axis=1).sum(axis=1)
    assert set(rows) == {16}
    assert set(columns) == {8}
    # A box has no holes but the darkest voxel, which is 0.5 by itself.
    assert set(kept[~whole].sum(axis=(1, 2))) <= {127, 128}
    assert len({tuple(np.flatnonzero(one.any(axis=1))) for one in kept[~whole]}) > 3


def test_lesions_are_spots_of_one_intensity_and_of_the_size_asked_for():
    image = np.zeros((200, 41, 41, 1), dtype="float32")
    image[:, 0, 0], image[:, 0, 1] = -1.0, 2.0
    spotted = to_numpy(RandomLesions(count=1, radius=(6.0, 6.0), probability=0.5, seed=8)(image))[..., 0]
    changed = np.abs(spotted - image[..., 0]) > 1e-3
    area = changed.sum(axis=(1, 2))
    assert 0.35 < (area > 0).mean() < 0.65
    middle = [i for i in range(200) if area[i] and not changed[i, [0, -1]].any() and not changed[i, :, [0, -1]].any()]
    # A rim of about one voxel, and an outline whose irregularity adds to the mean of the squared radius.
    assert np.mean(area[middle]) == pytest.approx(np.pi * 6.5**2, rel=0.2)
    spots = [spotted[i][changed[i]] for i in middle]
    assert all(spot.min() >= -1 and spot.max() <= 2 for spot in spots)
    assert np.mean([np.mean(np.abs(spot - np.median(spot)) < 1e-5) for spot in spots]) > 0.6
    assert np.std([np.median(spot) for spot in spots]) == pytest.approx(3 / np.sqrt(12), rel=0.25)


class Recorder(keras.layers.Layer):
    """Keeps what it is called with."""

    def call(self, image, training=None):
        self.seen = to_numpy(image)
        self.training = training
        return image


def stripes(count, labels, size=40):
    return np.broadcast_to(np.arange(labels).repeat(size)[None, :, None, None], (count, labels * size, 25, 1))


def test_labels_are_painted_by_means_and_deviations_of_their_own():
    recorder = Recorder()
    layer = ImageFromLabels(4, mean=(0.2, 0.8), sd=(0.05, 0.1), black_background=0.0, effects=[recorder], seed=9)
    image = to_numpy(layer(stripes(100, 4)))
    assert recorder.training is True
    tissue = recorder.seen.reshape(100, 4, -1)
    mean, deviation = tissue.mean(axis=-1), tissue.std(axis=-1)
    assert mean.min() > 0.18
    assert mean.max() < 0.82
    assert mean.mean() == pytest.approx(0.5, abs=0.04)
    assert mean.std() == pytest.approx(0.6 / np.sqrt(12), abs=0.02)
    assert deviation.min() == pytest.approx(0.05, abs=0.005)
    assert deviation.max() == pytest.approx(0.1, abs=0.01)
    assert np.abs(np.corrcoef(mean.T) - np.eye(4)).max() < 0.4
    low, high = (limit(recorder.seen, axis=(1, 2, 3), keepdims=True) for limit in (np.min, np.max))
    np.testing.assert_allclose(image, (recorder.seen - low) / (high - low), atol=1e-5)


def test_background_is_black_in_the_share_of_images_asked_for():
    recorder = Recorder()
    ImageFromLabels(4, black_background=0.3, effects=[recorder], seed=10)(stripes(100, 4))
    black = (recorder.seen[:, :40] == 0).all(axis=(1, 2, 3))
    assert 0.16 < black.mean() < 0.44
    assert (recorder.seen[:, 40:] != 0).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_labels_of_any_data_type_larger_ones_as_the_largest(dtype):
    recorder = Recorder()
    labels = np.array([0, 1, 2, 3, 200]).astype(dtype).reshape(1, 5, 1)
    ImageFromLabels(4, sd=0.0, black_background=0.0, effects=[recorder], seed=11)(labels)
    values = recorder.seen.ravel()
    assert values[3] == values[4]
    assert len(set(values.tolist())) == 4


def test_default_images_run_from_0_to_1_and_differ():
    labels = np.repeat(np.random.default_rng(0).integers(0, 4, (1, 5, 6, 7, 1)), 2, axis=0)
    image = to_numpy(ImageFromLabels(4, seed=12)(labels))
    assert image.shape == labels.shape
    assert image.dtype == "float32"
    np.testing.assert_allclose(image.min(axis=tuple(range(1, image.ndim))), 0, atol=1e-6)
    np.testing.assert_allclose(image.max(axis=tuple(range(1, image.ndim))), 1, atol=1e-6)
    assert np.abs(image[0] - image[1]).mean() > 0.05


def test_what_cannot_be_done_is_refused():
    for effect, name in [(RandomBlur, "sigma"), (RandomNoise, "sd"), (RandomSlices, "thickness")]:
        with pytest.raises(OptionError, match=rf"{name}.*Received: "):
            effect(**{name: (2.0, -1.0)})
        with pytest.raises(ShapeError, match=r"Received: "):
            effect()(draw(5, 6))
    with pytest.raises(OptionError, match=r"lost.*Received: "):
        RandomFieldOfView(lost=1.0)
    with pytest.raises(OptionError, match=r"probability.*Received: "):
        RandomSlices(probability=1.5)
    with pytest.raises(OptionError, match=r"count.*Received: "):
        RandomLesions(count=-1)
    with pytest.raises(ShapeError, match=r"label maps.*Received: "):
        ImageFromLabels(3)(draw(1, 5, 6, 2))
