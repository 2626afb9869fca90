"""Evaluations: scores of pairs whose displacement is known, beside naive loops."""

import numpy as np
import pytest
import SimpleITK as sitk

from keramorph.evaluation import EvaluationPair, PairScores, average_scores, evaluate_pairs, write_figure


class Shift:
    """A network that finds a shift by whole voxels along the rows: its grid has those of the fixed image."""

    ndim, voxels = 2, 12

    def __init__(self, rows):
        self.rows = rows

    def predict(self, fixed, moving):
        displacement = np.zeros((*fixed.shape[:-1], 2), "float32")
        displacement[..., 0] = self.rows
        return displacement


class Fold(Shift):
    """A network that folds half of the grid over."""

    def predict(self, fixed, moving):
        displacement = super().predict(fixed, moving)
        half = displacement.shape[1] // 2
        displacement[:, :half, :, 0] = -2.0 * np.arange(half)[:, None]
        return displacement


@pytest.fixture
def pair(tmp_path):
    """Random images and labels, the moving ones elsewhere: their middles are what corresponds."""
    generator = np.random.default_rng(3)
    arrays = {
        "fixed": generator.random((12, 10)),
        "moving": generator.random((12, 10)),
        "fixed_labels": generator.integers(0, 4, (12, 10)).astype("uint8"),
        "moving_labels": generator.integers(0, 3, (12, 10)).astype("uint8"),
    }
    for name, array in arrays.items():
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.5, 2.0))
        image.SetOrigin((100.0, -50.0) if "moving" in name else (0.0, 0.0))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    files = {name: tmp_path / f"{name}.nii.gz" for name in arrays}
    points = np.array([[3.0, 4.0], [6.0, 8.0]])
    moved = points + np.array([[100.0, -48.0], [101.5, -48.0]])
    return EvaluationPair(**files, fixed_landmarks=points, moving_landmarks=moved), arrays


def shift_rows(array, rows):
    """What lies `rows` further down, nothing where that is outside: by loops."""
    moved = np.zeros_like(array)
    for i in range(array.shape[0]):
        for j in range(array.shape[1]):
            if i + rows < array.shape[0]:
                moved[i, j] = array[i + rows, j]
    return moved


def count_dice(one, other, label):
    both = first = second = 0
    for a, b in zip(one.ravel(), other.ravel(), strict=True):
        both += (a == label) and (b == label)
        first += a == label
        second += b == label
    return 2 * both / (first + second)


@pytest.mark.parametrize("rows", [0, 1])
def test_scores_are_those_of_naive_loops(pair, rows):
    known, arrays = pair
    (scores,) = evaluate_pairs(Shift(rows), [known])
    for overlap, by in ((scores.dice, rows), (scores.dice_before, 0)):
        moved = shift_rows(arrays["moving_labels"], by)
        assert overlap == {label: count_dice(arrays["fixed_labels"], moved, label) for label in (1, 2, 3)}
    inside = slice(0, 12 - rows)
    moved = shift_rows(arrays["moving"], rows)[inside]
    expected = np.corrcoef(arrays["fixed"][inside].ravel(), moved.ravel())[0, 1]
    assert scores.correlation == pytest.approx(expected, abs=1e-6)
    # One row is 2 mm: the first landmark is met, the second missed by 1.5 mm along the columns.
    assert scores.tre == pytest.approx({0: (2.0 + 2.5) / 2, 1: (0.0 + 1.5) / 2}[rows], abs=1e-6)
    assert scores.tre_before == pytest.approx((2.0 + 2.5) / 2, abs=1e-6)
    assert scores.folds_percent == 0.0
    assert scores.seconds > 0


def test_labels_that_are_asked_for_are_scored_alone(pair):
    (scores,) = evaluate_pairs(Shift(0), [pair[0]], labels=(3, 1))
    assert set(scores.dice) == {1, 3}


def test_folds_are_counted_on_the_grid_of_the_network(pair):
    (scores,) = evaluate_pairs(Fold(0), [pair[0]])
    # Rows 0 to 4 of 12 run backwards; in row 5 the central difference leads over the edge of the fold, by 10 rows.
    assert scores.folds_percent == pytest.approx(100 * 5 / 12, abs=1e-6)
    # The landmarks lie in rows 2 and 4, which are moved up by 4 and 8 rows of 2 mm, before the middles are laid upon
    # each other: they end 10 mm above their counterparts, and 18 mm above and 1.5 mm beside them.
    assert scores.tre == pytest.approx((10.0 + np.hypot(18.0, 1.5)) / 2, abs=1e-5)


def test_what_is_not_known_is_not_scored(pair):
    done = []
    plain = EvaluationPair(pair[0].fixed, pair[0].moving)
    scores = evaluate_pairs(Shift(0), [plain, pair[0]], progress=lambda *count: done.append(count))
    assert (scores[0].dice, scores[0].tre, scores[0].mean_dice) == ({}, None, None)
    assert done == [(1, 2), (2, 2)]
    means = average_scores(scores)
    assert means["mean_dice"] == scores[1].mean_dice
    assert means["tre"] == scores[1].tre


def test_means_are_over_the_pairs_that_have_the_label():
    def score(dice):
        return PairScores("a", "b", dice, {}, None, None, 1.0, 0.5, 0.5, 1.0)

    means = average_scores([score({1: 0.5, 2: float("nan")}), score({1: 0.7}), score({2: 0.9})])
    assert means["dice"] == pytest.approx({1: 0.6, 2: 0.9})
    assert means["mean_dice"] == pytest.approx((0.5 + 0.7 + 0.9) / 3)
    assert means["mean_dice_before"] is None
    assert means["tre"] is None


def test_the_figure_shows_what_there_is(pair, tmp_path):
    known, _ = pair
    write_figure(evaluate_pairs(Shift(0), [known, known]), tmp_path / "with.png")
    write_figure(evaluate_pairs(Shift(0), [EvaluationPair(known.fixed, known.moving)]), tmp_path / "without.png")
    sizes = [sitk.ReadImage(str(tmp_path / name)).GetWidth() for name in ("with.png", "without.png")]
    assert sizes[0] > sizes[1] > 100


def test_many_labels_are_drawn_one_row_below_the_other(tmp_path):
    scores = [
        PairScores("a", "b", dict.fromkeys(range(count), 0.8), {}, None, None, 0.0, 0.9, 0.5, 1.0) for count in (19, 50)
    ]
    for name, one in zip("ab", scores, strict=True):
        write_figure([one], tmp_path / f"{name}.png")
    few, many = (sitk.ReadImage(str(tmp_path / f"{name}.png")).GetSize() for name in "ab")
    assert many[1] == 3 * few[1]
    assert many[0] <= few[0]
